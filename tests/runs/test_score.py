"""One process on one folder: what comes out, what is refused, and resuming."""

from __future__ import annotations

import fcntl
import json
import subprocess
from pathlib import Path

import datasets
import pytest
from conftest import conversation, make_model
from datasets import Dataset, DatasetDict, IterableDataset, NamedSplit, load_dataset, load_from_disk
from launching import ROWS, UNIT_ROWS, assert_close, columns, finish, launch, make_source, times
from tqdm import tqdm

from rsr_datasets import RSRScorer, score_dataset
from rsr_datasets.runs import score as score_module
from rsr_datasets.runs.workers import FolderInUseError
from rsr_datasets.tables.records import read_records


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("source") / "dataset")


@pytest.fixture(scope="module")
def undisturbed(source: Path, student_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    score_dataset(load_from_disk(source), RSRScorer(student_folder), folder, unit_rows=UNIT_ROWS)
    return folder


def test_the_result_equals_map(source: Path, student_folder: str, undisturbed: Path) -> None:
    scored = load_from_disk(undisturbed / "scored")
    dataset = load_from_disk(source)
    mapped = dataset.map(RSRScorer(student_folder), batched=True)
    assert scored.column_names == mapped.column_names and scored.features == mapped.features
    assert scored.select_columns(dataset.column_names).to_list() == dataset.to_list()
    assert scored["rsr_status"][:] == mapped["rsr_status"][:]
    assert_close(scored["rsr"][:], mapped["rsr"][:])
    assert read_records(scored)[-1]["settings"] == json.loads(json.dumps(RSRScorer(student_folder).settings))


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
    source: Path, student_folder: str, undisturbed: Path, tmp_path: Path, kib: int
) -> None:
    """No file may grow beyond a limit: then nothing can be written at all, or not the joined data set."""
    limited = ("bash", "-c", f'ulimit -f {kib}; trap "" XFSZ; exec "$@"', "limited")
    process = launch(source, student_folder, tmp_path / "run", prefix=limited)
    _, err = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "File too large" in err and "make room and run again" in err
    done = {file.name for file in (tmp_path / "run").glob("units/*.json")}
    assert len(done) == (0 if kib == 1 else ROWS // 4)
    before = times(tmp_path / "run", done)
    finish(launch(source, student_folder, tmp_path / "run"))
    assert times(tmp_path / "run", done) == before
    assert_close(columns(tmp_path / "run")["rsr"].to_pylist(), columns(undisturbed)["rsr"].to_pylist())


def test_a_second_launch_is_refused_while_the_first_one_lives(
    source: Path, student_folder: str, tmp_path: Path
) -> None:
    arguments = (load_from_disk(source), RSRScorer(student_folder), tmp_path / "run")
    first = tmp_path / "run" / "launch-x"
    first.mkdir(parents=True)
    with (first / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with pytest.raises(FolderInUseError, match="another launch is at work"):
            score_dataset(*arguments)
        assert first.exists()
    assert len(score_dataset(*arguments)) == ROWS
    assert not list((tmp_path / "run").glob("launch-*"))


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


def test_a_run_of_an_earlier_version_resumes_unless_it_was_compiled(
    source: Path, student_folder: str, run: Path
) -> None:
    settings = json.loads((run / "run.json").read_text())
    options = settings.pop("options")
    assert options["tokens_per_batch"] > 0
    old = {"tokens_per_batch": options["tokens_per_batch"], "share_prompts": options["share_prefixes"]}
    settings |= old | {"format": 2, "torch_compile": False}
    (run / "run.json").write_text(json.dumps(settings))
    (run / "units" / "0000003.json").unlink()
    before = times(run, {file.name for file in run.glob("units/*.json")})
    assert len(score_dataset(load_from_disk(source), RSRScorer(student_folder), run)) == ROWS
    assert times(run, before) == before
    for other, message in (({"torch_compile": True}, "torch_compile, which is gone"), ({"format": 99}, "format 99")):
        (run / "run.json").write_text(json.dumps(settings | other))
        with pytest.raises(ValueError, match=message):
            score_dataset(load_from_disk(source), RSRScorer(student_folder), run)


def test_a_folder_that_is_not_a_run_is_left_alone(source: Path, student_folder: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"not a run folder and not empty \('thesis.txt'\)"):
        score_dataset(load_from_disk(source), RSRScorer(student_folder), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["thesis.txt"]


def test_splits_keep_their_names_and_an_empty_split_its_columns(
    source: Path, student_folder: str, tmp_path: Path
) -> None:
    dataset = load_from_disk(source)
    dataset._split = NamedSplit("test")
    splits = DatasetDict(train=dataset.select([]), test=dataset.select(range(6)))
    scored = score_dataset(splits, RSRScorer(student_folder, token_columns=True), tmp_path)
    assert len(scored["train"]) == 0 and len(scored["test"]) == 6
    assert scored["test"].features == scored["train"].features
    assert scored["test"].split == "test"
    assert (tmp_path / "train" / "manifest.json").exists()


def test_a_streamed_dataset_is_refused_before_anything_is_made(
    source: Path, student_folder: str, tmp_path: Path
) -> None:
    stream: IterableDataset = load_from_disk(source).to_iterable_dataset()
    with pytest.raises(TypeError, match="found IterableDataset; a stream has no length: load it without streaming"):
        score_dataset(stream, RSRScorer(student_folder), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_timeout_shorter_than_some_signs_of_life_is_refused(
    source: Path, student_folder: str, tmp_path: Path
) -> None:
    message = "heartbeat_timeout=1: must be at least 9 seconds"
    with pytest.raises(ValueError, match=message), pytest.warns(FutureWarning, match="now called heartbeat_timeout"):
        score_dataset(load_from_disk(source), RSRScorer(student_folder), tmp_path / "run", dead_after=1)


@pytest.mark.parametrize("reports", [True, False])
def test_progress_ends_at_the_tokens_of_all_rows(
    student_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reports: bool
) -> None:
    """Rows share their prompt, and a metric of a second pass reads them again."""
    bars = []

    class Bar(tqdm):
        def __init__(self, *arguments, **options) -> None:
            super().__init__(*arguments, **options)
            bars.append(self)

        def update(self, n: float | None = 1) -> bool | None:
            assert n is not None and n >= 0
            return super().update(n)

    monkeypatch.setattr(score_module, "tqdm", Bar)
    monkeypatch.setattr(score_module, "POLL_SECONDS", 0)
    if not reports:
        score = RSRScorer.score_encoded
        monkeypatch.setattr(RSRScorer, "score_encoded", lambda *given: score(*given[:-1]))
    dataset = Dataset.from_list([{"messages": conversation("How many? " * 9, f"Maybe {i}.")} for i in range(12)])
    scorer = RSRScorer(student_folder, metrics=["ifd"])
    score_dataset(dataset, scorer, tmp_path / "run", unit_rows=6)
    totals = json.loads((tmp_path / "run" / "manifest.json").read_text())["totals"]
    assert [(bar.n, bar.total) for bar in bars] == [(totals["tokens"], totals["tokens"])]


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
