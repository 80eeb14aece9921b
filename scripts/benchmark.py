"""Times scoring side by side with the published recipe, with the bare forward pass, and with the machine's limit.

    python scripts/benchmark.py                                    # SmolLM2 on CHAMP, float32 and bfloat16
    python scripts/benchmark.py --gsm8k solutions.jsonl            # on GSM8K's five solutions a problem
    python scripts/benchmark.py --shapes qwen2.5-7b --dtypes bfloat16 --besides   # random weights, for a GPU
    python scripts/benchmark.py --each --dtypes float32            # each turn of a conversation against one reading
    python scripts/benchmark.py --besides minicons                 # and minicons, where it is installed
    .venv-vllm/bin/python scripts/benchmark.py --besides vllm      # and vLLM in process, where it is installed

The candidates take turns on one slice of the rows after the other, because a shared machine is not equally fast for
long; a ratio is the median of the slices' own, with the quartiles. Each has a process of its own: what one does to its
process, to its memory allocator say, must not help another, and peak memory is each one's. Printed as a Markdown table
and written as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from champ import load_champ, save_smollm2, smollm2_path
from datasets import Dataset

from rsr_datasets import RSRScorer, __version__, score_dataset
from rsr_datasets.engines.base import BatchAccount
from rsr_datasets.engines.transformers import head as head_module
from rsr_datasets.engines.transformers.batches import plan_batches
from rsr_datasets.engines.transformers.engine import TransformersEngine
from rsr_datasets.engines.transformers.memory import keep_freed_memory
from rsr_datasets.engines.transformers.source import default_device
from rsr_datasets.engines.transformers.speedups.products import with_faster_products
from rsr_datasets.engines.vllm import VllmStudent
from rsr_datasets.metrics import trajectory_scores
from rsr_datasets.reading.rows import EncodedRow

PUBLISHED_BATCH_ROWS = 4
PUBLISHED_TOP_K = 100
LEAST_ACCOUNTED_ROWS = 45
PROFILED_UNIT_ROWS = 10
WAITING_MICROSECONDS = 1000
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
Seconds = dict[str, list[float]]


def ours(student: Any, rows: Rows, share_prefixes: bool = True) -> None:
    """The scorer's work on encoded rows, the ratio included."""
    student.share_prefixes = share_prefixes
    scored = student.score(rows)
    ranks, surprisals = (np.concatenate([getattr(row, name) for row in scored]) for name in ("ranks", "surprisals"))
    trajectory_scores(ranks, surprisals, np.cumsum([0, *(row.ranks.size for row in scored)]))


def busy(student: Any, rows: Rows) -> None:
    """Ours, while another process keeps one core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            ours(student, rows)
        finally:
            other.kill()


def published(model: transformers.PreTrainedModel, rows: Rows, batch_rows: int = PUBLISHED_BATCH_ROWS) -> None:
    """The published recipe: four rows a batch, as they come."""
    for start in range(0, len(rows), batch_rows):
        published_batch(model, rows[start : start + batch_rows])


def rows_that_fit(model: transformers.PreTrainedModel, rows: Rows) -> int:
    """Four rows a batch, or fewer where a GPU's memory does not hold the longest of them: that is not timed."""
    longest = sorted(rows, key=lambda row: -row.input_ids.size)
    for count in (PUBLISHED_BATCH_ROWS, PUBLISHED_BATCH_ROWS // 2):
        with contextlib.suppress(torch.OutOfMemoryError):
            published_batch(model, longest[:count])
            return count
        torch.cuda.empty_cache()
    return 1


def minicons(scorer: Any, rows: Rows) -> None:
    """The package minicons, a ``minicons.scorer.IncrementalLMScorer``: surprisals and ranks of all tokens of rows."""
    for start in range(0, len(rows), PUBLISHED_BATCH_ROWS):
        batch = rows[start : start + PUBLISHED_BATCH_ROWS]
        padded = scorer.tokenizer.pad({"input_ids": [row.input_ids.tolist() for row in batch]}, return_tensors="pt")
        found = scorer.compute_stats(scorer.prepare_text(padded), rank=True)
        for row, log_probabilities, ranks in zip(batch, *found, strict=True):
            surprisals = -np.array(log_probabilities)[row.positions - 1]
            np.minimum(np.array(ranks)[row.positions - 1], PUBLISHED_TOP_K).sum() / max(surprisals.sum(), 1e-12)


@torch.no_grad()
def published_batch(model: transformers.PreTrainedModel, batch: Rows) -> None:
    """Full logits of rows padded to the longest, a top-100 and Python lists a token."""
    device = model.device
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
def forward(student: TransformersEngine, rows: Rows) -> None:
    """The floor: the decoder on our batches without their padding, and the bare product with the output head."""
    lengths = [row.input_ids.size - 1 for row in rows]
    for batch in plan_batches(lengths, student.tokens_per_batch):
        length = max(1, round(sum(lengths[i] for i in batch) / len(batch)))
        ids = torch.from_numpy(np.stack([np.resize(rows[i].input_ids, length) for i in batch]))
        hidden = student.decoder.hidden(ids).flatten(0, 1)
        scored = sum(rows[i].positions.size for i in batch)
        for start in range(0, scored, student.chunk_tokens):
            student.head.logits(hidden[start : min(start + student.chunk_tokens, scored)])
    synchronize(student.device)


CANDIDATES: dict[str, Callable[[Any, Rows], None]] = {
    "ours": ours,
    "whole": functools.partial(ours, share_prefixes=False),
    "busy": busy,
    "published": published,
    "forward": forward,
    "minicons": minicons,
    "vllm": functools.partial(ours, share_prefixes=False),
}
BESIDES = ("whole", "busy", "minicons", "vllm")


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
    means = json.loads(PAPER.read_text(encoding="utf-8"))["metrics"]["avg_token_length"]["values"]
    generator = np.random.default_rng(seed)
    sigma = 0.6
    rows = []
    for i in range(count):
        mean = means[i % len(means)]
        length = int(np.clip(generator.lognormal(np.log(mean) - sigma**2 / 2, sigma), 64, MAX_LENGTH - 200))
        prompt = int(generator.integers(60, 200))
        rows.append(EncodedRow(generator.integers(0, vocabulary, prompt + length), np.arange(prompt, prompt + length)))
    return rows


def conversation_rows(
    vocabulary: int, turns: int = 30, prompt: int = 100, thinking: int = 150, command: int = 60, result: int = 300
) -> tuple[EncodedRow, EncodedRow]:
    """A conversation of random tokens under ``turns="each"``, and as one rendering; earlier thinking is dropped."""
    generator = np.random.default_rng(0)
    history = generator.integers(0, vocabulary, prompt)
    each: list[EncodedRow] = []
    commands = []
    for _ in range(turns):
        thought, told, found = (generator.integers(0, vocabulary, size) for size in (thinking, command, result))
        ids = np.concatenate([history, thought, told])
        each.append(EncodedRow(ids, np.arange(history.size, ids.size)))
        commands.append(np.arange(history.size, history.size + command))
        history = np.concatenate([history, told, found])
    counted = np.concatenate([*commands[:-1], each[-1].positions])
    return dataclasses.replace(each[0], more=tuple(each[1:])), EncodedRow(each[-1].input_ids, counted)


def random_model(shape: str, dtype: torch.dtype, device: torch.device) -> transformers.PreTrainedModel:
    kind, sizes = SHAPES[shape]
    config = kind(max_position_embeddings=MAX_LENGTH, **sizes)
    with torch.device(device):
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        model = transformers.AutoModelForCausalLM.from_config(config)
        torch.set_default_dtype(default)
    return model.eval()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(
    candidate: Callable[[Any, Rows], None], student: TransformersEngine | transformers.PreTrainedModel, rows: Rows
) -> float:
    synchronize(student.device)
    started = time.perf_counter()
    candidate(student, rows)
    synchronize(student.device)
    return time.perf_counter() - started


@torch.no_grad()
def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 2.0) -> float:
    """Floating-point operations a second of large matrix products in the same dtype: the practical roofline.

    They are those of the library that is faster here.
    """
    size = 8192 if device.type == "cuda" else 2048
    left = torch.randn(size, size, device=device, dtype=dtype)
    product = with_faster_products(torch.nn.Linear(size, size, bias=False, device=device, dtype=dtype))
    product(left)
    synchronize(device)
    best, ended = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < ended:
        started = time.perf_counter()
        for _ in range(5):
            product(left)
        synchronize(device)
        best = max(best, 5 * 2 * size**3 / (time.perf_counter() - started))
    return best


def model_flops(student: TransformersEngine, rows: Rows) -> float:
    """Operations that the model itself takes: two a weight and token, the head at scored positions, and attention."""
    head = student.model.get_output_embeddings().weight.numel()
    embedding = student.model.get_input_embeddings().weight.numel()
    total = sum(p.numel() for p in student.model.parameters())
    tied = student.model.get_output_embeddings().weight is student.model.get_input_embeddings().weight
    decoder = total - embedding - (0 if tied else head)
    lengths = np.array([row.input_ids.size - 1 for row in rows], dtype=np.float64)
    scored = sum(row.positions.size for row in rows)
    return 2.0 * decoder * float(lengths.sum()) + 2.0 * head * scored + attention_flops(student, rows)


def attention_flops(student: TransformersEngine, rows: Rows) -> float:
    """Operations of causal attention: half of 4 x length^2 for each layer and unit of width."""
    config = student.model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    squares = sum(float(row.input_ids.size - 1) ** 2 for row in rows)
    return float(config.num_hidden_layers * 2 * config.num_attention_heads * size * squares)


def take_turns(run: Mapping[str, Callable[[int, int], float]], rows: int, turns: int, slice_rows: int) -> Seconds:
    """Seconds of each candidate for each slice of rows."""
    seconds: Seconds = {name: [] for name in run}
    for i, start in enumerate([*range(0, rows, slice_rows)] * turns):
        names = list(run)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            seconds[name].append(run[name](start, min(start + slice_rows, rows)))
    return seconds


def account(seconds: Seconds, student: TransformersEngine, rows: Rows, turns: int, slice_rows: int) -> dict[str, Any]:
    """Speeds and ratios from the seconds, and the parts of ours."""
    ours(student, rows[:8])
    some = rows[: max(LEAST_ACCOUNTED_ROWS, slice_rows)]
    with accounted(student) as parts:
        ours(student, some)
    batches: list[BatchAccount] = []
    student.share_prefixes = True
    student.score(some, on_batch=batches.append)
    total = {name: sum(values) / turns for name, values in seconds.items()}
    tokens = sum(row.input_ids.size - 1 for row in rows)
    rate = matrix_rate(student.device, student.model.dtype)
    return {
        "rows": len(rows),
        "tokens": tokens,
        "scored_tokens": sum(row.positions.size for row in rows),
        "seconds": seconds,
        "tokens_per_second": {name: tokens / value for name, value in total.items()},
        "published_by": {name: ratios(seconds["published"], seconds[name]) for name in seconds},
        "by_forward": {name: ratios(seconds[name], seconds["forward"]) for name in seconds},
        "parts_of_ours": {name: value / sum(parts.values()) for name, value in parts.items()},
        "padding_share": 1 - sum(b.tokens for b in batches) / sum(b.padded_tokens for b in batches),
        "matrix_tflops": rate / 1e12,
        "utilisation": model_flops(student, rows) / total["ours"] / rate,
    }


def ratios(upper: Sequence[float], lower: Sequence[float]) -> list[float]:
    """Median of the slices' ratios, and their quartiles where there are enough."""
    each = [u / v for u, v in zip(upper, lower, strict=True)]
    return [float(quantile) for quantile in np.quantile(each, [0.5, 0.25, 0.75])]


@contextlib.contextmanager
def accounted(student: TransformersEngine) -> Iterator[dict[str, float]]:
    """Adds up the seconds in the decoder, the head and the reduction."""
    parts: dict[str, float] = defaultdict(float)

    def account(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            synchronize(student.device)
            started = time.perf_counter()
            result = function(*args, **kwargs)
            synchronize(student.device)
            parts[name] += time.perf_counter() - started
            return result

        return run

    decoder, head, module = student.decoder, student.head, vars(head_module)
    reduction = module["rank_and_surprisal"]
    decoder.__dict__["read"] = account("decoder", decoder.read)
    head.__dict__["logits"] = account("head", head.logits)
    module["rank_and_surprisal"] = account("reduction", reduction)
    try:
        yield parts
    finally:
        del decoder.__dict__["read"], head.__dict__["logits"]
        module["rank_and_surprisal"] = reduction


def scaling(dtype: str, shape: str, tokens_per_batch: int | None) -> None:
    """How time and memory grow with the number of rows and with their length, on a random student."""
    device = default_device()
    model = random_model(shape, getattr(torch, dtype), device)
    student = TransformersEngine(model, tokens_per_batch=tokens_per_batch)
    generator = np.random.default_rng(0)
    keep_freed_memory()
    names = ["rows", "tokens a row", "seconds", "microseconds a token", "model GFLOP a token", "of these attention"]
    print_row(*names, "TFLOP/s", "peak MiB")
    print_row(*["--:"] * 8)
    for count, length in [(16, 1000), (64, 1000), (16, 4000), (8, 8000), (4, 16_000), (2, 32_000), (256, 1000)]:
        ids = generator.integers(0, student.vocab_size, (count, length + 1))
        rows = [EncodedRow(row, np.arange(length // 4, length + 1)) for row in ids]
        ours(student, rows[:2])
        forget_peak(device)
        best = min(timed(ours, student, rows) for _ in range(2))
        tokens, flops = count * length, model_flops(student, rows)
        attention = attention_flops(student, rows) / flops
        cells = (f"{best:.2f}", f"{best / tokens * 1e6:.3g}", f"{flops / tokens / 1e9:.3g}", f"{attention:.0%}")
        print_row(str(count), str(length), *cells, f"{flops / best / 1e12:.3g}", f"{peak(device):.0f}")


def each_turn(arguments: argparse.Namespace, workload: str, dtype: str) -> None:
    """Each turn of a thinking conversation against its one rendering: tokens, time and memory, in alternation."""
    keep_freed_memory()
    student = TransformersEngine(workload_of(arguments, workload, dtype)[0])
    row, whole = conversation_rows(student.vocab_size)
    candidates: dict[str, Rows] = {"one reading": [whole], "each turn": row.sequences}
    on_gpu = student.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time  # a shared CPU is not equally fast for long
    seconds: Seconds = {name: [] for name in candidates}
    peaks = dict.fromkeys(candidates, 0.0)
    accounts: dict[str, list[BatchAccount]] = {}
    for i in range(arguments.turns + on_gpu):
        for name in [*candidates][:: 1 - 2 * (i % 2)]:
            forget_peak(student.device)
            accounts[name] = []
            before, started = peak(student.device), clock()
            student.score(candidates[name], on_batch=accounts[name].append)
            synchronize(student.device)
            seconds[name].append(clock() - started)
            peaks[name] = max(peaks[name], peak(student.device) - before)
    print_row(workload, "tokens read", "tokens / one reading", "seconds", "time / one reading", "peak MiB")
    print_row("---", *["--:"] * 5)
    for name in candidates:
        tokens = sum(batch.tokens for batch in accounts[name])
        times = [
            each[on_gpu:] for each in (seconds[name], seconds["one reading"])
        ]  # a GPU's first run chooses kernels
        shown = "{:.2f} ({:.2f} to {:.2f})".format(*ratios(*times))
        print_row(
            f"{name}, {dtype}",
            str(tokens),
            f"{tokens / whole.num_read:.2f}",
            f"{np.median(times[0]):.3g}",
            shown,
            f"{peaks[name]:.0f}",
        )
    naive = sum(part.input_ids.size - 1 for part in row.sequences)
    print(f"turns read one by one: {naive} tokens, {naive / whole.num_read:.1f} readings")


class Worker:
    """A candidate in a process of its own, which loads the student and waits for slices of rows."""

    def __init__(self, candidate: str, arguments: argparse.Namespace, workload: str, dtype: str) -> None:
        command = [sys.executable, __file__, "--only", candidate, "--workload", workload, "--dtypes", dtype]
        for name in ("problems", "gsm8k_problems", "shape_rows", "gsm8k"):
            if (value := getattr(arguments, name)) is not None:
                command += [f"--{name.replace('_', '-')}", str(value)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.rows = int(self._answer())

    def run(self, start: int, end: int) -> float:
        """Seconds for a slice."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{start} {end}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def finish(self) -> dict[str, float]:
        """Ends the process; peak memory above the loaded model, MiB."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        peaks = dict(self._answer())
        self._process.wait()
        return peaks

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a candidate ended with {self._process.wait()}")
        return json.loads(line)


def only(arguments: argparse.Namespace) -> None:
    """The process of a worker: seconds for each slice that it is asked for, and in the end its peaks."""
    candidate = CANDIDATES[arguments.only]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # vLLM logs to stdout
    if arguments.only not in ("published", "minicons"):  # as the commands do
        keep_freed_memory()
    loaded, rows = workload_of(arguments, arguments.workload, arguments.dtypes[0])
    student: Any = loaded if arguments.only in ("published", "minicons") else TransformersEngine(loaded)
    if arguments.only == "minicons":
        from minicons.scorer import IncrementalLMScorer

        student = IncrementalLMScorer(loaded, loaded.device, RSRScorer(smollm2_path()).load_tokenizer())
    if arguments.only == "vllm":
        with tempfile.TemporaryDirectory() as folder:
            if arguments.workload in SHAPES:
                loaded.save_pretrained(folder)
            else:
                save_smollm2(folder)
            loaded = None
            student = VllmStudent(folder, dtype=arguments.dtypes[0]).load(torch.device("cpu"), {})
        student.device = torch.device("cpu")  # vLLM answers when it is done, and its memory is of another process
    on_gpu = student.device.type == "cuda"
    device_before = torch.cuda.memory_allocated() if on_gpu else 0
    host_before = resident()
    if arguments.only == "published" and on_gpu:
        candidate = functools.partial(published, batch_rows=rows_that_fit(loaded, rows))
    candidate(student, rows[:8])  # what is slow only once is not what a long run pays
    if on_gpu:
        torch.cuda.empty_cache()  # for the other candidates
    print(len(rows), file=answers)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    forget_peak(torch.device("cpu"))  # of loading
    for line in sys.stdin:
        start, end = (int(word) for word in line.split())
        print(timed(candidate, student, rows[start:end]), file=answers)
        if on_gpu:
            torch.cuda.empty_cache()  # for the other candidates
    peaks = {"host_mib": (resident("VmHWM") - host_before) / 1024}
    if on_gpu:
        peaks["device_mib"] = (torch.cuda.max_memory_allocated() - device_before) / 2**20
    print(json.dumps(peaks), file=answers)


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for process in processes():
        (process / "clear_refs").write_text("5")


def peak(device: torch.device) -> float:
    """The most memory of the device since it was forgotten, MiB."""
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else resident("VmHWM") / 1024


def resident(what: str = "VmRSS") -> int:
    """KiB of memory of this process and those that it started."""
    lines = [line for process in processes() for line in (process / "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith(what))


def processes() -> list[Path]:
    """This process and its descendants in /proc."""
    found = [Path("/proc/self")]
    for process in found:
        for task in process.glob("task/*/children"):
            found += [Path("/proc", child) for child in task.read_text().split()]
    return found


def workload_of(arguments: argparse.Namespace, name: str, dtype: str) -> tuple[transformers.PreTrainedModel, Rows]:
    device = default_device()
    if name in SHAPES:
        model = random_model(name, getattr(torch, dtype), device)
        return model, paper_rows(arguments.shape_rows, model.config.vocab_size)
    scorer = RSRScorer(smollm2_path(), dtype=dtype)
    rows = (
        champ_rows(scorer, arguments.problems)
        if name == "champ"
        else gsm8k_rows(scorer, arguments.gsm8k, arguments.gsm8k_problems)
    )
    kind = getattr(torch, dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2_path().parent, gguf_file=smollm2_path().name, dtype=kind
    )
    return model.to(device).eval(), rows


def profile(arguments: argparse.Namespace, workload: str, dtype: str) -> None:
    """Traces a run of CHAMP from its texts on, as the command scores a dataset, or of a shape's random rows."""
    with contextlib.ExitStack() as stack:
        if workload in SHAPES:
            loaded, rows = workload_of(arguments, workload, dtype)
            student = TransformersEngine(loaded)
            run = functools.partial(ours, student, rows)
            ours(student, rows[:8])
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            scorer = RSRScorer(smollm2_path(), dtype=dtype)
            dataset = load_champ(arguments.problems)
            run = functools.partial(score_dataset, dataset, scorer, folder / "run", unit_rows=PROFILED_UNIT_ROWS)
            score_dataset(dataset.select(range(5)), scorer, folder / "first")
        with torch.profiler.profile() as profiler:
            run()
            synchronize(default_device())
    profiler.export_chrome_trace(str(arguments.profile))
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))
    idle, waiting = (idle_share(profiler.events(), least) for least in (0, WAITING_MICROSECONDS))
    print(f"{workload} {dtype}: idle for {idle:.2%} of the time, {waiting:.2%} in gaps of more than a millisecond")


def idle_share(events: Sequence[Any], least: float = 0) -> float:
    """Share of the time between the first and the last operation of a trace in which the device has none.

    On a CPU the device is idle where no operation runs in any thread. Gaps shorter than ``least`` microseconds, as
    they are between the operations of a layer, do not count.
    """
    kinds = [event.device_type.name for event in events]
    kind = "CUDA" if "CUDA" in kinds else "CPU"
    operations = [event for event in events if event.device_type.name == kind and event.cpu_parent is None]
    spans = sorted((event.time_range.start, event.time_range.end) for event in operations)
    idle, reached = 0.0, spans[0][0]
    for start, end in spans:
        idle += start - reached if start - reached > least else 0
        reached = max(reached, end)
    return idle / (reached - spans[0][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=18, help="CHAMP problems, five rows each")
    parser.add_argument("--gsm8k", type=Path, help="file of GSM8K model solutions")
    parser.add_argument("--gsm8k-problems", type=int, default=100)
    parser.add_argument("--shapes", nargs="*", default=[], choices=list(SHAPES))
    parser.add_argument("--shape-rows", type=int, default=64)
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument(
        "--besides",
        nargs="*",
        default=["whole"],
        choices=list(BESIDES),
        help="what to time beside ours, published and forward; each holds a student of its own",
    )
    parser.add_argument("--turns", type=int, default=1, help="times that all rows are gone through")
    parser.add_argument("--slice-rows", type=int, help="rows a turn: 15, and of GSM8K's short ones 250")
    parser.add_argument(
        "--scaling",
        action="store_true",
        help="instead: time against rows and length, of the first shape or a small student",
    )
    parser.add_argument("--tokens-per-batch", type=int, help="with --scaling: tokens that the student reads in a pass")
    parser.add_argument(
        "--each", action="store_true", help="instead: each turn of a conversation of 30 against one reading of it"
    )
    parser.add_argument(
        "--profile", type=Path, help="instead: write a torch profiler trace of ours on the first workload"
    )
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--only", choices=list(CANDIDATES), help=argparse.SUPPRESS)
    parser.add_argument("--workload", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        only(arguments)
        return
    if arguments.scaling:
        scaling(arguments.dtypes[0], (arguments.shapes or ["small"])[0], arguments.tokens_per_batch)
        return
    workloads = arguments.shapes or ["gsm8k" if arguments.gsm8k else "champ"]
    slice_rows = arguments.slice_rows or (250 if arguments.gsm8k else 15)
    results: dict[str, Any] = {"machine": machine(), "results": {}}
    if not arguments.each:
        columns = ["tokens/s", "published / it", "it / forward", "peak MiB"]
        columns += ["peak MiB of the GPU"] * (default_device().type == "cuda")
        print(", ".join(f"{name} {value}" for name, value in results["machine"].items()), end="\n\n")
        print_row("workload", "dtype", "candidate", *columns)
        print_row("---", "---", "---", *["--:"] * len(columns))
    for workload in workloads:
        for dtype in arguments.dtypes:
            if arguments.each:
                each_turn(arguments, workload, dtype)
                continue
            if arguments.profile:
                profile(arguments, workload, dtype)
                return
            left_out = set(BESIDES).difference(arguments.besides)
            left_out |= {"whole"} if workload in SHAPES else set()  # their rows share nothing
            names = [name for name in CANDIDATES if name not in left_out]
            workers = {name: Worker(name, arguments, workload, dtype) for name in names}
            count = workers["ours"].rows
            run = {name: worker.run for name, worker in workers.items()}
            seconds = take_turns(run, count, arguments.turns, slice_rows)
            peaks = {name: worker.finish() for name, worker in workers.items()}
            loaded, rows = workload_of(arguments, workload, dtype)
            found = account(seconds, TransformersEngine(loaded), rows, arguments.turns, slice_rows)
            found["peak"] = peaks
            results["results"][f"{workload} {dtype}"] = found
            show(workload, dtype, found)
            if arguments.output:
                arguments.output.write_text(json.dumps(results, indent=1), encoding="utf-8")
            del loaded


def show(workload: str, dtype: str, found: dict[str, Any]) -> None:
    """A line of the table for each candidate, and what else was found below."""
    speed = found["tokens_per_second"]
    for name in speed:
        print_row(
            workload,
            dtype,
            name,
            f"{speed[name]:,.0f}",
            "{:.2f} ({:.2f} to {:.2f})".format(*found["published_by"][name]),
            "{:.2f} ({:.2f} to {:.2f})".format(*found["by_forward"][name]),
            *(f"{peak:,.0f}" for peak in found["peak"][name].values()),
        )
    parts = ", ".join(f"{name} {share:.1%}" for name, share in found["parts_of_ours"].items())
    rates = f"{found['padding_share']:.1%} padding, {found['utilisation']:.0%} of {found['matrix_tflops']:.3g} TFLOP/s"
    print(f"{workload} {dtype}: {found['rows']} rows, {found['tokens']:,} tokens; of ours {parts}; {rates}")


def print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def machine() -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    device = default_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else processor()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "rsr_datasets": __version__,
        **versions,
    }


def processor() -> str:
    """The processor's name, and the instructions that torch uses."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.machine())} ({torch.backends.cpu.get_cpu_capability()})"


if __name__ == "__main__":
    main()
