"""Many processes on one folder. Every fault is a real one, in real processes."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from datasets import load_from_disk
from forked_python import free_port
from launching import (
    ROWS,
    accounts,
    assert_same_bits,
    finish,
    kill_when,
    launch,
    launch_by_accelerate,
    make_source,
    times,
)

from rsr_datasets import RSRScorer, score_dataset
from rsr_datasets.runs import workers as workers_module
from rsr_datasets.runs.folder import Unit
from rsr_datasets.runs.score import order_of_work, process_state
from rsr_datasets.runs.workers import FolderInUseError, Workers


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("source") / "dataset")


@pytest.fixture(scope="module")
def undisturbed(source: Path, student_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(*launch(source, student_folder, folder, pauses=[0]))
    return folder


@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes_gives_the_same_bits(
    source: Path, student_folder: str, undisturbed: Path, tmp_path: Path, processes: int
) -> None:
    printed = finish(*launch(source, student_folder, tmp_path / "run", processes))
    assert sorted((line["rank"], line["world"], line["rows"]) for line in printed) == [
        (rank, processes, ROWS) for rank in range(processes)
    ]
    assert {account["process"] for account in accounts(tmp_path / "run")} == set(range(processes))
    assert_same_bits(tmp_path / "run", undisturbed)


def test_a_slow_process_is_helped(source: Path, student_folder: str, undisturbed: Path, tmp_path: Path) -> None:
    """The second process needs ten times as long for a unit: the first one does most of its share too."""
    finish(*launch(source, student_folder, tmp_path / "run", 2, pauses=(0.1, 1.0)))
    by_process = Counter(account["process"] for account in accounts(tmp_path / "run"))
    assert set(by_process) == {0, 1} and by_process[0] > 2 * by_process[1]
    assert_same_bits(tmp_path / "run", undisturbed)


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_a_killed_run_resumes_with_another_number_of_processes(
    source: Path, student_folder: str, undisturbed: Path, tmp_path: Path, first: int, second: int
) -> None:
    folder = tmp_path / "run"
    done = kill_when(launch(source, student_folder, folder, first), folder, notes=3)
    assert 3 <= len(done) < ROWS // 4
    before = times(folder, done)
    assert {line["world"] for line in finish(*launch(source, student_folder, folder, second))} == {second}
    assert times(folder, done) == before  # nothing finished was scored again
    assert_same_bits(folder, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["0", "1"])
def test_when_one_process_is_killed_the_next_launch_finishes(
    source: Path, student_folder: str, undisturbed: Path, tmp_path: Path, victim: str
) -> None:
    folder = tmp_path / "run"
    launched = launch_by_accelerate(source, student_folder, folder)
    done = kill_when([launched], folder, notes=3, rank=victim)
    before = times(folder, done)
    assert {line["world"] for line in finish(*launch(source, student_folder, folder, 2))} == {2}
    assert times(folder, done) == before
    assert_same_bits(folder, undisturbed)


@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_process_dies_the_other_one_does_its_work(
    source: Path, student_folder: str, undisturbed: Path, tmp_path: Path, victim: int
) -> None:
    folder = tmp_path / "run"
    pauses = [0.05, 0.05]
    pauses[victim] = 1000  # the victim never ends the unit that it has taken
    processes = launch(source, student_folder, folder, 2, heartbeat_timeout=3, pauses=pauses)
    kill_when([processes[victim]], folder, taken_by=str(victim))
    with pytest.raises(FolderInUseError, match="another launch is at work"):
        score_dataset(load_from_disk(source), RSRScorer(student_folder), folder)
    out, err = processes[1 - victim].communicate()
    assert '"world": 2' in out, err[-3000:]
    assert f"process {1 - victim} takes over from a process that died" in err
    assert_same_bits(folder, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_machine_dies_the_launcher_of_the_other_one_lets_it_do_the_work(
    source: Path, student_folder: str, undisturbed: Path, tmp_path: Path, victim: int
) -> None:
    folder, port = tmp_path / "run", free_port()
    pauses = (1000, 0.05) if victim == 0 else (0.05, 1000)
    machines = [
        launch_by_accelerate(source, student_folder, folder, (rank, port), heartbeat_timeout=9, pause=pause)
        for rank, pause in enumerate(pauses)
    ]
    kill_when([machines[victim]], folder, taken_by=str(victim))
    survivor = machines[1 - victim]
    launcher = psutil.Process(survivor.pid)
    deadline = time.monotonic() + 120
    while launcher.is_running() and launcher.children():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    survivor.kill()  # torch's launcher waits five minutes for the other machine's before it ends
    out, err = survivor.communicate()
    assert '"world": 2' in out, err[-3000:]
    assert_same_bits(folder, undisturbed)


def test_every_process_is_refused(source: Path, student_folder: str, undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    for folder, message in ((undisturbed, "rank_clip= was 100 and is 7 now"), (tmp_path, "not a run folder")):
        for process in launch(source, student_folder, folder, 2, options={"rank_clip": 7}):
            _, err = process.communicate()
            assert process.poll() != 0 and message in err


def test_processes_that_accelerate_does_not_see_are_an_error(
    source: Path, student_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert process_state().num_processes == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="WORLD_SIZE=2, but accelerate sees 1"):
        score_dataset(load_from_disk(source), RSRScorer(student_folder), tmp_path / "run")


def test_each_process_begins_with_its_own_share_and_helps_others_from_the_end() -> None:
    units = [Unit(number, number, number + 1, cost) for number, cost in enumerate([60, 50, 40, 30, 20, 10])]
    assert [order_of_work(units, process, 3) for process in range(3)] == [
        [0, 3, 4, 1, 5, 2],
        [1, 4, 5, 2, 3, 0],
        [2, 5, 3, 0, 4, 1],
    ]


def test_a_job_belongs_to_one_process_until_that_process_is_dead(tmp_path: Path) -> None:
    first, second, third = (Workers(tmp_path, "x", process, 3, 0.3) for process in range(3))
    with second, third:
        with first:
            assert first.claim("unit") and not second.claim("unit") and not first.claim("unit")
            time.sleep(0.2)
        assert second.claim("unit") and not third.claim("unit")  # the first one left: at once
        (tmp_path / "launch-x" / "half.0").touch()  # whose owner died before its number was written
        assert not second.claim("half")
        time.sleep(0.4)
        assert second.claim("half") and not third.claim("half")


def test_what_one_process_does_for_all_is_taken_over_if_it_dies(tmp_path: Path) -> None:
    numbers = itertools.count()
    first, second, third = (Workers(tmp_path, "x", process, 3, 60) for process in range(3))
    with first, second:
        with pytest.raises(ValueError, match="no"), third:
            third.once("join", lambda: (_ for _ in ()).throw(ValueError("no")))
        assert second.once("join", lambda: {"number": next(numbers)}) == {"number": 0}
        assert first.once("join", lambda: {"number": next(numbers)}) == {"number": 0}


def test_a_launch_on_another_machine_is_seen_by_its_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(workers_module.platform, "node", lambda: "elsewhere")
    elsewhere = Workers(tmp_path, "x", 0, 2, 60)
    with elsewhere:
        elsewhere._lock.close()  # which other machines may not see
        time.sleep(0.3)
        monkeypatch.setattr(workers_module.platform, "node", lambda: "here")
        with pytest.raises(FolderInUseError):
            Workers(tmp_path, "y", 0, 1, 60).refuse_other_launches()
        sign = (tmp_path / "launch-x" / "alive-0.json").read_text()
    (tmp_path / "launch-x" / "alive-0.json").write_text(sign)  # as if that machine had died
    Workers(tmp_path, "y", 0, 1, 60).refuse_other_launches()
    assert not (tmp_path / "launch-x").exists()
