"""The benchmark's own parts: rows of the paper's lengths, operations counted, the published recipe's scores."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, make_model
from torch.utils.flop_counter import FlopCounterMode

from rsr_datasets.engines.transformers.batches import plan_batches
from rsr_datasets.engines.transformers.engine import TransformersEngine
from rsr_datasets.reading.rows import EncodedRow

SCRIPT = ROOT / "scripts" / "benchmark.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec = importlib.util.spec_from_file_location("benchmark_script", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(SCRIPT.parent))


@pytest.mark.parametrize("tokens_per_batch", [1024, 16384])
def test_a_thousand_rows_of_the_papers_lengths_have_little_padding(
    benchmark: ModuleType, tokens_per_batch: int
) -> None:
    lengths = [row.input_ids.size - 1 for row in benchmark.paper_rows(1000, 100)]
    assert 7000 < np.mean(lengths) < 11_000 and 30_000 < max(lengths) < 32_768
    batches = plan_batches(lengths, tokens_per_batch)
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert 1 - sum(lengths) / padded < 0.03


@pytest.mark.parametrize("library", ["MKL"], indirect=True)  # of which torch counts the operations
def test_operations_are_those_of_the_matrix_products(benchmark: ModuleType, library: str) -> None:
    student = TransformersEngine(make_model("llama", 400))
    rows = [EncodedRow(np.arange(20), np.arange(15, 20)), EncodedRow(np.arange(9), np.arange(2, 9))]
    counted = FlopCounterMode(display=False)
    with counted, torch.no_grad():
        for row in rows:
            hidden = student.decoder.hidden(torch.from_numpy(row.input_ids[None, :-1]))[0, row.positions - 1]
            torch.nn.functional.linear(hidden, student.model.get_output_embeddings().weight)
    products = sum(v for op, v in counted.get_flop_counts()["Global"].items() if "attention" not in str(op))
    norms = 2 * sum(p.numel() for p in student.model.parameters() if p.dim() == 1)
    config = student.model.config
    tokens = [row.input_ids.size - 1 for row in rows]
    attention = 2 * config.hidden_size * config.num_hidden_layers * sum(n**2 for n in tokens)
    expected = products + norms * sum(tokens) + attention
    assert benchmark.model_flops(student, rows) == pytest.approx(expected, rel=1e-9)


def test_candidates_take_turns_and_parts_are_accounted_for(benchmark: ModuleType) -> None:
    student = TransformersEngine(make_model("llama", 400))
    rows = [EncodedRow(np.arange(n + 5), np.arange(3, n + 5)) for n in range(10)]
    asked = []

    def runner(name: str) -> Callable[[int, int], float]:
        def run(start: int, end: int) -> float:
            asked.append((start, end))
            scored_with = student.model if name == "published" else student
            return benchmark.timed(benchmark.CANDIDATES[name], scored_with, rows[start:end])

        return run

    names = [name for name in benchmark.CANDIDATES if name != "minicons"]  # which is not installed with the tests
    seconds = benchmark.take_turns({name: runner(name) for name in names}, len(rows), 2, 4)
    slices = [(0, 4), (4, 8), (8, 10)] * 2
    assert asked == [part for part in slices for _ in names]
    found = benchmark.account(seconds, student, rows, 2, 4)
    assert {name: len(times) for name, times in found["seconds"].items()} == dict.fromkeys(names, 6)
    assert found["rows"] == 10 and found["tokens"] == sum(n + 4 for n in range(10))
    assert set(found["parts_of_ours"]) == {"decoder", "head", "reduction"}
    assert all(share > 0.001 for share in found["parts_of_ours"].values())
    median, low, high = found["published_by"]["ours"]
    assert 0 < low <= median <= high
    assert "forward" not in student.decoder.module.__dict__  # nothing of the accounting is left


@pytest.mark.slow
def test_the_whole_script_on_a_random_student(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--shapes", "small", "--shape-rows", "1", "--dtypes", "float32"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "x.json")], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "x.json").read_text())["results"]["small float32"]
    assert found["peak"]["ours"]["host_mib"] < found["peak"]["published"]["host_mib"] / 2
    assert found["published_by"]["published"] == found["by_forward"]["forward"] == [1.0, 1.0, 1.0]
    assert "| small | float32 | ours |" in done.stdout and "peak MiB" in done.stdout
    assert "whole" not in found["by_forward"]


@pytest.mark.slow
def test_each_turn_against_one_reading() -> None:
    command = [sys.executable, str(SCRIPT), "--each", "--shapes", "small", "--dtypes", "float32"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    one, each = ([cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines()[2:4])
    assert one[1] == "one reading, float32" and one[3] == "1.00"
    assert each[1] == "each turn, float32" and float(each[3]) < 1.6 and float(each[5].split()[0]) < 2


def test_a_device_is_idle_where_no_operation_runs(benchmark: ModuleType) -> None:
    def event(start: float, end: float, kind: str = "CPU", parent: object = None) -> SimpleNamespace:
        time_range = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(time_range=time_range, device_type=SimpleNamespace(name=kind), cpu_parent=parent)

    outer = event(0, 40)
    events = [event(90, 100), outer, event(10, 20, parent=outer), event(30, 60)]
    assert benchmark.idle_share(events) == pytest.approx(0.3)
    events.append(event(60, 65))
    assert benchmark.idle_share(events, least=24) == pytest.approx(0.25)
    assert benchmark.idle_share(events, least=26) == 0
    on_gpu = [event(50, 60, "CUDA"), event(70, 75, "CUDA")]
    assert benchmark.idle_share([*events, *on_gpu]) == pytest.approx(0.4)
