"""Times scoring side by side with the published recipe, with the bare forward pass, and with the machine's limit.

    python scripts/benchmark.py                                    # SmolLM2 on CHAMP, float32 and bfloat16
    python scripts/benchmark.py --gsm8k solutions.jsonl            # and on GSM8K's five solutions a problem
    python scripts/benchmark.py --shapes qwen2.5-7b llama-3.1-8b   # random weights of real shapes, for a GPU

The candidates take turns (A B C A B C) in one process; medians and ratios are printed as a Markdown table and written
as JSON. Peak memory is measured in a process of its own for each.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from champ import load_champ, smollm2_path
from datasets import Dataset

from rsr_datasets import RSRScorer, __version__
from rsr_datasets.batching import BatchAccount, plan_batches
from rsr_datasets.conversation import EncodedRow
from rsr_datasets.metrics import trajectory_scores
from rsr_datasets.student import (
    Student,
    StudentSpec,
    default_device,
    default_tokens_per_batch,
)

PUBLISHED_BATCH_ROWS = 4
PUBLISHED_TOP_K = 100
MAX_LENGTH = 32_768
PAPER = Path(__file__).with_name("paper_tables.json")
SHAPES: dict[str, tuple[type[transformers.PreTrainedConfig], dict[str, Any]]] = {
    "small": (
        transformers.Qwen2Config,
        {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
        | {"num_key_value_heads": 2, "vocab_size": 32_000, "tie_word_embeddings": True},
    ),
    "qwen2.5-0.5b": (
        transformers.Qwen2Config,
        {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
        | {"num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True},
    ),
    "qwen2.5-1.5b": (
        transformers.Qwen2Config,
        {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
        | {"num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True},
    ),
    "qwen2.5-7b": (
        transformers.Qwen2Config,
        {"hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28}
        | {"num_key_value_heads": 4, "vocab_size": 152_064},
    ),
    "llama-3.1-8b": (
        transformers.LlamaConfig,
        {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32}
        | {"num_key_value_heads": 8, "vocab_size": 128_256, "rope_theta": 500_000.0},
    ),
}

Rows = Sequence[EncodedRow]


def ours(student: Student, rows: Rows) -> None:
    """What the scorer does with encoded rows, the ratio included."""
    scored = student.score(rows, share_prompts=True)
    ranks, surprisals = (np.concatenate([arrays[i] for arrays in scored]) for i in (0, 1))
    trajectory_scores(ranks, surprisals, np.cumsum([0, *(arrays[0].size for arrays in scored)]))


@torch.no_grad()
def published(student: Student, rows: Rows) -> None:
    """The published recipe: four rows a batch as they come, full logits, a top-100 and Python lists a token."""
    model, device = student.model, student.device
    for start in range(0, len(rows), PUBLISHED_BATCH_ROWS):
        batch = rows[start : start + PUBLISHED_BATCH_ROWS]
        longest = max(row.input_ids.size for row in batch)
        input_ids = torch.zeros((len(batch), longest), dtype=torch.int64)
        mask = torch.zeros_like(input_ids)
        for i, row in enumerate(batch):
            input_ids[i, : row.input_ids.size] = torch.from_numpy(row.input_ids)
            mask[i, : row.input_ids.size] = 1
        logits = model(input_ids=input_ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
        for i, row in enumerate(batch):
            own = logits[i, torch.from_numpy(row.positions - 1).to(device)].float()
            targets = torch.from_numpy(row.input_ids[row.positions]).to(device)
            surprisals = (own.logsumexp(-1) - own.gather(1, targets[:, None])[:, 0]).tolist()
            top = own.topk(PUBLISHED_TOP_K, dim=-1).indices
            found = top == targets[:, None]
            ranks = torch.where(found.any(-1), found.int().argmax(-1) + 1, PUBLISHED_TOP_K).tolist()
            sum(min(rank, PUBLISHED_TOP_K) for rank in ranks) / max(sum(surprisals), 1e-12)


@torch.no_grad()
def forward(student: Student, rows: Rows) -> None:
    """The floor: the decoder on our batches without their padding, and the bare product with the output head."""
    weight = student.model.get_output_embeddings().weight
    lengths = [row.input_ids.size - 1 for row in rows]
    for batch in plan_batches(lengths, default_tokens_per_batch(student.device)):
        length = max(1, round(sum(lengths[i] for i in batch) / len(batch)))
        ids = torch.from_numpy(np.stack([np.resize(rows[i].input_ids, length) for i in batch]))
        hidden = student._hidden(ids).flatten(0, 1)
        scored = sum(rows[i].positions.size for i in batch)
        for start in range(0, scored, student.chunk_tokens):
            torch.nn.functional.linear(hidden[start : min(start + student.chunk_tokens, scored)], weight)
    synchronize(student.device)


CANDIDATES: dict[str, Callable[[Student, Rows], None]] = {"ours": ours, "published": published, "forward": forward}


def champ_rows(scorer: RSRScorer, problems: int) -> Rows:
    return encoded(scorer, load_champ(problems))


def gsm8k_rows(scorer: RSRScorer, file: Path, problems: int) -> Rows:
    """Five solutions a problem, four of models and the reference: a JSON line each, problem by problem."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[: 5 * problems]]
    rows = [
        {
            "messages": [
                {"role": "user", "content": line["question"]},
                {"role": "assistant", "content": line["solution"]},
            ]
        }
        for line in lines
    ]
    return encoded(scorer, Dataset.from_list(rows))


def encoded(scorer: RSRScorer, dataset: Dataset) -> Rows:
    rows = scorer.encode(dataset.to_list(), scorer.find_format(dataset.column_names))
    return [row for row in rows if isinstance(row, EncodedRow)]


def paper_rows(count: int, vocabulary: int, seed: int = 0) -> Rows:
    """Random tokens with the lengths of the paper's teachers: lognormal around each one's mean, at most 32,768."""
    means = list(json.loads(PAPER.read_text(encoding="utf-8"))["mean_tokens"].values())
    generator = np.random.default_rng(seed)
    sigma = 0.6
    rows = []
    for i in range(count):
        mean = means[i % len(means)]
        length = int(np.clip(generator.lognormal(np.log(mean) - sigma**2 / 2, sigma), 64, MAX_LENGTH - 200))
        prompt = int(generator.integers(60, 200))
        rows.append(EncodedRow(generator.integers(0, vocabulary, prompt + length), np.arange(prompt, prompt + length)))
    return rows


def random_student(shape: str, dtype: torch.dtype, device: torch.device) -> Student:
    kind, sizes = SHAPES[shape]
    config = kind(max_position_embeddings=MAX_LENGTH, **sizes)
    with torch.device(device):
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        model = transformers.AutoModelForCausalLM.from_config(config)
        torch.set_default_dtype(default)
    return Student(model, name=shape)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(candidate: Callable[[Student, Rows], None], student: Student, rows: Rows) -> float:
    synchronize(student.device)
    started = time.perf_counter()
    candidate(student, rows)
    synchronize(student.device)
    return time.perf_counter() - started


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 2.0) -> float:
    """Floating-point operations a second of large matrix products in the same dtype: the practical roofline."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    left @ right
    synchronize(device)
    best, ended = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < ended:
        started = time.perf_counter()
        for _ in range(5):
            left @ right
        synchronize(device)
        best = max(best, 5 * 2 * size**3 / (time.perf_counter() - started))
    return best


def model_flops(student: Student, rows: Rows) -> float:
    """Operations that the model itself takes: two a weight and token, the head at scored positions, and attention."""
    config = student.model.config.get_text_config()
    head = student.model.get_output_embeddings().weight.numel()
    embedding = student.model.get_input_embeddings().weight.numel()
    total = sum(p.numel() for p in student.model.parameters())
    tied = student.model.get_output_embeddings().weight is student.model.get_input_embeddings().weight
    decoder = total - embedding - (0 if tied else head)
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    lengths = np.array([row.input_ids.size - 1 for row in rows], dtype=np.float64)
    scored = sum(row.positions.size for row in rows)
    attention = config.num_hidden_layers * 2 * width * float((lengths**2).sum())  # causal: half of 4 x length^2
    return 2.0 * decoder * float(lengths.sum()) + 2.0 * head * scored + attention


def measure(student: Student, rows: Rows, turns: int, names: Sequence[str]) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:  # what is slow only once is not what a long run pays
        CANDIDATES[name](student, rows[:8])
    for _ in range(turns):
        for name in names:
            seconds[name].append(timed(CANDIDATES[name], student, rows))
    batches: list[BatchAccount] = []
    student.score(rows, on_batch=batches.append)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    tokens = sum(row.input_ids.size - 1 for row in rows)
    rate = matrix_rate(student.device, student.model.dtype)
    return {
        "rows": len(rows),
        "tokens": tokens,
        "scored_tokens": sum(row.positions.size for row in rows),
        "seconds": seconds,
        "tokens_per_second": {name: tokens / value for name, value in median.items()},
        "time_of_others_by_ours": {name: value / median["ours"] for name, value in median.items()},
        "padding_share": 1 - sum(b.tokens for b in batches) / sum(b.padded_tokens for b in batches),
        "matrix_tflops": rate / 1e12,
        "utilisation": model_flops(student, rows) / median["ours"] / rate,
    }


def peak_memory(arguments: argparse.Namespace, workload: str, dtype: str, candidate: str) -> dict[str, float]:
    """Peak memory above the loaded model, MiB, of one candidate in a process of its own."""
    command = [sys.executable, __file__, "--only", candidate, "--workload", workload, "--dtypes", dtype]
    command += ["--problems", str(arguments.problems), "--shape-rows", str(arguments.shape_rows)]
    if arguments.gsm8k:
        command += ["--gsm8k", str(arguments.gsm8k)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def only(arguments: argparse.Namespace) -> None:
    """The process of its own: runs one candidate once and prints its peaks."""
    student, rows = workload_of(arguments, arguments.workload, arguments.dtypes[0])
    if student.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        device_before = torch.cuda.memory_allocated()
    host_before = resident()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    CANDIDATES[arguments.only](student, rows)
    synchronize(student.device)
    peaks = {"host_mib": (resident("VmHWM") - host_before) / 1024}
    if student.device.type == "cuda":
        peaks["device_mib"] = (torch.cuda.max_memory_allocated() - device_before) / 2**20
    print(json.dumps(peaks))


def resident(what: str = "VmRSS") -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1])


def workload_of(arguments: argparse.Namespace, name: str, dtype: str) -> tuple[Student, Rows]:
    device = default_device()
    if name in SHAPES:
        student = random_student(name, getattr(torch, dtype), device)
        return student, paper_rows(arguments.shape_rows, student.vocabulary)
    scorer = RSRScorer(smollm2_path(), dtype=dtype)
    rows = (
        champ_rows(scorer, arguments.problems)
        if name == "champ"
        else gsm8k_rows(scorer, arguments.gsm8k, arguments.gsm8k_problems)
    )
    return StudentSpec(smollm2_path(), dtype=dtype).load(device), rows


def profile(student: Student, rows: Rows, file: Path) -> None:
    with torch.profiler.profile() as profiler:
        ours(student, rows)
        synchronize(student.device)
    profiler.export_chrome_trace(str(file))
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=18, help="CHAMP problems, five rows each")
    parser.add_argument("--gsm8k", type=Path, help="file of GSM8K model solutions")
    parser.add_argument("--gsm8k-problems", type=int, default=100)
    parser.add_argument("--shapes", nargs="*", default=[], choices=list(SHAPES))
    parser.add_argument("--shape-rows", type=int, default=64)
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true", help="leave out the peaks, a process each")
    parser.add_argument("--profile", type=Path, help="write a torch profiler trace of ours on the first workload")
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--only", choices=list(CANDIDATES), help=argparse.SUPPRESS)
    parser.add_argument("--workload", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        only(arguments)
        return
    workloads = arguments.shapes or ["champ", *(["gsm8k"] if arguments.gsm8k else [])]
    results: dict[str, Any] = {"machine": machine(), "results": {}}
    columns = ("workload", "dtype", "tokens/s", "published / ours", "ours / forward", "padding", "utilisation")
    print_row(*columns, "peak MiB, ours / published")
    print_row("---", "---", *["--:"] * 6)
    for workload in workloads:
        for dtype in arguments.dtypes:
            student, rows = workload_of(arguments, workload, dtype)
            if arguments.profile:
                profile(student, rows, arguments.profile)
                return
            found = measure(student, rows, arguments.turns, list(CANDIDATES))
            if not arguments.no_memory:
                found["peak"] = {name: peak_memory(arguments, workload, dtype, name) for name in ("ours", "published")}
            results["results"][f"{workload} {dtype}"] = found
            peaks = [f"{max(p.values()):.0f}" for p in found.get("peak", {}).values()]
            ratios = found["time_of_others_by_ours"]
            print_row(
                workload,
                dtype,
                f"{found['tokens_per_second']['ours']:.0f}",
                f"{ratios['published']:.2f}",
                f"{1 / ratios['forward']:.2f}",
                f"{found['padding_share']:.1%}",
                f"{found['utilisation']:.0%}",
                " / ".join(peaks),
            )
            del student
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1), encoding="utf-8")


def print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def machine() -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    device = default_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "rsr_datasets": __version__,
        **versions,
    }


if __name__ == "__main__":
    main()
