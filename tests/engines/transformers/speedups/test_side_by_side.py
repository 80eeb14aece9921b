"""Batches side by side on a CPU: the same bits as one after the other with one thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_datasets.engines.base import BatchAccount
from rsr_datasets.engines.transformers.engine import TransformersEngine
from rsr_datasets.engines.transformers.speedups import side_by_side
from rsr_datasets.reading.rows import EncodedRow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def student() -> TransformersEngine:
    return TransformersEngine(make_model("qwen2", 211), tokens_per_batch=64)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(side_by_side, "_QUOTA", Path("/nowhere"))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def make_rows(lengths: list[int]) -> list[EncodedRow]:
    rng = np.random.default_rng(0)
    return [EncodedRow(rng.integers(0, 211, size), np.arange(1, size)) for size in lengths]


@given(st.lists(st.integers(2, 90), min_size=1, max_size=24))
@settings(max_examples=20, deadline=None)
def test_the_bits_are_those_of_one_thread(student: TransformersEngine, lengths: list[int]) -> None:
    rows = make_rows(lengths)
    before = torch.get_num_threads()
    found = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found[threads] = student.score(rows, entropies=True)
    torch.set_num_threads(before)
    for one, two in zip(found[1], found[2], strict=True):
        np.testing.assert_array_equal(one.ranks, two.ranks)
        np.testing.assert_array_equal(one.surprisals, two.surprisals)
        np.testing.assert_array_equal(one.entropies, two.entropies)


def test_each_batch_has_a_thread_of_its_own(student: TransformersEngine, two_threads: None) -> None:
    """Batches wait for each other inside the decoder, in pairs: one after the other they would wait for ever."""
    both, seen = threading.Barrier(2, timeout=60), set()

    def meet(*_: object) -> None:
        seen.add((threading.current_thread().name, torch.get_num_threads()))
        both.wait()

    rows, accounts = make_rows([60] * 8), list[BatchAccount]()
    hook = student.model.get_input_embeddings().register_forward_pre_hook(meet)
    try:
        student.score(rows, on_batch=accounts.append)
    finally:
        hook.remove()
    assert seen == {("batches_0", 1), ("batches_1", 1)}
    assert len(accounts) == 8


def test_few_batches_share_all_threads(two_threads: None) -> None:
    with side_by_side.side_by_side(CPU, 3) as (start, most):
        assert start(torch.get_num_threads)() == 2
        assert most == 2


def test_an_error_in_a_batch_reaches_the_caller_and_ends_the_others(two_threads: None) -> None:
    done: list[int] = []

    def work() -> None:
        time.sleep(0.05)
        done.append(1)

    with pytest.raises(ZeroDivisionError), side_by_side.side_by_side(CPU, 100) as (start, _):
        first = start(lambda: 1 // 0)
        for _ in range(100):
            start(work)
        first()
    assert len(done) <= 4


def test_a_long_batch_does_not_stop_the_others(two_threads: None) -> None:
    done = threading.Event()
    with side_by_side.side_by_side(CPU, 6) as (start, most):
        assert most == 6
        first = start(lambda: done.wait(60))
        for _ in range(4):
            start(int)
        start(done.set)
        assert first()


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 2), ("100000 100000", 1), ("max 100000", 2)])
def test_a_containers_quota_counts(
    quota: str, cores: int, two_threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(side_by_side, "_QUOTA", tmp_path / "cpu.max")
    assert side_by_side.usable_cores() == cores


def test_a_process_on_one_core_has_one_worker(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {1})
    with side_by_side.side_by_side(CPU, 8) as (start, most):
        assert start(torch.get_num_threads)() == 1
        assert most == 2


def test_batches_wait_for_memory(
    student: TransformersEngine, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without free memory one batch runs at a time, and nothing is lost."""
    running, most = 0, 0

    def begin(*_: object) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)

    def end(*_: object) -> None:
        nonlocal running
        running -= 1

    monkeypatch.setattr("rsr_datasets.engines.transformers.engine.available_bytes", lambda: 0.0)
    embeddings, last = student.model.get_input_embeddings(), student.model.model.norm
    hooks = [embeddings.register_forward_pre_hook(begin), last.register_forward_hook(end)]
    try:
        scores = student.score(make_rows([60] * 8))
    finally:
        for hook in hooks:
            hook.remove()
    assert [score.ranks.size for score in scores] == [59] * 8
    assert most == 1
