"""Checks the GPU's own path: the Triton kernel and the engine against the plainest computation that is right.

    python scripts/check_gpu.py

Everything is drawn at random, so that no model is needed. Prints one line a check and ends with an error if one fails.
"""

from __future__ import annotations

import copy
import sys

import numpy as np
import torch
import transformers
from benchmark import conversation_rows

from rsr_datasets.engines.base import BatchAccount
from rsr_datasets.engines.transformers.engine import TransformersEngine
from rsr_datasets.engines.transformers.reduction import rank_and_surprisal
from rsr_datasets.reading.rows import EncodedRow

NEAR = 1e-5
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8} | {
    "num_key_value_heads": 2,
    "vocab_size": 4096,
    "max_position_embeddings": 4096,
}
FAMILIES = {
    "llama": (transformers.LlamaConfig, SIZES),
    "qwen2, tied": (transformers.Qwen2Config, SIZES | {"tie_word_embeddings": True}),
    "qwen3": (transformers.Qwen3Config, SIZES | {"head_dim": 32}),
    "gemma3, sliding window": (
        transformers.Gemma3TextConfig,
        SIZES | {"sliding_window": 64, "query_pre_attn_scalar": 16, "head_dim": 16},
    ),
    "gpt2": (
        transformers.GPT2Config,
        {"n_embd": 128, "n_layer": 4, "n_head": 8, "n_positions": 4096, "vocab_size": 4096},
    ),
}


def check_reduction(vocabulary: int, dtype: torch.dtype) -> bool:
    """The kernel against float64 on the CPU: ranks equal, surprisals and entropies within float32 rounding."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (4 * torch.randn(257, vocabulary, generator=generator)).to(dtype)
    targets = torch.randint(0, vocabulary, (257,), generator=generator)
    ranks, surprisals, entropies = rank_and_surprisal(logits.cuda(), targets.cuda(), True)
    assert entropies is not None
    exact = logits.double()
    own = exact.gather(1, targets[:, None])
    log_probabilities = exact.log_softmax(1)
    expected = -log_probabilities.gather(1, targets[:, None])[:, 0]
    entropy = -(log_probabilities.exp() * log_probabilities).sum(1)
    wrong = int((ranks.cpu() != 1 + (exact > own).sum(1)).sum())
    errors = [
        float((found.cpu().double() - right).abs().max())
        for found, right in ((surprisals, expected), (entropies, entropy))
    ]
    said = f"{wrong} ranks wrong, surprisal {errors[0]:.1e}, entropy {errors[1]:.1e}"
    print(f"kernel, {vocabulary} entries, {dtype}: {said}")
    return wrong == 0 and max(errors) < NEAR


@torch.no_grad()
def check_engine(name: str) -> bool:
    """Forty rows in float32, half of which share a prompt, against full logits of each row alone."""
    kind, sizes = FAMILIES[name]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(kind(**sizes)).eval().cuda()
    generator = np.random.default_rng(0)
    prompt = generator.integers(0, 4096, 150)
    rows = []
    for i in range(40):
        own = generator.integers(0, 4096, int(generator.integers(20, 900)))
        ids = np.concatenate([prompt, own]) if i % 2 else own
        rows.append(EncodedRow(ids, np.arange(150 if i % 2 else 5, ids.size)))
    engine = TransformersEngine(model)
    found = engine.score(rows, entropies=True)
    far, moved = 0.0, 0
    for row, scores in zip(rows, found, strict=True):
        logits = model(input_ids=torch.from_numpy(row.input_ids)[None].cuda()).logits[0].float()
        logits = logits[torch.from_numpy(row.positions - 1).cuda()]
        targets = torch.from_numpy(row.input_ids[row.positions]).cuda()
        own = logits.gather(1, targets[:, None])
        surprisals = -logits.double().log_softmax(1).gather(1, targets[:, None])[:, 0]
        ranks = 1 + (logits > own).sum(1)
        near = ((logits - own).abs() <= NEAR).sum(1) - 1
        far = max(far, float((torch.from_numpy(scores.surprisals).cuda().double() - surprisals).abs().max()))
        moved += int(((torch.from_numpy(scores.ranks).cuda() - ranks).abs() > near).sum())
    print(f"engine, {name}: surprisal {far:.1e}, {moved} ranks wrong, prefixes shared: {engine.decoder.can_pack}")
    return far < NEAR and moved == 0


def check_conversation(name: str) -> bool:
    """Turns of a conversation in bfloat16: read once they are as near to float32 as each alone."""
    kind, sizes = FAMILIES[name]
    torch.manual_seed(0)
    exact = transformers.AutoModelForCausalLM.from_config(kind(**sizes)).eval().cuda().bfloat16().float()
    engine = TransformersEngine(copy.deepcopy(exact).bfloat16())
    turns, whole = conversation_rows(4096, turns=9)
    batches: list[BatchAccount] = []
    once = engine.score(turns.sequences, on_batch=batches.append)
    engine.share_prefixes = False
    alone, right = ([each.score([row])[0] for row in turns.sequences] for each in (engine, TransformersEngine(exact)))
    errors = [
        np.concatenate([np.abs(a.surprisals - b.surprisals) for a, b in zip(found, right, strict=True)])
        for found in (once, alone)
    ]
    readings = sum(batch.tokens for batch in batches) / whole.num_read
    together, by_itself = (float(each.mean()) for each in errors)
    shared = f"turns share: {engine.decoder.can_branch}, {readings:.2f} readings"
    print(f"conversation, {name}: off by {together:.1e} on average, each turn alone {by_itself:.1e}; {shared}")
    return together < 1.2 * by_itself and (readings < 1.6 or not engine.decoder.can_branch)


def main() -> None:
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "transformers", transformers.__version__)
    right = [
        check_reduction(vocabulary, dtype)
        for vocabulary in (1000, 49_152, 151_936)
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    ]
    right += [check_engine(name) for name in FAMILIES]
    right += [check_conversation(name) for name in FAMILIES]
    sys.exit(not all(right))


if __name__ == "__main__":
    main()
