"""The student against the plain oracle: full logits, one row alone."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from conftest import FAMILIES, ROOT, SIZES, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_scored_the_same, plain_scores
from transformers import PreTrainedModel

from rsr_datasets.engines.base import BatchAccount
from rsr_datasets.engines.transformers import batches as budgets
from rsr_datasets.engines.transformers.engine import TransformersEngine
from rsr_datasets.engines.transformers.source import default_device
from rsr_datasets.reading.rows import EncodedRow

VOCABULARY = 211
# Weights under which rounding stays below 1e-5, whatever rows are drawn.
model_of = functools.cache(functools.partial(make_model, spread=0.15))


def row_of(length: int) -> EncodedRow:
    return EncodedRow(np.arange(length) * 7 % VOCABULARY, np.arange(1, length))


@st.composite
def encoded_rows(draw: st.DrawFn) -> list[EncodedRow]:
    rows = []
    for length in draw(st.lists(st.integers(2, 60), min_size=1, max_size=12)):
        seed = draw(st.integers(0, 2**31))
        generator = np.random.default_rng(seed)
        scored = np.flatnonzero(generator.random(length - 1) < 0.6) + 1
        positions = np.union1d(scored, [length - 1])
        rows.append(EncodedRow(generator.integers(0, VOCABULARY, length), positions))
    return rows


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(encoded_rows(), st.integers(1, 400), st.integers(1, 90), st.randoms())
def test_equals_the_plain_oracle_in_any_batch(
    family: str, rows: list[EncodedRow], tokens_per_batch: int, chunk_tokens: int, random: object
) -> None:
    model = model_of(family, VOCABULARY)
    random.shuffle(rows)
    student = TransformersEngine(model, tokens_per_batch=tokens_per_batch, chunk_tokens=chunk_tokens)
    without, found = (student.score(rows, entropies=asked) for asked in (False, True))
    for row, plain, tokens in zip(rows, without, found, strict=True):
        expected = plain_scores(model, row)
        assert_scored_the_same(tokens.ranks, tokens.surprisals, expected)
        np.testing.assert_allclose(tokens.entropies, expected.entropies, rtol=0, atol=1e-5)
        assert np.array_equal(plain.ranks, tokens.ranks) and np.array_equal(plain.surprisals, tokens.surprisals)
        assert plain.entropies is None


@pytest.mark.parametrize("family", ["gemma2", "granite", "cohere"])
def test_what_the_family_does_to_its_logits_matters_here(family: str) -> None:
    """The head checks above mean something: without the family's scaling the numbers would be others."""
    model = model_of(family, VOCABULARY)
    hidden = model.model(torch.arange(9)[None]).last_hidden_state
    assert not torch.allclose(model.lm_head(hidden), model(torch.arange(9)[None]).logits, atol=0.1)


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 1.01), (torch.bfloat16, 1.2)])
def test_a_head_that_disagrees_with_the_model_is_refused(dtype: torch.dtype, factor: float) -> None:
    class Shifted(transformers.LlamaForCausalLM):
        def forward(self, input_ids=None, inputs_embeds=None, **kwargs):
            output = super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)
            if input_ids is not None:
                output.logits = output.logits * factor
            return output

    torch.manual_seed(0)
    model = Shifted(transformers.LlamaConfig(**SIZES, vocab_size=VOCABULARY))
    model.load_state_dict(make_model("llama", VOCABULARY).state_dict())
    model.to(dtype)
    with pytest.raises(ValueError, match="disagrees with the model's own logits"):
        TransformersEngine(model)


def test_float32_logits_break_the_ties_of_bfloat16() -> None:
    model = make_model("llama", 4000).to(torch.bfloat16)
    row = EncodedRow(np.arange(0, 4000, 100), np.arange(1, 40))
    own, exact = (TransformersEngine(model, logits_dtype=kind).score([row])[0] for kind in ("student", "float32"))
    hidden = model.model(torch.from_numpy(row.input_ids)[None]).last_hidden_state[0, :-1].float()
    logits = hidden @ model.lm_head.weight.float().T
    targets = torch.from_numpy(row.input_ids[1:])[:, None]
    assert exact.ranks.tolist() == (1 + (logits > logits.gather(1, targets)).sum(1)).tolist()
    np.testing.assert_allclose(exact.surprisals, -logits.log_softmax(1).gather(1, targets)[:, 0].detach(), atol=1e-5)
    assert (own.ranks <= exact.ranks).mean() > 0.8 and (own.ranks < exact.ranks).any()


def test_the_model_is_not_changed_by_scoring(tokenizer) -> None:
    model: PreTrainedModel = make_model("gemma2", VOCABULARY)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = list(model._modules)
    TransformersEngine(model, logits_dtype="float32").score([EncodedRow(np.arange(9), np.arange(1, 9))])
    assert list(model._modules) == modules
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_default_device_is_the_cpu_where_there_is_nothing_else() -> None:
    if torch.accelerator.is_available():
        assert default_device(rank=0).type == torch.accelerator.current_accelerator().type
    else:
        assert default_device() == default_device(rank=3) == torch.device("cpu")


MEMORY = """
import json, resource, sys, numpy as np, torch, transformers
from rsr_datasets.reading.rows import EncodedRow
from rsr_datasets.engines.transformers.engine import TransformersEngine
length, vocabulary = int(sys.argv[1]), 60_000
torch.manual_seed(0)
config = transformers.LlamaConfig(vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=40_000, tie_word_embeddings=True)
student = TransformersEngine(transformers.LlamaForCausalLM(config))
ids = np.random.default_rng(0).integers(0, vocabulary, length)
loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = student.score([EncodedRow(ids, np.arange(1, length))], entropies=True)[0]
assert found.ranks.size == length - 1 and np.isfinite(found.surprisals).all() and np.isfinite(found.entropies).all()
print(json.dumps([loaded, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def peak_memory(length: int) -> tuple[int, int]:
    """Peak resident memory after loading and after scoring one row, in KiB, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(length)], cwd=ROOT, capture_output=True, text=True, timeout=600, check=True
    )
    loaded, peak = json.loads(done.stdout.splitlines()[-1])
    return loaded, peak


@pytest.mark.slow
def test_memory_does_not_grow_with_length_times_vocabulary() -> None:
    loaded, peak = peak_memory(4_000)
    assert peak - loaded < 128 * 1024
    loaded_for_long_row, peak_of_long_row = peak_memory(16_000)
    # How much of its libraries a process has resident when it has loaded differs by tens of megabytes.
    assert peak_of_long_row - loaded_for_long_row < peak - loaded + 0.1 * peak


PACKING_FAMILIES = {"llama", "qwen2", "gpt2", "granite", "cohere"}
LARGE = 10_000


def with_shared_prompts(draw: st.DrawFn) -> list[EncodedRow]:
    """Rows of which some begin with the same prompt, and all alike, and are scored from its end on."""
    rows = []
    system = np.arange(draw(st.sampled_from([0, 10, 20, 50]))) % VOCABULARY
    for _ in range(draw(st.integers(1, 4))):
        seed, candidates = draw(st.integers(0, 2**31)), draw(st.integers(1, 4))
        generator = np.random.default_rng(seed)
        prompt = np.concatenate([system, generator.integers(0, VOCABULARY, draw(st.integers(2, 40)))])
        for _ in range(candidates):
            response = generator.integers(0, VOCABULARY, draw(st.integers(1, 30)))
            ids = np.concatenate([prompt, response])
            rows.append(EncodedRow(ids, np.arange(prompt.size, ids.size)))
    return rows


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(st.composite(with_shared_prompts)(), st.integers(1, 200) | st.just(LARGE), st.booleans(), st.randoms())
def test_a_shared_prompt_is_read_once_and_the_scores_are_the_same(
    family: str, rows: list[EncodedRow], tokens_per_batch: int, by_row: bool, random: object
) -> None:
    model = model_of(family, VOCABULARY)
    random.shuffle(rows)
    student = TransformersEngine(model, tokens_per_batch=tokens_per_batch)
    student.decoder.attends_by_row = by_row
    batches: list[BatchAccount] = []
    for row, found in zip(rows, student.score(rows, on_batch=batches.append), strict=True):
        assert_scored_the_same(found.ranks, found.surprisals, plain_scores(model, row))
    read = sum(batch.tokens for batch in batches)
    once = len({tuple(row.input_ids[:end]) for row in rows for end in range(1, row.input_ids.size)})
    whole = sum(row.input_ids.size - 1 for row in rows)
    assert once <= read <= whole == sum(batch.row_tokens for batch in batches)
    assert student.decoder.can_pack == (family in PACKING_FAMILIES)
    if not student.decoder.can_pack:
        assert read == whole
    elif by_row and tokens_per_batch == LARGE:
        assert read - once < 0.05 * whole  # what is too short to be shared
    student.share_prefixes = False
    alone = student.score(rows, on_batch=batches.append)
    assert sum(batch.tokens for batch in batches) == read + whole
    for row, found in zip(rows, alone, strict=True):
        assert_scored_the_same(found.ranks, found.surprisals, plain_scores(model, row))


def test_threads_that_score_with_one_student_do_not_disturb_each_other(library: str) -> None:
    student = TransformersEngine(make_model("llama", 20_000), chunk_tokens=64)
    rows = [row_of(length) for length in range(40, 80)]
    expected = [student.score([row])[0] for row in rows]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda row: student.score([row])[0], rows))
    for one, alone in zip(found, expected, strict=True):
        assert one.ranks.tolist() == alone.ranks.tolist()
        np.testing.assert_allclose(one.surprisals, alone.surprisals, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("free", "a_token", "expected"),
    [(2**40, 2**17, 16384), (2**31, 2**17, 8192), (2**20, 2**17, 512), (2**31, 0, 16384)],
)
def test_a_gpus_batches_fit_into_half_of_its_free_memory(
    free: int, a_token: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(memory: object) -> int:
        monkeypatch.setattr(budgets, "_memory_of_pass", memory)
        return budgets.choose_tokens_per_batch(torch.device("cuda", 0), None, lambda ids: None)

    def full(_: torch.device, length: int, read: object) -> tuple[int, int]:
        raise torch.OutOfMemoryError(f"no room for {length} tokens")

    assert TransformersEngine(make_model("llama", VOCABULARY)).tokens_per_batch == 1024  # on the CPU
    assert chosen(lambda device, length, read: (free, a_token * length)) == expected
    assert chosen(full) == 512


def test_a_batch_that_does_not_fit_is_redone_in_halves(tokenizer) -> None:
    model = make_model("llama", 400)
    rows = [row_of(length) for length in (9, 30, 12, 30, 5)]
    expected = TransformersEngine(model).score(rows)
    device_memory = 70

    def forward(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        if kwargs["input_ids"].numel() > device_memory:
            raise torch.OutOfMemoryError("a small device")

    limited = TransformersEngine(model, tokens_per_batch=1000)
    model.model.register_forward_pre_hook(forward, with_kwargs=True)
    batches: list[BatchAccount] = []
    for one, alone in zip(limited.score(rows, on_batch=batches.append), expected, strict=True):
        assert one.ranks.tolist() == alone.ranks.tolist()
        np.testing.assert_allclose(one.surprisals, alone.surprisals, atol=1e-5)
    assert all(batch.split and batch.padded_tokens <= device_memory for batch in batches) and len(batches) > 1
    assert sum(batch.tokens for batch in batches) == sum(row.input_ids.size - 1 for row in rows)
    prompts = [np.arange(30) * 3 % VOCABULARY, np.arange(30) * 5 % VOCABULARY]
    shared = [EncodedRow(np.append(prompt, [7, i]), np.array([31])) for prompt in prompts for i in range(3)]
    device_memory = 40  # for one row, and not for the prompts of both groups
    found, expected = limited.score(shared), TransformersEngine(make_model("llama", 400)).score(shared)
    np.testing.assert_allclose([row.surprisals for row in found], [row.surprisals for row in expected], atol=1e-5)
    device_memory = 20
    with pytest.raises(torch.OutOfMemoryError):
        limited.score(rows)


def test_the_library_leaves_the_allocator_of_the_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: pytest.fail("a library of the process was opened"))
    TransformersEngine(make_model("llama", 64))
