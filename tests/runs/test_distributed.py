"""Big runs in units: many processes, faults, resuming. Every fault is a real one, in real processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np
import psutil
import pyarrow as pa
import pytest
from champ import load_champ
from conftest import ROOT, conversation
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from hypothesis import given
from hypothesis import strategies as st

from rsr_datasets import RSRScorer, score_dataset
from rsr_datasets.reading.formats import find_format
from rsr_datasets.runs.score import Claims, Unit, deal_units, plan_units
from rsr_datasets.tables.records import read_records

WORDS = ("to solve the problem let x be the number of strings then f(n) = 2 f(n-1) + 3 so the answer is 42").split()  # noqa: SIM905
ROWS = 160
COLUMNS = ["rsr", "rsr_avg_rank", "rsr_avg_surprisal", "rsr_num_tokens", "rsr_settings", "rsr_status"]

SCRIPT = """
import json, sys, time, torch
from datasets import load_from_disk
from accelerate import PartialState
from rsr_datasets import RSRScorer, score_dataset

torch.set_num_threads(1)
source, student, output, options, dead_after, pause = sys.argv[1:7]
score_encoded = RSRScorer.score_encoded

def score_slowly(*arguments):
    time.sleep(float(pause))
    return score_encoded(*arguments)

RSRScorer.score_encoded = score_slowly
scorer = RSRScorer(student, **json.loads(options))
scored = score_dataset(load_from_disk(source), scorer, output, unit_rows=4, dead_after=float(dead_after))
state = PartialState()
print(json.dumps({"world": state.num_processes, "rank": state.process_index, "rows": len(scored)}), flush=True)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of different lengths, two of them without a response."""
    rows = []
    for i in range(ROWS):
        answer = " ".join(WORDS[(i * 7 + k) % len(WORDS)] for k in range(3 + (i * 11) % 60))
        rows.append({"id": i, "messages": conversation(f"Problem {i}?", "" if i in (5, 6) else answer)})
    folder = tmp_path_factory.mktemp("source") / "dataset"
    Dataset.from_list(rows).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("script") / "score.py"
    file.write_text(SCRIPT)
    return file


@pytest.fixture(scope="module")
def undisturbed(source: Path, student_folder: str, script: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(launch(script, source, student_folder, folder))
    return folder


def launch(
    script: Path,
    source: Path,
    student: str,
    output: Path,
    processes: int = 1,
    options: Mapping[str, object] = {},
    machine: tuple[int, int] | None = None,
    prefix: tuple[str, ...] = (),
    dead_after: float = 600,
    pause: float = 0.05,
) -> subprocess.Popen[str]:
    """Starts a run; ``machine`` is (rank, port) of one of two machines with a process each.

    For every unit a process takes a ``pause``, in seconds, or the first one would be done before the others began.
    """
    command = [*prefix, sys.executable]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if processes > 1 or machine:
        environment["ACCELERATE_USE_CPU"] = "true"
        command += ["-m", "accelerate.commands.launch", "--multi_gpu", "--mixed_precision", "no"]
        command += ["--dynamo_backend", "no"]
        if machine:
            rank, port = machine
            command += ["--num_machines", "2", "--num_processes", "2", "--machine_rank", str(rank)]
            command += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
        else:
            command += ["--num_machines", "1", "--num_processes", str(processes), "--main_process_port", "0"]
    command += [str(script), str(source), student, str(output), json.dumps(options), str(dead_after), str(pause)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> list[dict]:
    """Waits for a run and returns what each of its processes printed."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def columns(folder: Path) -> pa.Table:
    return load_from_disk(folder / "scored").data.table.select(COLUMNS).combine_chunks()


def assert_same_bits(found: Path, expected: Path) -> None:
    left, right = columns(found), columns(expected)
    assert left.schema.remove_metadata() == right.schema.remove_metadata()
    for name in COLUMNS:
        for ours, theirs in zip(left[name].chunk(0).buffers(), right[name].chunk(0).buffers(), strict=True):
            assert (ours and ours.to_pybytes()) == (theirs and theirs.to_pybytes()), name


def assert_close(found: list[float | None], expected: list[float | None]) -> None:
    np.testing.assert_allclose(np.array(found, dtype=float), np.array(expected, dtype=float), rtol=1e-5)


def accounts(folder: Path) -> list[dict]:
    return json.loads((folder / "manifest.json").read_text())["accounts"]


@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes_gives_the_same_bits(
    source: Path, student_folder: str, script: Path, undisturbed: Path, tmp_path: Path, processes: int
) -> None:
    printed = finish(launch(script, source, student_folder, tmp_path / "run", processes))
    assert sorted((line["rank"], line["world"], line["rows"]) for line in printed) == [
        (rank, processes, ROWS) for rank in range(processes)
    ]
    assert {account["process"] for account in accounts(tmp_path / "run")} == set(range(processes))
    assert_same_bits(tmp_path / "run", undisturbed)


def test_two_machines_give_the_same_bits(
    source: Path, student_folder: str, script: Path, undisturbed: Path, tmp_path: Path
) -> None:
    port = free_port()
    machines = [launch(script, source, student_folder, tmp_path / "run", machine=(rank, port)) for rank in (0, 1)]
    printed = [line for machine in machines for line in finish(machine)]
    assert sorted((line["rank"], line["world"]) for line in printed) == [(0, 2), (1, 2)]
    assert_same_bits(tmp_path / "run", undisturbed)


def test_the_result_equals_map(source: Path, student_folder: str, undisturbed: Path) -> None:
    scored = load_from_disk(undisturbed / "scored")
    dataset = load_from_disk(source)
    mapped = dataset.map(RSRScorer(student_folder), batched=True)
    assert scored.column_names == mapped.column_names and scored.features == mapped.features
    assert scored.select_columns(dataset.column_names).to_list() == dataset.to_list()
    assert scored["rsr_status"][:] == mapped["rsr_status"][:]
    assert_close(scored["rsr"][:], mapped["rsr"][:])
    assert read_records(scored)[-1]["settings"] == json.loads(json.dumps(RSRScorer(student_folder).settings))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def kill_when(
    process: subprocess.Popen[str], folder: Path, notes: int = 0, victim: str = "all", taken_by: str = ""
) -> set[str]:
    """Kills (-9) all processes of a run, or one rank, once so many units are done or a process has taken one.

    Returns:
        The notes of the units that are done.
    """
    deadline = time.monotonic() + 120
    while len(list(folder.glob("units/*.json"))) < notes or (
        taken_by and taken_by not in {file.read_text() for file in folder.glob("launch-*/unit-*")}
    ):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    launched = psutil.Process(process.pid)
    members = [launched, *launched.children(recursive=True)]
    chosen = members if victim == "all" else [m for m in members[1:] if m.environ().get("RANK") == victim]
    assert chosen
    for member in chosen:
        member.kill()
    process.communicate(timeout=120)
    assert process.returncode != 0
    return {file.name for file in folder.glob("units/*.json")}


def times(folder: Path, names: set[str]) -> dict[str, int]:
    return {name: (folder / "units" / name).stat().st_mtime_ns for name in names}


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_a_killed_run_resumes_with_another_number_of_processes(
    source: Path, student_folder: str, script: Path, undisturbed: Path, tmp_path: Path, first: int, second: int
) -> None:
    folder = tmp_path / "run"
    done = kill_when(launch(script, source, student_folder, folder, first), folder, notes=3)
    assert 3 <= len(done) < ROWS // 4
    before = times(folder, done)
    assert {line["world"] for line in finish(launch(script, source, student_folder, folder, second))} == {second}
    assert times(folder, done) == before  # nothing finished was scored again
    assert_same_bits(folder, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["0", "1"], ids=["main", "worker"])
def test_when_one_process_is_killed_the_run_ends_and_resumes(
    source: Path, student_folder: str, script: Path, undisturbed: Path, tmp_path: Path, victim: str
) -> None:
    folder = tmp_path / "run"
    done = kill_when(launch(script, source, student_folder, folder, processes=2), folder, notes=3, victim=victim)
    before = times(folder, done)
    finish(launch(script, source, student_folder, folder))
    assert times(folder, done) == before
    assert_same_bits(folder, undisturbed)


@pytest.mark.slow
def test_when_the_main_machine_dies_the_other_one_says_so_and_the_run_resumes(
    source: Path, student_folder: str, script: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    port = free_port()
    machines = [launch(script, source, student_folder, folder, machine=(rank, port), dead_after=8) for rank in (0, 1)]
    done = kill_when(machines[0], folder, notes=3)
    _, err = machines[1].communicate(timeout=120)
    assert machines[1].returncode != 0
    assert "the main process has given no sign of life for 8 s: run again to resume" in err
    before = times(folder, done)
    finish(launch(script, source, student_folder, folder))
    assert times(folder, done) == before
    assert_same_bits(folder, undisturbed)


def test_when_another_machine_dies_the_main_one_does_its_work(
    source: Path, student_folder: str, script: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    port = free_port()
    pauses = 0.05, 1000  # the other one never ends the unit that it has taken
    machines = [
        launch(script, source, student_folder, folder, machine=(rank, port), dead_after=8, pause=pauses[rank])
        for rank in (0, 1)
    ]
    kill_when(machines[1], folder, taken_by="1")
    launcher = psutil.Process(machines[0].pid)
    deadline = time.monotonic() + 120
    while launcher.children():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    launcher.kill()  # torch's launcher waits five minutes for the other machine's before it ends
    out, err = machines[0].communicate()
    assert '"world": 2' in out, err[-3000:]
    assert "processes [1] have given no sign of life for 8 s: the main process scores the units that they had" in err
    assert_same_bits(folder, undisturbed)


def test_a_slow_process_is_helped(
    source: Path, student_folder: str, script: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The second process needs ten times as long for a unit: the first one does most of its share too."""
    folder = tmp_path / "run"
    port = free_port()
    machines = [
        launch(script, source, student_folder, folder, machine=(rank, port), pause=pause)
        for rank, pause in enumerate((0.1, 1.0))
    ]
    for machine in machines:
        finish(machine)
    by_process = Counter(account["process"] for account in accounts(folder))
    assert set(by_process) == {0, 1} and by_process[0] > 2 * by_process[1]
    assert_same_bits(folder, undisturbed)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "renaming", "lost"])
def test_a_damaged_unit_is_scored_again(
    source: Path, student_folder: str, undisturbed: Path, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", undisturbed, folder], check=True)
    unit, note = folder / "units" / "0000003.arrow", folder / "units" / "0000003.json"
    content = unit.read_bytes()
    if damage == "truncated":
        unit.write_bytes(content[:-7])
    elif damage == "flipped":
        unit.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    elif damage == "renaming":  # killed between writing aside and renaming
        note.unlink()
        unit.rename(unit.with_name("0000003.arrow.0.aside"))
    else:
        unit.unlink()
    others = {file.name for file in folder.glob("units/*.json")} - {note.name}
    before = times(folder, others)
    score_dataset(load_from_disk(source), RSRScorer(student_folder), folder, unit_rows=4)
    assert times(folder, others) == before
    assert note.exists() and not list(folder.glob("**/*.aside"))
    assert columns(folder)["rsr_status"].equals(columns(undisturbed)["rsr_status"])
    assert_close(columns(folder)["rsr"].to_pylist(), columns(undisturbed)["rsr"].to_pylist())


@pytest.mark.slow
@pytest.mark.parametrize("kib", [1, 12])
def test_a_full_disk_is_a_clear_error_and_a_rerun_completes(
    source: Path, student_folder: str, script: Path, undisturbed: Path, tmp_path: Path, kib: int
) -> None:
    """No file may grow beyond a limit: then nothing can be written at all, or not the joined data set."""
    limited = ("bash", "-c", f'ulimit -f {kib}; trap "" XFSZ; exec "$@"', "limited")
    process = launch(script, source, student_folder, tmp_path / "run", prefix=limited)
    _, err = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "File too large" in err and "make room and run again" in err
    done = {file.name for file in (tmp_path / "run").glob("units/*.json")}
    assert len(done) == (0 if kib == 1 else ROWS // 4)
    before = times(tmp_path / "run", done)
    finish(launch(script, source, student_folder, tmp_path / "run"))
    assert times(tmp_path / "run", done) == before
    assert_same_bits(tmp_path / "run", undisturbed)


def test_a_second_launch_is_refused_while_the_first_one_lives(
    source: Path, student_folder: str, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    holder = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(99)"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "run" / "lock")], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    arguments = (load_from_disk(source), RSRScorer(student_folder), tmp_path / "run")
    with pytest.raises(RuntimeError, match="another launch is at work"):
        score_dataset(*arguments)
    first.kill()
    first.wait()
    assert len(score_dataset(*arguments)) == ROWS


@pytest.fixture
def run(source: Path, student_folder: str, undisturbed: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-r", undisturbed, tmp_path / "run"], check=True)
    return tmp_path / "run"


def test_another_setting_is_refused_by_name(source: Path, student_folder: str, run: Path) -> None:
    with pytest.raises(ValueError, match="belongs to another run: rank_clip 100, now 7"):
        score_dataset(load_from_disk(source), RSRScorer(student_folder, rank_clip=7), run)
    with pytest.raises(ValueError, match="token_columns False, now True"):
        score_dataset(load_from_disk(source), RSRScorer(student_folder, token_columns=True), run)


def test_another_student_is_refused(source: Path, student_folder: str, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", student_folder, other], check=True)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-4}))
    with pytest.raises(ValueError, match="belongs to another run: student"):
        score_dataset(load_from_disk(source), RSRScorer(str(other)), run)


def test_another_dataset_is_refused(source: Path, student_folder: str, run: Path) -> None:
    changed = load_from_disk(source).map(
        lambda row, i: {"messages": conversation("?", "other")} if i == 17 else row, with_indices=True
    )
    with pytest.raises(ValueError, match="scores of another dataset: rows 16 to 19"):
        score_dataset(changed, RSRScorer(student_folder), run)
    with pytest.raises(ValueError, match=f"rows {ROWS}, now 39"):
        score_dataset(load_from_disk(source).select(range(39)), RSRScorer(student_folder), run)


def test_a_copy_of_the_dataset_is_the_same_dataset(
    source: Path, student_folder: str, run: Path, tmp_path: Path
) -> None:
    load_from_disk(source).to_parquet(tmp_path / "copy.parquet")
    copy = load_dataset("parquet", data_files=str(tmp_path / "copy.parquet"), split="train")
    before = times(run, {file.name for file in run.glob("units/*.json")})
    score_dataset(copy, RSRScorer(student_folder), run)
    assert times(run, set(before)) == before


def test_a_manifest_of_another_format_is_refused(source: Path, student_folder: str, run: Path) -> None:
    settings = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(settings | {"format": 99}))
    with pytest.raises(ValueError, match="format 99, now 2"):
        score_dataset(load_from_disk(source), RSRScorer(student_folder), run)


def test_a_folder_that_is_not_a_run_is_left_alone(source: Path, student_folder: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"not a run folder and not empty \('thesis.txt'\)"):
        score_dataset(load_from_disk(source), RSRScorer(student_folder), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["thesis.txt"]


def test_processes_that_accelerate_does_not_see_are_an_error(
    source: Path, student_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="WORLD_SIZE=2, but accelerate sees 1"):
        score_dataset(load_from_disk(source), RSRScorer(student_folder), tmp_path / "run")


def test_splits_and_an_empty_split(source: Path, student_folder: str, tmp_path: Path) -> None:
    dataset = load_from_disk(source)
    splits = DatasetDict(train=dataset.select(range(6)), test=dataset.select([]))
    scored = score_dataset(splits, RSRScorer(student_folder, token_columns=True), tmp_path)
    assert len(scored["train"]) == 6 and len(scored["test"]) == 0
    assert scored["test"].features == scored["train"].features
    assert (tmp_path / "train" / "manifest.json").exists()


def test_a_shuffled_dataset_keeps_its_order(
    source: Path, student_folder: str, undisturbed: Path, tmp_path: Path
) -> None:
    shuffled = load_from_disk(source).shuffle(seed=1)
    scored = score_dataset(shuffled, RSRScorer(student_folder), tmp_path / "run", unit_rows=7)
    expected = dict(zip(range(ROWS), load_from_disk(undisturbed / "scored")["rsr"], strict=True))
    assert scored["id"][:] == shuffled["id"][:]
    assert_close(scored["rsr"][:], [expected[i] for i in shuffled["id"]])


def test_scoring_again_replaces_old_columns(
    source: Path, student_folder: str, undisturbed: Path, tmp_path: Path
) -> None:
    scored = load_from_disk(undisturbed / "scored")
    again = score_dataset(scored, RSRScorer(student_folder, rank_clip=2), tmp_path / "run")
    assert again.column_names == scored.column_names
    assert set(again["rsr_settings"]).isdisjoint(scored["rsr_settings"])


def test_a_loaded_scorer_is_used_as_it_is(source: Path, tokenizer, tmp_path: Path) -> None:
    from conftest import make_model

    scorer = RSRScorer(make_model("llama", 400), tokenizer=tokenizer)
    scored = score_dataset(load_from_disk(source).select(range(4)), scorer, tmp_path / "run")
    assert scored["rsr_status"][:] == ["scored"] * 4


def test_a_run_of_which_nothing_is_done_may_begin_anew(source: Path, student_folder: str, tmp_path: Path) -> None:
    dataset = load_from_disk(source).select(range(6))
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", student_folder, broken], check=True)
    (broken / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot load"):
        score_dataset(dataset, RSRScorer(str(broken)), tmp_path / "run")
    assert len(score_dataset(dataset, RSRScorer(student_folder), tmp_path / "run")) == 6
    with pytest.raises(ValueError, match="cannot load"):
        score_dataset(dataset, RSRScorer(str(tmp_path / "nowhere")), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_splits_share_one_student(source: Path, student_folder: str, tmp_path: Path) -> None:
    dataset = load_from_disk(source)
    scorer = RSRScorer(student_folder)
    splits = DatasetDict(train=dataset.select(range(6)), test=dataset.select(range(6, 9)))
    score_dataset(splits, scorer, tmp_path)
    assert scorer._session.engine is not None
    assert scorer.with_options({"tokens_per_batch": 7})._session is scorer._session


@pytest.mark.slow
def test_other_processes_hear_of_a_refusal(
    source: Path, student_folder: str, script: Path, run: Path, tmp_path: Path
) -> None:
    started = time.monotonic()
    process = launch(script, source, student_folder, run, processes=2, options={"rank_clip": 7})
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0 and "rank_clip 100, now 7" in err
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").touch()
    process = launch(script, source, student_folder, tmp_path / "foreign", processes=2)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0 and "not a run folder" in err
    assert time.monotonic() - started < 100  # and no process waits until the others count as dead


def test_a_finished_run_is_loaded_and_not_written_again(source: Path, student_folder: str, run: Path) -> None:
    def written() -> int:
        return max(file.stat().st_mtime_ns for file in (run / "scored").iterdir())

    dataset, scorer = load_from_disk(source), RSRScorer(student_folder)
    before = written()
    scored = score_dataset(dataset, scorer, run)
    assert written() == before and len(scored) == ROWS
    assert scorer._session.engine is None
    other = dataset.add_column("difficulty", list(range(ROWS)))
    assert "difficulty" in score_dataset(other, scorer, run).column_names
    assert written() > before and scorer._session.engine is None


def test_rows_without_a_score_are_counted_in_the_end(
    source: Path, student_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    score_dataset(load_from_disk(source).select(range(8)), RSRScorer(student_folder), tmp_path / "run")
    assert "2 of 8 rows have no score: {'no_response': 2}" in caplog.text


def test_files_of_lines_can_be_scored(source: Path, student_folder: str, undisturbed: Path, tmp_path: Path) -> None:
    load_from_disk(source).to_json(tmp_path / "rows.jsonl")
    dataset = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train")
    score_dataset(dataset, RSRScorer(student_folder), tmp_path / "run")
    assert_close(columns(tmp_path / "run")["rsr"].to_pylist(), columns(undisturbed)["rsr"].to_pylist())


def test_the_account_says_who_did_what(undisturbed: Path) -> None:
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert manifest["totals"]["scored_tokens"] == sum(columns(undisturbed)["rsr_num_tokens"].to_pylist())
    assert [account["unit"] for account in manifest["accounts"]] == list(range(ROWS // 4))
    assert sum(account["rows"] for account in manifest["accounts"]) == ROWS
    assert manifest["versions"]["datasets"] == datasets.__version__
    totals = manifest["totals"]
    assert totals["statuses"] == {"scored": ROWS - 2, "no_response": 2}
    assert totals["padding_share"] == 0 and totals["batches_split_for_memory"] == 0  # packed rows need no padding
    assert totals["processes"]["0"]["rows"] == ROWS and totals["processes"]["0"]["tokens"] == totals["tokens"]


def test_planned_work_is_even_with_real_lengths() -> None:
    champ = load_champ()
    units = plan_units(champ, find_format(champ.column_names), unit_rows=5)
    cost = {unit.number: unit.cost for unit in units}
    shares = deal_units(units, 8)
    loads = [sum(cost[number] for number in share) for share in shares]
    assert sorted(number for share in shares for number in share) == list(range(len(units)))
    assert max(loads) / min(loads) < 1.03


@given(st.lists(st.integers(1, 1000), max_size=50), st.integers(1, 9))
def test_no_process_has_more_than_one_unit_over_the_least(costs: list[int], num_processes: int) -> None:
    units = [Unit(i, i, i + 1, cost) for i, cost in enumerate(costs)]
    shares = deal_units(units, num_processes)
    loads = [sum(costs[number] for number in share) for share in shares]
    assert max(loads) - min(loads) <= max(costs, default=0)
    assert deal_units(units, num_processes) == shares


def test_each_unit_is_taken_once_and_others_are_helped_from_the_end(tmp_path: Path) -> None:
    shares = [[0, 3], [1, 4], [2, 5]]
    first, second, third = (Claims(tmp_path, shares, process) for process in range(3))
    assert list(first.free()) == [0, 3, 4, 1, 5, 2] and list(third.free()) == [2, 5, 3, 0, 4, 1]
    ahead = first.free()
    assert next(ahead) == 0 and first.take(0) and not second.take(0)
    assert third.take(3)
    assert next(ahead) == 4  # what another has taken meanwhile is passed over
    assert [first.owner(number) for number in (0, 3, 4)] == [0, 2, None]
    first.release([3])
    assert list(second.free()) == [1, 4, 5, 2, 3] and second.take(3)
