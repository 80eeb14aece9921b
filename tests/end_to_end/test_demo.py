"""The demo: answers that a program can check, and what is printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from champ import HUMAN, VERIFIABLE, load_champ_with_answers
from conftest import ROOT


def test_answers_of_champ_are_checked() -> None:
    pytest.importorskip("math_verify")
    rows = load_champ_with_answers().to_pandas()
    assert rows["problem_id"].nunique() == VERIFIABLE and len(rows) == 5 * VERIFIABLE
    assert rows[rows["teacher"] == HUMAN]["is_correct"].all()
    first = rows[rows["problem_id"] == "P_Combinatorics_1"].set_index("teacher")["is_correct"]
    assert sorted(first[first].index) == ["GPT-4 Turbo", HUMAN]
    stated = rows[(rows["answer"] == "11") & rows["is_correct"]]  # "is 11, achieved when m = 1 and n = 2"
    assert {"GPT-4", "GPT-4 Turbo"} <= {*stated["teacher"]}
    assert set(load_champ_with_answers(2)["problem_id"]) < set(rows["problem_id"])


@pytest.mark.slow
def test_the_demo_prints_no_noise_and_explains_its_figures(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("demo.py", "champ.py"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TQDM_DELAY": "600"}
    command = [sys.executable, str(tmp_path / "scripts" / "demo.py"), "--problems", "2"]
    done, again = (
        subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280) for _ in range(2)
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert re.match(r"Scoring 10 trajectories, about [\d,]+ tokens, for SmolLM2-135M-Instruct: about ", done.stdout)
    assert "neighbours are sure at 95%" in done.stdout and "not whether it is true: " in done.stdout
    assert (tmp_path / ".demo" / "report.html").is_file()
    assert again.stdout.startswith("All trajectories are scored already.\n")
    assert again.stdout.split("Which teacher")[1] == done.stdout.split("Which teacher")[1]
