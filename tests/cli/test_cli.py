"""The command line as a person or a job script uses it: real commands, real files."""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hub_client
import pytest
import yaml
from champ import load_champ
from conftest import ROOT, conversation
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from forked_python import ForkedPython, run_python
from hub_server import Hub
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from rsr_datasets import (
    RSRScorer,
    control_subsets,
    diagnose,
    push_curated,
    rank_teachers,
    score_dataset,
    select_subset,
    select_trajectories,
)
from rsr_datasets.cli.commands import app
from rsr_datasets.cli.options import options_of
from rsr_datasets.report import build_report
from rsr_datasets.tables.records import append_record, read_records, settings_hash

SCORES = ROOT / "tests" / "data" / "champ_smollm2_scores.parquet"
TOKEN = "hf_MeMeMeMeMeMeMeMeMeMeMeMeMeMeMeMeMe"

# Runs a command in this process and says what was imported that takes long.
DOOR = """
import sys
from rsr_datasets.cli.commands import main
try:
    main()
finally:
    print("loaded:", *{"torch", "transformers", "datasets", "pyarrow", "pandas"} & sys.modules.keys())
"""


@pytest.fixture(scope="module")
def champ(tmp_path_factory: pytest.TempPathFactory, student_folder: str) -> Path:
    """A folder with the trajectories of CHAMP's four teachers for three problems, a file each, and scores of them."""
    folder = tmp_path_factory.mktemp("champ")
    (folder / "traces").mkdir()
    rows = load_champ(3).to_pandas()
    for teacher in rows["teacher"].unique()[:4]:
        own = rows[rows["teacher"] == teacher].drop(columns="teacher")
        Dataset.from_pandas(own, preserve_index=False).to_json(folder / "traces" / f"{teacher}.jsonl")
    arguments = ("score", "traces/*.jsonl", "--teacher-from-file", "--student", student_folder, "--token-columns")
    done = run(*arguments, "--max-length", 9000, "--output-dir", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "run/scored: 12 scored\n"
    return folder


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Two JSON lines files of five rows each, one row without a response."""
    answers = ["x = 3", "the answer is 42.", "a + b = c", "", "so f(n) = 2"]
    for part in range(2):
        rows = [{"id": f"{part}-{i}", "messages": conversation(f"{part}?", text)} for i, text in enumerate(answers)]
        (tmp_path / f"part{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    return run_python("-m", "rsr_datasets", *arguments, cwd=cwd, ACCELERATE_USE_CPU="true")


def run_afresh(
    *arguments: object, cwd: Path, launcher: tuple[str, ...] = ("-m", "rsr_datasets")
) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "home")}
    environment |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *launcher, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


def test_score_from_files_to_a_dataset(traces: Path, student_folder: str) -> None:
    done = run_afresh("score", "part*.jsonl", "--student", student_folder, "--output-dir", "out", cwd=traces)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out/scored: 8 scored, 2 no_response\n"
    assert done.stderr.count(f"Loading the student {student_folder} ...\n") == 1
    assert load_from_disk(traces / "out" / "scored")["id"][:] == [f"{p}-{i}" for p in range(2) for i in range(5)]
    again = run("score", "part*.jsonl", "--student", student_folder, "--output-dir", "out", "--strict", cwd=traces)
    assert again.returncode == 1
    assert again.stdout == done.stdout


def test_strict_takes_truncated_rows_for_scored(traces: Path, student_folder: str) -> None:
    Dataset.from_json(str(traces / "part0.jsonl")).select([1]).to_json(traces / "one.jsonl")
    arguments = ("score", "one.jsonl", "--student", student_folder, "--max-length", 14, "--output-dir", "out")
    done = run(*arguments, "--strict", cwd=traces)
    assert (done.returncode, done.stdout) == (0, "out/scored: 1 truncated\n"), done.stderr


def test_nothing_scored_is_exit_code_1_with_the_reasons(traces: Path, student_folder: str) -> None:
    rows = [{"messages": conversation("?", "")}, {"messages": conversation("?", "")}, {"messages": 3}]
    (traces / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ("--student", student_folder, "--output-dir")
    for _ in ("scored", "resumed"):
        done = run("score", "bad.jsonl", *arguments, "bad", cwd=traces)
        assert (done.returncode, done.stdout) == (1, "bad/scored: 2 no_response, 1 bad_row\n"), done.stderr
        said = done.stderr.splitlines()[-1]
        assert (
            said.startswith("rsr-datasets: no row has a score: 2 no_response (row 0: ")
            and "; 1 bad_row (row 2: " in said
        )


def test_score_under_accelerate_launch(traces: Path, student_folder: str) -> None:
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
    launcher += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "rsr_datasets")
    arguments = ("score", "part*.jsonl", "--student", student_folder, "--output-dir", "out", "--unit-rows", 3)
    done = run_afresh(*arguments, cwd=traces, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out/scored: 8 scored, 2 no_response\n"  # said once
    assert sorted(file.name for file in traces.glob("out/launch-*/alive-*.json")) == ["alive-0.json", "alive-1.json"]
    by_file = run_python(ROOT / "scripts" / "score.py", *arguments[1:], cwd=traces, ACCELERATE_USE_CPU="true")
    assert by_file.stdout == done.stdout


COMMANDS_WITH_HELP = [[], *([name] for name in ("score", "teachers", "diagnose", "select", "report", "push"))]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        *(([*name, "--help"], 0) for name in COMMANDS_WITH_HELP),
        (["score", "x", "--no-such-flag"], 2),
        (["score"], 2),
        (["score", "nowhere.jsonl", "--student", "x", "--output-dir", "y"], 2),
        (["select", "x", "--output", "y"], 2),
    ],
)
def test_help_and_mistakes_import_nothing_that_takes_long(arguments: list[str], code: int, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run_afresh(*arguments, cwd=tmp_path, launcher=("-c", DOOR))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("loaded:\n")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


@pytest.mark.parametrize("name", ["score", "teachers", "diagnose", "select", "report", "push"])
def test_help_has_titles_and_speaks_of_flags(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"]).stdout
    titles = re.findall(r"^(\w.*):$", shown, re.MULTILINE)
    assert titles[0] == "Rows" and titles[-1] == "Output" and len(titles) > 2
    if name == "score":
        assert titles == ["Rows", "Student", "Scoring", "Speed", "Output"]
    sections = dict(zip(titles, re.split(r"^\w.*:$", shown, flags=re.MULTILINE)[1:], strict=True))
    assert "--config" in sections["Output"] and "--split" in sections["Rows"]
    text = " ".join(shown.split())
    for of_python in ("None", "True", "rsr_datasets.", "torch.", "``", "RSRScorer", "Whether to", "scorer", "Boolean"):
        assert of_python not in text
    examples = re.findall(rf"^    (?:rsr-datasets|accelerate launch -m rsr_datasets) {name} .*$", shown, re.MULTILINE)
    assert examples


@pytest.mark.parametrize(
    ("path", "function"),
    [
        *((f"rsr_datasets.{f.__name__}", f) for f in (RSRScorer, score_dataset, rank_teachers, push_curated)),
        *((f"rsr_datasets.{f.__name__}", f) for f in (select_trajectories, select_subset)),
        ("rsr_datasets.report.build_report", build_report),
    ],
)
def test_every_argument_is_a_flag_with_its_default(path: str, function: Callable[..., object]) -> None:
    arguments = {name: argument.default for name, argument in inspect.signature(function).parameters.items()}
    objects = {"dataset", "scorer", "scored", "selected"}  # a shell cannot give these
    assert {option.name: option.default for option in options_of(path)} == {
        name: default for name, default in arguments.items() if name not in objects
    }


@pytest.mark.slow
def test_all_flags_reach_the_scorer(traces: Path, student_folder: str) -> None:
    Dataset.from_json(str(traces / "part0.jsonl")).rename_column("messages", "chat").to_parquet(traces / "x.parquet")
    flags = {
        "--tokenizer": student_folder,
        "--chat-template": "plain",
        "--dtype": "float32",
        "--device": "cpu",
        "--attn-implementation": "eager",
        "--model-kwargs": '{"use_safetensors": true, "token": "hf_secret"}',
        "--chat-template-kwargs": '{"style": "x"}',
        "--rank-clip": 7,
        "--max-length": 50,
        "--on-overflow": "skip",
        "--turns": "last",
        "--logits-dtype": "float32",
        "--column-prefix": "tiny",
        "--tokens-per-batch": 64,
        "--no-share-prefixes": "",
        "--columns": '{"messages": "chat"}',
        "--unit-rows": 2,
        "--revision": "main",
    }
    pairs = [part for flag in flags.items() for part in flag if part != ""]
    pairs += ["--metrics", "top1_share", "--metrics", "avg_entropy"]
    done = run(
        *("score", "x.parquet", "--student", student_folder, "--output-dir", "out", "--token-columns", *pairs),
        cwd=traces,
    )
    assert done.returncode == 0, done.stderr
    scored = load_from_disk(traces / "out" / "scored")
    metrics = {"tiny_top1_share", "tiny_avg_entropy", "tiny_token_entropies"}
    assert {"tiny", "tiny_token_ranks"} | metrics <= set(scored.column_names)
    settings = json.loads((traces / "out" / "run.json").read_text())
    assert settings["options"] == {"tokens_per_batch": 64, "share_prefixes": False} and len(settings["units"]) == 3
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
    texts = [file.read_text() for kind in ("json", "yaml") for file in (traces / "out").rglob(f"*.{kind}")]
    assert len(texts) > 3 and not any("hf_secret" in text for text in texts)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--chat-template", "chatml"], "--chat-template was not given and is chatml now"),
        (["--rank-clip", "7"], "--rank-clip was 100 and is 7 now"),
        (["--turns", "each"], "--turns was all and is each now"),
        ([], "--token-columns was given and is not given now"),
        (["--columns", '{"messages": "chat"}'], "--columns was not given and is {'messages': 'chat'} now"),
        (["--reasoning", "in_field"], "--reasoning was as_is and is in_field now"),
    ],
)
def test_another_run_is_refused_in_words_of_flags_before_anything_loads(
    champ: Path, flags: list[str], said: str
) -> None:
    own = ["--token-columns"] if flags else []
    arguments = ("score", "traces/*.jsonl", "--student", "any", "--max-length", 9000, *own, "--output-dir", "run")
    done = run_afresh(*arguments, *flags, cwd=champ, launcher=("-c", DOOR))
    assert done.returncode == 2 and done.stdout == "loaded:\n", done.stderr
    assert done.stderr.startswith(f"rsr-datasets: run belongs to another run: {said}")
    assert done.stderr.endswith("give another --output-dir\n")


def test_score_says_what_to_type_next(champ: Path, student_folder: str) -> None:
    """The champ folder was scored with token columns; its rows have teachers and problem ids."""
    arguments = ("score", "traces/*.jsonl", "--teacher-from-file", "--student", student_folder, "--token-columns")
    again = run(*arguments, "--max-length", 9000, "--output-dir", "run", cwd=champ)
    assert again.stderr.splitlines()[-5:] == [
        "Next, for example:",
        "  rsr-datasets teachers run --problem-column problem_id",
        "  rsr-datasets diagnose run --group-by problem_id",
        "  rsr-datasets select run --group-by problem_id --output best",
        f"  rsr-datasets report run --selected best --tokenizer {student_folder} --output report.html",
    ]
    for_programs = run(*arguments, "--max-length", 9000, "--output-dir", "run", "--json", cwd=champ)
    assert "Next" not in for_programs.stdout + for_programs.stderr


def test_the_next_commands_fit_rows_without_problem_ids(traces: Path, student_folder: str) -> None:
    part = Dataset.from_json(str(traces / "part0.jsonl")).rename_column("messages", "chat")
    DatasetDict(train=part, test=part).save_to_disk(traces / "saved")
    columns = ("--columns", '{"messages": "chat"}', "--column-prefix", "tiny")
    done = run("score", "saved", "--student", student_folder, *columns, "--output-dir", "a run", cwd=traces)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.split("Next, for example:\n")[1].splitlines()
    assert [shlex.split(line)[1] for line in lines] == ["diagnose", "select", "report"]
    for line in lines:
        followed = run(*shlex.split(line)[1:], cwd=traces)
        assert followed.returncode == 0, (line, followed.stderr)


def test_select_says_how_many_kept_rows_are_not_known_to_be_correct(tmp_path: Path) -> None:
    known = [True, False, None, False]
    columns = {"problem_id": ["a", "a", "b", "c"], "rsr": [2.0, 1.0, 3.0, 4.0], "is_correct": known}
    Dataset.from_dict(columns | {"rsr_status": ["scored"] * 4, "rsr_settings": ["x-100"] * 4}).to_parquet(
        tmp_path / "s.parquet"
    )
    arguments = (
        "select",
        "s.parquet",
        "--group-by",
        "problem_id",
        "--correct",
        "is_correct",
        "--output",
        "best.parquet",
    )
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not known to be correct: 2 kept rows, of problems without a correct one" in done.stdout


@pytest.mark.parametrize("name", ["teachers", "select", "diagnose"])
def test_finished_scores_are_read_without_a_student(champ: Path, name: str, tmp_path: Path) -> None:
    written = ("--group-by", "problem_id", "--output", tmp_path / "best", "--overwrite")
    flags = {"teachers": (), "diagnose": (), "select": written}
    seconds = []
    for _ in range(3):  # a core that computes for others too takes longer: the least counts
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run_afresh(name, champ / "run", *flags[name], cwd=tmp_path, launcher=("-c", DOOR))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        assert not {"torch", "transformers"} & {*done.stdout.splitlines()[-1].split()}
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert name == "diagnose" or min(seconds) < 2


def test_a_student_in_the_working_folder_has_a_name(traces: Path, student_folder: str) -> None:
    shutil.copytree(student_folder, traces / "tiny")
    done = run("score", "../part0.jsonl", "--student", ".", "--output-dir", "../out", cwd=traces / "tiny")
    assert done.returncode == 0, done.stderr
    assert read_records(load_from_disk(traces / "out" / "scored"))[0]["student"] == "tiny"


def test_a_saved_dataset_and_its_splits(traces: Path, student_folder: str) -> None:
    dataset = Dataset.from_json(str(traces / "part0.jsonl"))
    DatasetDict(train=dataset, test=dataset.select([0])).save_to_disk(traces / "saved")
    done = run("score", "saved", "--student", student_folder, "--output-dir", "both", cwd=traces)
    assert done.stdout == "both/train/scored: 4 scored, 1 no_response\nboth/test/scored: 1 scored\n"
    one = run("score", "saved", "--split", "test", "--student", student_folder, "--output-dir", "one", cwd=traces)
    assert one.stdout == "one/scored: 1 scored\n"


def test_from_files_of_four_teachers_to_a_subset_a_report_and_a_card(
    champ: Path, student_folder: str, tmp_path: Path
) -> None:
    """The commands of the README after scoring: names of files become teachers, and no Python is typed."""
    scored = load_from_disk(champ / "run" / "scored")
    assert sorted(set(scored["teacher"])) == ["GPT-3.5", "GPT-4", "GPT-4 Turbo", "PaLM 2 Medium"]
    ranked = run("teachers", champ / "run", "--problem-column", "problem_id", cwd=tmp_path)
    assert ranked.returncode == 0, ranked.stderr
    assert ranked.stdout == f"{rank_teachers(scored, problem_column='problem_id')}\n"

    chosen = run("select", champ / "run", "--group-by", "problem_id", "--output", "best", cwd=tmp_path)
    assert chosen.returncode == 0, chosen.stderr
    assert "rows    12 -> 3" in chosen.stdout and "written to best" in chosen.stdout
    best = load_from_disk(tmp_path / "best")
    assert best.to_list() == select_trajectories(scored, group_by="problem_id").to_list()
    assert json.loads((tmp_path / "best.provenance.json").read_text()) == read_records(best)

    page = ("report", champ / "run", "--selected", "best", "--tokenizer", student_folder, "--output", "report.html")
    reported = run(*page, cwd=tmp_path)
    assert (reported.returncode, reported.stdout) == (0, "written to report.html\n"), reported.stderr
    assert "<html" in (tmp_path / "report.html").read_text()

    pushed = run("push", "best", "me/curated", "--dry-run", cwd=tmp_path)
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.startswith("---\n") and "select_trajectories" in pushed.stdout


def test_json_is_what_the_functions_return(champ: Path, tmp_path: Path) -> None:
    scored = load_from_disk(champ / "run" / "scored")
    ranked = run("teachers", champ / "run", "--json", cwd=tmp_path)
    assert json.loads(ranked.stdout) == json.loads(json.dumps(rank_teachers(scored).to_dict()))
    chosen = run("select", champ / "run", "--n", 5, "--output", "x.parquet", "--json", cwd=tmp_path)
    _, report = select_subset(scored, n=5, return_report=True)
    assert json.loads(chosen.stdout) == {
        "output": "x.parquet",
        "splits": {"": json.loads(json.dumps(report.to_dict()))},
    }
    reported = run("report", champ / "run", "--output", "r.html", "--json", cwd=tmp_path)
    assert json.loads(reported.stdout) == {"output": "r.html", "bytes": (tmp_path / "r.html").stat().st_size}
    card = run("push", "x.parquet", "me/curated", "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(card.stdout)["card"].startswith("---\n")


def test_records_travel_with_files(champ: Path, tmp_path: Path) -> None:
    for name, kind in (("x.parquet", "parquet"), ("x.jsonl", "json")):
        run("select", champ / "run", "--n", 5, "--output", name, cwd=tmp_path)
        again = run("select", name, "--n", 2, "--output", f"again-{kind}", cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert len(load_dataset(kind, data_files=str(tmp_path / name), split="train")) == 5
        assert [r["step"] for r in read_records(load_from_disk(tmp_path / f"again-{kind}"))] == [
            "score",
            "select_subset",
            "select_subset",
        ]


EVERY_FLAG = {
    "teachers": "--teacher-column teacher --problem-column problem_id --sample 2 --seed 3 --adaptive --confidence 0.9 "
    "--tolerance 0.02 --resamples 100 --allow-mixed-settings --column-prefix rsr --json --split train "
    "--metric avg_surprisal",
    "select": "--group-by problem_id --group-by category --keep 2 --correct right --seed 1 --max-tokens 2000 "
    "--min-tokens 3 --metric rsr_avg_surprisal --largest --keep-unscored --keep-truncated --sort "
    "--allow-mixed-settings --column-prefix rsr --teacher-column category --turns last "
    '--columns {"messages":"messages"} --output kept --json --overwrite --split train --controls arms --match tokens',
    "diagnose": "--group-by problem_id --metric avg_surprisal --correct right --teacher-column teacher --also rsr "
    "--largest --allow-mixed-settings --seed 1 --column-prefix rsr --turns last --split train --json "
    '--columns {"messages":"messages"}',
    "report": "--output r.html --selected data --teacher-column category --problem-column problem_id "
    "--correct right --tokenizer STUDENT --max-points 7 --seed 2 --column-prefix rsr --title Mine --turns last "
    '--columns {"messages":"messages"} --media-root . --split train --overwrite --json',
}
FROM_OTHER_TESTS = {
    "teachers": {"--student"},
    "select": {"--fraction", "--n", "--max-rsr", "--balance-by", "--student", "--prune", "--output-dir"}
    | {"--regret", "--confidence", "--calibration"},
    "diagnose": set(),
    "report": set(),
}


@pytest.mark.parametrize("name", EVERY_FLAG)
def test_every_flag_is_taken(champ: Path, student_folder: str, name: str, tmp_path: Path) -> None:
    scored = load_from_disk(champ / "run" / "scored")
    part = scored.add_column("right", [i % 2 == 0 for i in range(len(scored))])
    DatasetDict(train=part, test=part.select([0])).save_to_disk(tmp_path / "data")
    given = EVERY_FLAG[name].replace("STUDENT", student_folder).split()
    done = run(name, "data", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = set(re.findall(r"^  (--[\w-]+)", run(name, "--help", cwd=tmp_path).stdout, re.MULTILINE)) - {"--help"}
    scorer_flags = {f"--{argument.replace('_', '-')}" for argument in inspect.signature(RSRScorer).parameters}
    scorer_flags |= {"--base-url"}  # an entry of model_kwargs in Python
    of_all = {"--config", "--config-name", "--teacher-from-file"}
    missing = shown - {value for value in given if value.startswith("--")} - FROM_OTHER_TESTS[name] - of_all
    reads = name in ("teachers", "select")
    assert missing == (scorer_flags - set(given) - {"--student"} if reads else set())
    if name == "select":
        chosen = {"keep": 2, "correct": "right", "metric": "rsr_avg_surprisal", "largest": True, "sort": True}
        chosen |= {"keep_truncated": True, "keep_unscored": True, "max_tokens": 2000, "min_tokens": 3}
        expected = select_trajectories(part, group_by=["problem_id", "category"], **chosen)
        assert load_from_disk(tmp_path / "kept")["rsr"][:] == expected["rsr"][:]
    if name == "diagnose":
        chosen = {"also": ["rsr"], "largest": True, "seed": 1, "turns": "last"}
        found = diagnose(part, ["problem_id"], "avg_surprisal", "right", **chosen)
        assert json.loads(done.stdout) == json.loads(json.dumps(found.to_dict()))
    if name == "teachers":
        chosen = {"problem_column": "problem_id", "sample": 2, "seed": 3, "adaptive": True, "confidence": 0.9}
        expected = rank_teachers(part, **chosen, tolerance=0.02, resamples=100, metric="avg_surprisal")
        assert json.loads(done.stdout) == json.loads(json.dumps(expected.to_dict()))


def test_a_subset_balanced_by_teacher(tmp_path: Path) -> None:
    arguments = ("select", SCORES, "--fraction", 0.1, "--balance-by", "teacher", "--output", "few.jsonl")
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = select_subset(Dataset.from_parquet(str(SCORES)), 0.1, balance_by="teacher")
    assert Dataset.from_json(str(tmp_path / "few.jsonl"))["rsr"][:] == pytest.approx(expected["rsr"][:], abs=1e-15)
    low = run("select", SCORES, "--max-rsr", 2.5, "--output", "low.parquet", cwd=tmp_path)
    assert low.returncode == 0
    assert max(Dataset.from_parquet(str(tmp_path / "low.parquet"))["rsr"]) <= 2.5


def test_a_selection_is_diagnosed_and_gets_its_control_arms(tmp_path: Path) -> None:
    said = run("diagnose", SCORES, "--group-by", "problem_id", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    rows = Dataset.from_parquet(str(SCORES))
    assert said.stdout == f"{diagnose(rows, 'problem_id')}\n"
    arguments = ("select", SCORES, "--group-by", "problem_id", "--output", "best", "--controls", "arms")
    done = run(*arguments, "--match", "tokens", "--match", "teacher", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *_, head, _, _, _, random, _, _ = done.stdout.splitlines()
    assert head.split() == ["arm", "rows", "tokens,", "of", "the", "selection's", "other", "teachers"]
    assert random.split()[:2] == ["random", "270"] and "written to arms" in done.stdout
    expected = control_subsets(rows, load_from_disk(tmp_path / "best"), "problem_id", match=["tokens", "teacher"])
    assert {k: v.to_list() for k, v in load_from_disk(tmp_path / "arms").items()} == {
        k: v.to_list() for k, v in expected.items()
    }
    score = {"step": "score", "student": "x", "settings": {"rank_clip": 100}}
    renamed = rows.map(lambda _: {"rsr_settings": settings_hash(score["settings"])})
    append_record(renamed, score).select(range(300)).save_to_disk(tmp_path / "scored")
    card = run("push", "scored", "me/curated", "--controls", "arms", "--dry-run", cwd=tmp_path)
    assert card.returncode == 0, card.stderr
    assert "## Control arms" in card.stdout and "| `shortest` | 270 | 74.9% |" in card.stdout


def test_control_arms_take_what_the_selection_takes(tmp_path: Path) -> None:
    rows = Dataset.from_parquet(str(SCORES)).sort("problem_id").select(range(50))
    rows.map(lambda _, i: {"rsr_settings": f"a{i % 2}"}, with_indices=True).to_parquet(tmp_path / "mixed.parquet")
    arguments = ("select", "mixed.parquet", "--group-by", "problem_id", "--output", "best", "--allow-mixed-settings")
    for controls, reason in (("best", "--output and --controls are both best"), ("a.parquet", "need a folder")):
        done = run(*arguments, "--controls", controls, cwd=tmp_path)
        assert done.returncode == 2 and reason in done.stderr and not (tmp_path / "best").exists()
    done = run(*arguments, "--controls", "arms", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {len(arm) for arm in load_from_disk(tmp_path / "arms").values()} == {10}


def test_a_selection_that_keeps_nothing_writes_nothing(tmp_path: Path) -> None:
    done = run("select", SCORES, "--max-rsr", 0.5, "--output", "none", cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "rsr-datasets: no row is kept: nothing is written")
    assert "rows    1,350 -> 0" in done.stdout and not list(tmp_path.iterdir())


def test_teachers_are_ranked_from_a_sample_that_is_scored_for_it(champ: Path, student_folder: str) -> None:
    arguments = ("teachers", "traces/*.jsonl", "--teacher-from-file", "--student", student_folder)
    done = run(*arguments, "--problem-column", "problem_id", "--max-length", 9000, "--json", cwd=champ)
    assert done.returncode == 0, done.stderr
    expected = rank_teachers(load_from_disk(champ / "run" / "scored"), problem_column="problem_id")
    assert [t["teacher"] for t in json.loads(done.stdout)["teachers"]] == [t.teacher for t in expected.teachers]


def test_candidates_are_pruned_for_a_student(champ: Path, student_folder: str, tmp_path: Path) -> None:
    arguments = ("select", "traces/*.jsonl", "--teacher-from-file", "--student", student_folder, "--prune")
    promise = ("--regret", 0.02, "--confidence", 0.8, "--calibration", 2, "--max-length", 9000)
    paths = ("--output-dir", tmp_path / "run", "--output", tmp_path / "best", "--json")
    done = run(*arguments, "--group-by", "problem_id", *promise, *paths, cwd=champ)
    assert done.returncode == 0, done.stderr
    pruning = json.loads(done.stdout)["splits"][""]["pruning"]
    assert (pruning["regret"], pruning["confidence"], pruning["calibration"], pruning["problems"]) == (0.02, 0.8, 2, 3)
    best, scored = load_from_disk(tmp_path / "best"), load_from_disk(champ / "run" / "scored")
    # So few problems prove nothing: everything is read.
    assert best["rsr"][:] == pytest.approx(select_trajectories(scored, "problem_id")["rsr"][:], rel=1e-5)
    assert len(load_from_disk(tmp_path / "run" / "scored")) == len(scored)


@pytest.mark.parametrize("flags", [["--prune"], ["--student", "x"]])
def test_a_student_and_pruning_go_together(flags: list[str], tmp_path: Path) -> None:
    done = run("select", SCORES, "--group-by", "problem_id", *flags, "--output", "best", cwd=tmp_path)
    assert done.returncode == 2 and "--student and --prune go together" in done.stderr


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(champ: Path, student_folder: str) -> None:
    arguments = ("score", "traces/*.jsonl", "--student", student_folder, "--output-dir", "dry", "--dry-run")
    done = run(*arguments, "--unit-rows", 5, "--json", cwd=champ)
    assert done.returncode == 0, done.stderr
    estimate = json.loads(done.stdout)["splits"][""]
    manifest = json.loads((champ / "run" / "manifest.json").read_text())
    assert (estimate["rows"], estimate["units"]) == (12, 3)
    # All rows are in the sample; there they are cut at the student's 512 tokens, here at 2,000.
    assert estimate["statuses"].keys() <= {"scored", "truncated"} and 0 < estimate["tokens"] <= 12 * 512
    assert manifest["totals"]["tokens"] > estimate["tokens"]
    assert estimate["parameters"] == sum(
        p.numel() for p in AutoModelForCausalLM.from_pretrained(student_folder).parameters()
    )
    assert 0 < estimate["memory_gib"] < 1 and estimate["hours"] >= 0
    assert not (champ / "dry").exists()
    finished = ("--teacher-from-file", "--token-columns", "--max-length", 9000, "--output-dir", "run", "--dry-run")
    before = files_of(champ)
    again = run(*arguments[:4], *finished, cwd=champ)
    assert again.stdout == "all: nothing is left to score: all 12 rows are done\n", again.stderr
    assert files_of(champ) == before
    assert f"about {estimate['tokens']:,} tokens" in run(*arguments, cwd=champ).stdout


def test_options_come_from_a_file_and_a_run_can_be_repeated(traces: Path, student_folder: str) -> None:
    options = {"student": student_folder, "rank-clip": 7, "columns": {"messages": "messages"}, "unit_rows": 3}
    (traces / "mine.yaml").write_text(yaml.safe_dump(options | {"dataset": ["part0.jsonl"]}))
    first = run("score", "--config", "mine.yaml", "--rank-clip", 9, "--output-dir", "one", cwd=traces)
    assert first.returncode == 0, first.stderr
    resolved = yaml.safe_load((traces / "one" / "config.yaml").read_text())
    assert resolved["rank_clip"] == 9 and resolved["unit_rows"] == 3 and resolved["turns"] == "all"
    again = run("score", "--config", "one/config.yaml", "--output-dir", "two", cwd=traces)
    assert again.returncode == 0, again.stderr
    one, two = (json.loads((traces / name / "run.json").read_text()) for name in ("one", "two"))
    assert one == two


def test_a_list_in_a_config_may_be_a_single_value(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("group_by: problem_id\nkeep: 2\n")
    done = run("select", SCORES, "--config", "mine.yaml", "--output", "kept", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = select_trajectories(Dataset.from_parquet(str(SCORES)), group_by="problem_id", keep=2)
    assert load_from_disk(tmp_path / "kept")["rsr"][:] == expected["rsr"][:]


def test_an_interrupted_score_says_how_to_go_on(student_folder: str, tmp_path: Path) -> None:
    """The signal comes when one of a thousand units is done: no run can be through before it is heard."""
    row = {"messages": conversation("Solve it.", "the answer is 42. " * 40)}
    Dataset.from_list([row] * 1000).to_parquet(tmp_path / "rows.parquet")
    options = ("--student", student_folder, "--output-dir", tmp_path / "run", "--unit-rows", 1)
    process = ForkedPython("-m", "rsr_datasets", "score", tmp_path / "rows.parquet", *options)
    while process.poll() is None and not list((tmp_path / "run").glob("units/*.json")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.poll() == 130, err[-2000:]
    assert "rsr-datasets: stopped; what score has done stays done" in err and "Traceback" not in err
    assert 0 < len(list((tmp_path / "run").glob("units/*.json"))) < 1000


def test_names_cannot_command_the_terminal(tmp_path: Path) -> None:
    scores = Dataset.from_parquet(str(SCORES)).select(range(20))
    hostile = "\x1b[31m[bold]red[/bold]\n\x07"
    renamed = scores.remove_columns("teacher").add_column("teacher", [hostile] * 20)
    renamed.to_parquet(tmp_path / "scores.parquet")
    done = run("teachers", "scores.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and "\x07" not in done.stdout and "[bold]red[/bold]" in done.stdout


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub({TOKEN: ["me"]}) as hub:
        yield hub


@pytest.fixture(scope="module")
def run_online(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    folder = tmp_path_factory.mktemp("client")
    with hub_client.client_process(hub.endpoint, folder / "home", folder / "log.txt") as call:
        yield functools.partial(call, hub_client.command)


def test_push_sends_what_was_selected(champ: Path, hub: Hub, run_online: Callable[..., Any], tmp_path: Path) -> None:
    run("select", champ / "run", "--group-by", "problem_id", "--output", "best", cwd=tmp_path)
    arguments = ("push", "best", "me/curated", "--private", "--token", TOKEN, "--json", "--max-shard-size", "1MB")
    code, out, err = run_online(*arguments, "--card", '{"license": "mit"}', cwd=tmp_path)
    assert code == 0, err
    assert json.loads(out)["repo_id"] == "me/curated"
    assert TOKEN not in out + err
    repository = hub.dataset("me/curated")
    assert repository.private and b"license: mit" in repository.files()["README.md"].content


def test_a_dry_run_says_where_a_name_without_a_namespace_goes(champ: Path, tmp_path: Path) -> None:
    run("select", champ / "run", "--group-by", "problem_id", "--output", "best", cwd=tmp_path)
    done = run("push", "best", "curated", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0 and 'load_dataset("username/curated"' in done.stdout, done.stderr
    said, push = done.stderr.splitlines()
    assert said.startswith("'curated' has no namespace: a push takes that of the token's owner")
    assert push.startswith("Would push 3 rows to curated of the token's owner, ")
    refused = run("push", "best", "me/my/curated", "--dry-run", cwd=tmp_path)
    assert refused.returncode == 2 and "'me/my/curated'" in refused.stderr


def test_a_configuration_of_a_hub_dataset(hub: Hub, run_online: Callable[..., Any], tmp_path: Path) -> None:
    names = ("easy", "hard")
    header = yaml.safe_dump({"configs": [{"config_name": name, "data_files": f"{name}.jsonl"} for name in names]})
    files = {f"{name}.jsonl": json.dumps({"rsr": 1.5, "kind": name}).encode() for name in names}
    hub.create("dataset", "me/two", files={"README.md": f"---\n{header}---\n".encode(), **files})
    arguments = ("select", "me/two", "--n", 1, "--output", "kept")
    for given in ((), ("--config-name", "odd")):
        code, _, err = run_online(*arguments, *given, cwd=tmp_path)
        assert code == 2
        assert "['easy', 'hard']" in err and ("--config-name" in err or given)
    code, _, err = run_online(*arguments, "--config-name", "hard", cwd=tmp_path)
    assert code == 0, err
    assert load_from_disk(tmp_path / "kept" / "train")["kind"][:] == ["hard"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "nowhere.jsonl"], "no file 'nowhere.jsonl'"),
        (["score", "*.nothing.jsonl"], "no file '*.nothing.jsonl'"),
        (["score", "part0.jsonl", "notes.txt"], "'notes.txt' is no file of rows"),
        (["score", "broken.jsonl"], "cannot read broken.jsonl: line 2 is no whole JSON"),
        (["score", "empty"], "no folder of save_to_disk; it has no files of rows either"),
        (["score", "empty", "--teacher-from-file"], "empty is not a file"),
        (["score", "notes.txt"], "'notes.txt' is no file of rows"),
        (["score", "part0.jsonl", "other.jsonl"], "column 'id' is bool in other.jsonl and string in part0.jsonl"),
        (["score", "part0.jsonl", "./part0.jsonl", "--teacher-from-file"], "would both be the teacher 'part0'"),
        (["score", "wide.parquet"], "name others, e.g. --columns '{"),
        (["score", "."], ". is no folder of save_to_disk; name its files, './*.jsonl'"),
        (["push", "SCORES", "me/x"], "pass --student and what else score was given, or --provenance"),
        (["score", "nobody/nothing"], "'nobody/nothing' is no file or folder here"),
        (["score", "part0.jsonl", "--rank-clip", "0"], "--rank-clip 0: "),
        (["score", "part0.jsonl", "--rank-clip", "many"], "'--rank-clip'"),
        (["score", "part0.jsonl", "--unit-rows", "0"], "--unit-rows 0: "),
        (["score", "part0.jsonl", "--heartbeat-timeout", "0"], "--heartbeat-timeout 0.0: "),
        (["score", "part0.jsonl", "--turns", "first"], "first"),
        (["score", "part0.jsonl", "--model-kwargs", "{"], "is not JSON"),
        (["score", "part0.jsonl", "--model-kwargs", "[]"], "is not a JSON object"),
        (["score", "part0.jsonl", "--columns", '{"prompt": "question"}'], "no column 'question'"),
        (["score", "part0.jsonl", "--no-such-flag"], "--no-such-flag"),
        (["score", "part0.jsonl", "--student", "empty"], "cannot load 'empty'"),
        (["score", "part0.jsonl", "--output-dir", "empty"], "not a run folder"),
        (["score", "part0.jsonl", "--config", "nowhere.yaml"], "cannot read nowhere.yaml"),
        (["score", "part0.jsonl", "--config", "notes.txt"], "must hold a mapping"),
        (["score", "part0.jsonl", "--config", "odd.yaml"], "no option 'colour'"),
        (["teachers", "SCORES", "--teacher-column", "author"], "no column 'author'"),
        (["teachers", "SCORES", "--sample", "0"], "--sample 0: "),
        (
            ["teachers", "part0.jsonl"],
            "--teacher-column NAME, of ['id', 'messages']; or, where each teacher has a file, score",
        ),
        (["teachers", "SCORES", "--teacher-column", "techer"], "no column 'techer' (did you mean 'teacher'?)"),
        (["teachers", "SCORES", "--problem-column", "problem"], "(did you mean 'problem_id'?)"),
        (["select", "SCORES", "--output", "x", "--group-by", "Problem_ID"], "(did you mean 'problem_id'?)"),
        (["select", "SCORES", "--output", "x", "--group-by", "problem_id", "--correct", "techer"], "'teacher'?)"),
        (["select", "SCORES", "--output", "x", "--n", "2", "--metric", "rsr_avg_surprise"], "'rsr_avg_surprisal'?)"),
        (["diagnose", "SCORES", "--metric", "avg_surprise"], "(did you mean '"),
        (["score", "part0.jsonl", "--metrics", "perplexty"], "(did you mean 'perplexity'?)"),
        (
            ["score", "part0.jsonl", "--columns", '{"messages": "mesages"}'],
            "no column 'mesages' (did you mean 'messages'?)",
        ),
        (["score", "part0.jsonl", "--columns", '{"asistant": "x"}'], "(did you mean 'assistant'?)"),
        (["score", "part0.jsonl", "--columns", '{"chat": "messages"}'], """type --columns '{"messages": "chat"}'"""),
        (["score", "part0.jsonl", "--columns", "user=problem"], """type '{"user": "problem"}'"""),
        (
            ["score", "part0.jsonl", "--columns", "{user: problem, assistant: b}"],
            """'{"user": "problem", "assistant": "b"}'""",
        ),
        (["score", "part0.jsonl", "--columns", "problem"], """type '{"name": "value"}'"""),
        (["score", "part0.jsonl", "--model-kwargs", "a=1,b=false"], """type '{"a": 1, "b": false}'"""),
        (["score", "part0.jsonl", "texts.jsonl"], "part0.jsonl has messages, texts.jsonl has text; score the files"),
        (["teachers", "splits"], "name one with --split"),
        (["teachers", "splits", "--split", "dev"], "no split 'dev'; there are ['train', 'test']"),
        (["teachers", "SCORES", "--split", "dev"], "no split 'dev'; there are ['train']"),
        (["teachers", "unsplit", "--split", "dev"], "no split 'dev'; there is none"),
        (["teachers", "SCORES", "--config-name", "hard"], "is no Hub dataset"),
        (["select", "SCORES", "--output", "x"], "give --group-by, or one of"),
        (["select", "SCORES", "--output", "x", "--n", "2", "--group-by", "problem_id"], "exclude each other"),
        (["select", "SCORES", "--output", "x", "--n", "2", "--keep", "2"], "--keep needs --group-by"),
        (["select", "SCORES", "--output", "x", "--n", "2", "--controls", "y"], "--controls needs --group-by"),
        (
            ["select", "SCORES", "--output", "x", "--group-by", "a", "--match", "tokens"],
            "--match needs --controls",
        ),
        (["diagnose", "SCORES", "--group-by", "task"], "no column 'task'"),
        (["diagnose", "SCORES", "--also", "teacher"], "not numeric"),
        (["select", "SCORES", "--output", "x", "--n", "2", "--fraction", "0.1"], "exactly one of fraction, n"),
        (["select", "SCORES", "--output", "x", "--group-by", "task"], "no column 'task'"),
        (["select", "SCORES", "--output", "x.csv", "--n", "2"], "give a .parquet or .jsonl file"),
        (["select", "splits", "--output", "x.parquet", "--n", "2"], "need a folder"),
        (["select", "SCORES", "--output", "notes.txt", "--n", "2"], "notes.txt exists"),
        (["select", "SCORES", "--output", "empty", "--n", "2", "--overwrite"], "left alone"),
        (["select", "SCORES", "--output", "no/where", "--n", "2"], "there is no folder no"),
        (["select", "part0.jsonl", "--output", "x", "--n", "2"], "no column 'rsr'"),
        (["report", "SCORES", "--output", "notes.txt"], "notes.txt exists"),
        (["report", "SCORES", "--output", "r.html", "--teacher-column", "author"], "no column 'author'"),
        (["report", "SCORES", "--output", "r.html", "--selected", "nowhere.parquet"], "no file 'nowhere.parquet'"),
        (["report", "part0.jsonl", "--output", "r.html"], "no column 'rsr'"),
        (["push", "nowhere", "me/x"], "nowhere"),
        (["scores"], "No such command 'scores'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    traces: Path, student_folder: str, arguments: list[str], message: str
) -> None:
    (traces / "empty").mkdir()
    (traces / "empty" / "notes.txt").write_text("mine")
    (traces / "notes.txt").write_text("mine")
    (traces / "broken.jsonl").write_text('{"messages": [\n')
    (traces / "texts.jsonl").write_text('{"text": "x"}')
    (traces / "odd.yaml").write_text("colour: red\n")
    (traces / "other.jsonl").write_text('{"id": true, "messages": []}')
    Dataset.from_list([{f"a_column_of_many_{i}": 0 for i in range(100)}]).to_parquet(traces / "wide.parquet")
    scores = Dataset.from_parquet(str(SCORES)).select(range(9))
    DatasetDict(train=scores, test=scores).save_to_disk(traces / "splits")
    Dataset.from_list(scores.to_list()).save_to_disk(traces / "unsplit")
    given = [str(SCORES) if argument == "SCORES" else argument for argument in arguments]
    if arguments[:1] == ["score"]:
        needed = {"--student": student_folder, "--output-dir": "out"}
        given += [part for flag, value in needed.items() if flag not in given for part in (flag, value)]
    before = files_of(traces)
    done = run(*given, cwd=traces)
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("rsr-datasets: ")]
    assert len(said) == 1 and message in said[0] and len(said[0]) <= 400
    assert "Traceback" not in done.stderr
    assert files_of(traces) - before <= {"out", "out/lock"}


def files_of(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}
