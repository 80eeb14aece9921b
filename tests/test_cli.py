"""The command line as a person or a job script uses it: real commands, real files."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, conversation
from datasets import Dataset, DatasetDict, load_from_disk

from rsr_datasets import RSRScorer


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Two JSON lines files of five rows each, one row without a response."""
    answers = ["x = 3", "the answer is 42.", "a + b = c", "", "so f(n) = 2"]
    for part in range(2):
        rows = [{"id": f"{part}-{i}", "messages": conversation(f"{part}?", text)} for i, text in enumerate(answers)]
        (tmp_path / f"part{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def run(
    *arguments: object, cwd: Path, launcher: tuple[str, ...] = ("-m", "rsr_datasets")
) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "home")}
    environment |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *launcher, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


def test_score_from_files_to_a_dataset(traces: Path, student_folder: str) -> None:
    done = run("score", "part*.jsonl", "--student", student_folder, "--output-dir", "out", cwd=traces)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out/scored: 8 scored, 2 no_response\n"
    assert load_from_disk(traces / "out" / "scored")["id"][:] == [f"{p}-{i}" for p in range(2) for i in range(5)]
    again = run("score", "part*.jsonl", "--student", student_folder, "--output-dir", "out", "--strict", cwd=traces)
    assert again.returncode == 1
    assert again.stdout == done.stdout


def test_score_under_accelerate_launch(traces: Path, student_folder: str) -> None:
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
    launcher += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "rsr_datasets")
    arguments = ("score", "part*.jsonl", "--student", student_folder, "--output-dir", "out", "--unit-rows", 3)
    done = run(*arguments, cwd=traces, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out/scored: 8 scored, 2 no_response\n"  # said once
    accounts = json.loads((traces / "out" / "manifest.json").read_text())["accounts"]
    assert {account["process"] for account in accounts} == {0, 1}
    by_file = run(*arguments[1:], cwd=traces, launcher=(str(ROOT / "scripts" / "score.py"),))
    assert by_file.stdout == done.stdout


def test_every_option_of_the_scorer_is_a_flag() -> None:
    shown = run("score", "--help", cwd=ROOT).stdout
    for name in inspect.signature(RSRScorer).parameters:
        assert f"--{name.replace('_', '-')}" in shown, name


def test_all_flags_reach_the_scorer(traces: Path, student_folder: str) -> None:
    Dataset.from_json(str(traces / "part0.jsonl")).rename_column("messages", "chat").to_parquet(traces / "x.parquet")
    flags = {
        "--tokenizer": student_folder,
        "--chat-template": "plain",
        "--dtype": "float32",
        "--device": "cpu",
        "--attn-implementation": "eager",
        "--model-kwargs": '{"use_safetensors": true}',
        "--chat-template-kwargs": '{"style": "x"}',
        "--rank-clip": 7,
        "--max-length": 50,
        "--on-overflow": "skip",
        "--turns": "last",
        "--logits-dtype": "float32",
        "--column-prefix": "tiny",
        "--tokens-per-batch": 64,
        "--columns": '{"messages": "chat"}',
        "--unit-rows": 2,
        "--revision": "main",
    }
    pairs = [part for flag in flags.items() for part in flag]
    done = run(
        *("score", "x.parquet", "--student", student_folder, "--output-dir", "out", "--token-columns", *pairs),
        cwd=traces,
    )
    assert done.returncode == 0, done.stderr
    scored = load_from_disk(traces / "out" / "scored")
    assert {"tiny", "tiny_token_ranks"} <= set(scored.column_names)
    settings = json.loads((traces / "out" / "run.json").read_text())
    assert settings["tokens_per_batch"] == 64 and len(settings["units"]) == 3
    expected = RSRScorer(
        student_folder,
        revision="main",
        tokenizer=student_folder,
        chat_template="plain",
        dtype="float32",
        attn_implementation="eager",
        model_kwargs={"use_safetensors": True},
        chat_template_kwargs={"style": "x"},
        rank_clip=7,
        max_length=50,
        on_overflow="skip",
        turns="last",
        logits_dtype="float32",
    )
    assert settings["settings"] == json.loads(json.dumps(expected.settings))


def test_a_saved_dataset_and_its_splits(traces: Path, student_folder: str) -> None:
    dataset = Dataset.from_json(str(traces / "part0.jsonl"))
    DatasetDict(train=dataset, test=dataset.select([0])).save_to_disk(traces / "saved")
    done = run("score", "saved", "--student", student_folder, "--output-dir", "both", cwd=traces)
    assert done.stdout == "both/train/scored: 4 scored, 1 no_response\nboth/test/scored: 1 scored\n"
    one = run("score", "saved", "--split", "test", "--student", student_folder, "--output-dir", "one", cwd=traces)
    assert one.stdout == "one/scored: 1 scored\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl"], "no file 'nowhere.jsonl'"),
        (["*.nothing.jsonl"], "no file '*.nothing.jsonl'"),
        (["part0.jsonl", "notes.txt"], "different or unknown kinds"),
        (["empty"], "no folder of save_to_disk"),
        (["nobody/nothing"], "nobody/nothing"),
        (["part0.jsonl", "--rank-clip", "0"], "rank_clip=0"),
        (["part0.jsonl", "--rank-clip", "many"], "'--rank-clip'"),
        (["part0.jsonl", "--turns", "first"], "first"),
        (["part0.jsonl", "--model-kwargs", "{"], "is not JSON"),
        (["part0.jsonl", "--columns", '{"prompt": "question"}'], "no column 'question'"),
        (["part0.jsonl", "--no-such-flag"], "--no-such-flag"),
        (["part0.jsonl", "--student", "empty"], "cannot load 'empty'"),
        (["part0.jsonl", "--output-dir", "empty"], "not a run folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    traces: Path, student_folder: str, arguments: list[str], message: str
) -> None:
    (traces / "empty").mkdir()
    (traces / "empty" / "notes.txt").write_text("mine")
    done = run("score", "--student", student_folder, "--output-dir", "out", *arguments, cwd=traces)
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("rsr-datasets: ")]
    assert len(said) == 1 and message in said[0]
    assert "Traceback" not in done.stderr
    assert not (traces / "out" / "scored").exists()
    assert sorted(file.name for file in (traces / "empty").iterdir()) == ["notes.txt"]
