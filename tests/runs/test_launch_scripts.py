"""The two-node and Slurm scripts: both nodes are here, and a small stand-in for Slurm starts the job on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, conversation
from datasets import Dataset, load_from_disk
from forked_python import free_port

ROWS = 12
SRUN = """#!/usr/bin/env bash
shift  # --kill-on-bad-exit=1
SLURM_NODEID=0 "$@" & first=$!
SLURM_NODEID=1 "$@" & second=$!
wait $first && wait $second
"""
SCONTROL = """#!/usr/bin/env bash
[ "$*" = "show hostnames node[1-2]" ] || exit 1
echo 127.0.0.1
sleep 0.3  # who stopped reading after the first name would be heard of now
echo node2
"""


def environment(**more: str) -> dict[str, str]:
    here = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return os.environ | here | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | more


def arguments(tmp_path: Path, student: str) -> list[str]:
    rows = [{"messages": conversation(f"Problem {i}?", "the answer is 42. " * (i + 1))} for i in range(ROWS)]
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    return [f"{tmp_path}/*.parquet", "--student", student, "--output-dir", str(tmp_path / "run"), "--unit-rows", "2"]


def assert_scored_by_two_processes(run: Path) -> None:
    assert load_from_disk(run / "scored")["rsr_status"][:] == ["scored"] * ROWS
    manifest = json.loads((run / "manifest.json").read_text())
    assert sum(totals["rows"] for totals in manifest["totals"]["processes"].values()) == ROWS
    assert sorted(file.name for file in run.glob("launch-*/alive-*.json")) == ["alive-0.json", "alive-1.json"]


@pytest.mark.slow  # the job below starts the same script
def test_two_nodes(student_folder: str, tmp_path: Path) -> None:
    script = str(ROOT / "scripts" / "two_nodes.sh")
    settings = environment(PROCESSES_PER_NODE="1", PORT=str(free_port()))
    nodes = [
        subprocess.Popen(
            ["bash", script, str(node), "127.0.0.1", *arguments(tmp_path, student_folder)],
            env=settings,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in (0, 1)
    ]
    for node in nodes:
        _, err = node.communicate(timeout=120)
        assert node.returncode == 0, err
    assert_scored_by_two_processes(tmp_path / "run")


@pytest.mark.slow
def test_the_slurm_job(student_folder: str, tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "1"}
    settings = environment(**slurm, SLURM_JOB_ID=str(free_port() - 20000))
    settings["PATH"] = f"{commands}:{settings['PATH']}"
    done = subprocess.run(
        ["bash", "scripts/slurm.sh", *arguments(tmp_path, student_folder)],
        env=settings,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert_scored_by_two_processes(tmp_path / "run")
