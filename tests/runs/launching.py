"""Runs in real processes, and their results, for the tests of this folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
from conftest import ROOT, conversation
from datasets import Dataset, load_from_disk
from forked_python import ForkedPython, ranks

WORDS = ("to solve the problem let x be the number of strings then f(n) = 2 f(n-1) + 3 so the answer is 42").split()  # noqa: SIM905
ROWS = 160
UNIT_ROWS = 4
COLUMNS = ["rsr", "rsr_avg_rank", "rsr_avg_surprisal", "rsr_num_tokens", "rsr_settings", "rsr_status"]
Process = ForkedPython | subprocess.Popen[str]

SCRIPT = """
import json, sys, time, torch
from datasets import load_from_disk
from accelerate import PartialState
from rsr_datasets import RSRScorer, score_dataset
from rsr_datasets.runs import score, workers

torch.set_num_threads(1)
source, student, output, options, heartbeat_timeout, pause, unit_rows = sys.argv[1:]
score.BEAT_SECONDS = workers.BEAT_SECONDS = min(workers.BEAT_SECONDS, float(heartbeat_timeout) / 3)
score_encoded = RSRScorer.score_encoded

def score_slowly(*arguments):
    time.sleep(float(pause))
    return score_encoded(*arguments)

RSRScorer.score_encoded = score_slowly
scorer = RSRScorer(student, **json.loads(options))
run = {"unit_rows": int(unit_rows), "heartbeat_timeout": float(heartbeat_timeout)}
scored = score_dataset(load_from_disk(source), scorer, output, **run)
state = PartialState()
print(json.dumps({"world": state.num_processes, "rank": state.process_index, "rows": len(scored)}), flush=True)
"""


def make_source(folder: Path) -> Path:
    """Rows of different lengths, two of them without a response."""
    rows = []
    for i in range(ROWS):
        answer = " ".join(WORDS[(i * 7 + k) % len(WORDS)] for k in range(3 + (i * 11) % 60))
        rows.append({"id": i, "messages": conversation(f"Problem {i}?", "" if i in (5, 6) else answer)})
    Dataset.from_list(rows).save_to_disk(folder)
    return folder


def launch(
    source: Path,
    student: str,
    output: Path,
    processes: int = 1,
    options: Mapping[str, object] = {},
    heartbeat_timeout: float = 600,
    pauses: Sequence[float] = (0.05, 0.05, 0.05),
) -> list[ForkedPython]:
    """Starts a run; a process pauses before each unit, so that none is done before the others begin."""
    return [
        ForkedPython(*command_of(source, student, output, options, heartbeat_timeout, pause), **variables)
        for variables, pause in zip(ranks(processes), pauses, strict=False)
    ]


def launch_by_accelerate(
    source: Path,
    student: str,
    output: Path,
    machine: tuple[int, int] | None = None,
    heartbeat_timeout: float = 600,
    pause: float = 0.05,
) -> subprocess.Popen[str]:
    """Starts a run of two processes; ``machine`` is (rank, port) of one of two machines with a process each."""
    rank, port = machine or (0, 0)
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launcher += ["--num_machines", "2" if machine else "1", "--num_processes", "2", "--machine_rank", str(rank)]
    launcher += ["--main_process_port", str(port), *(("--main_process_ip", "127.0.0.1") if machine else ())]
    command = [*launcher, *command_of(source, student, output, {}, heartbeat_timeout, pause)]
    return start(command, ACCELERATE_USE_CPU="true")


def command_of(
    source: Path,
    student: str,
    output: Path,
    options: Mapping[str, object] = {},
    heartbeat_timeout: float = 600,
    pause: float = 0.05,
) -> list[str]:
    script = source.with_name("score.py")
    if not script.exists():
        script.write_text(SCRIPT)
    paths = [str(script), str(source), student, str(output)]
    return [*paths, json.dumps(options), str(heartbeat_timeout), str(pause), str(UNIT_ROWS)]


def start(command: Sequence[str], prefix: tuple[str, ...] = (), **variables: str) -> subprocess.Popen[str]:
    """Starts Python afresh."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | variables
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*prefix, sys.executable, *command], env=environment, start_new_session=True, **streams)


def finish(*processes: Process) -> list[dict]:
    """Waits for a run and returns what each of its processes printed."""
    printed = []
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.poll() == 0, err[-3000:]
        printed += [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return printed


def kill_when(
    processes: Sequence[Process], folder: Path, notes: int = 0, taken_by: str = "", rank: str | None = None
) -> set[str]:
    """Kills (-9) processes once so many units are done or a process has taken one; gives those done.

    With ``rank`` only the process of that rank, which a launcher has started, is killed.
    """
    deadline = time.monotonic() + 120
    claims = lambda: {file.read_text() for file in folder.glob("launch-*/unit-*")}  # noqa: E731
    while len(list(folder.glob("units/*.json"))) < notes or (taken_by and taken_by not in claims()):
        assert all(process.poll() is None for process in processes) and time.monotonic() < deadline
        time.sleep(0.002)
    members = [psutil.Process(process.pid) for process in processes]
    members += [child for launcher in members for child in launcher.children(recursive=True)]
    chosen = [each for each in members if rank is None or each.environ().get("RANK") == rank]
    assert chosen
    for member in chosen:
        member.kill()
    for process in processes:
        process.communicate(timeout=120)
        assert process.poll() != 0
    return {file.name for file in folder.glob("units/*.json")}


def times(folder: Path, names: Iterable[str]) -> dict[str, int]:
    return {name: (folder / "units" / name).stat().st_mtime_ns for name in names}


def columns(folder: Path) -> pa.Table:
    return load_from_disk(folder / "scored").data.table.select(COLUMNS).combine_chunks()


def accounts(folder: Path) -> list[dict]:
    return json.loads((folder / "manifest.json").read_text())["accounts"]


def assert_same_bits(found: Path, expected: Path) -> None:
    left, right = columns(found), columns(expected)
    assert left.schema.remove_metadata() == right.schema.remove_metadata()
    for name in COLUMNS:
        for ours, theirs in zip(left[name].chunk(0).buffers(), right[name].chunk(0).buffers(), strict=True):
            assert (ours and ours.to_pybytes()) == (theirs and theirs.to_pybytes()), name


def assert_close(found: list[float | None], expected: list[float | None]) -> None:
    np.testing.assert_allclose(np.array(found, dtype=float), np.array(expected, dtype=float), rtol=1e-5)
