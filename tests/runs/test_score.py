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
from launching import ROWS, UNIT_ROWS, assert_close, columns, command_of, finish, launch, make_source, start, times
from tqdm import tqdm

from rsr_datasets import RSRScorer, score_dataset
from rsr_datasets.runs import score as score_module
from rsr_datasets.runs.workers import FolderInUseError
from rsr_datasets.tables.records import read_records


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_from_disk(make_source(tmp_path_factory.mktemp("source") / "dataset"))


@pytest.fixture
def scorer(student_folder: str) -> RSRScorer:
    return RSRScorer(student_folder)


@pytest.fixture(scope="module")
def undisturbed(dataset: Dataset, student_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    score_dataset(dataset, RSRScorer(student_folder), folder, unit_rows=UNIT_ROWS)
    return folder


@pytest.fixture
def run(undisturbed: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-r", undisturbed, tmp_path / "run"], check=True)
    return tmp_path / "run"


def rsr(folder: Path) -> list[float | None]:
    return columns(folder)["rsr"].to_pylist()


def test_the_result_equals_map(dataset: Dataset, scorer: RSRScorer, undisturbed: Path) -> None:
    scored = load_from_disk(undisturbed / "scored")
    mapped = dataset.map(scorer, batched=True)
    assert scored.column_names == mapped.column_names and scored.features == mapped.features
    assert scored.select_columns(dataset.column_names).to_list() == dataset.to_list()
    assert scored["rsr_status"][:] == mapped["rsr_status"][:]
    assert_close(scored["rsr"][:], mapped["rsr"][:])
    assert read_records(scored)[-1]["settings"] == json.loads(json.dumps(scorer.settings))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "renaming", "lost"])
def test_a_damaged_unit_is_scored_again(dataset: Dataset, scorer: RSRScorer, run: Path, damage: str) -> None:
    unit, note = run / "units" / "0000003.arrow", run / "units" / "0000003.json"
    content, expected = unit.read_bytes(), columns(run)
    if damage == "truncated":
        unit.write_bytes(content[:-7])
    elif damage == "flipped":
        unit.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    elif damage == "renaming":  # killed between writing aside and renaming
        note.unlink()
        unit.rename(unit.with_name("0000003.arrow.0.aside"))
    else:
        unit.unlink()
    before = times(run, {file.name for file in run.glob("units/*.json")} - {note.name})
    score_dataset(dataset, scorer, run)
    assert times(run, before) == before
    assert note.exists() and not list(run.glob("**/*.aside"))
    assert columns(run)["rsr_status"].equals(expected["rsr_status"])
    assert_close(rsr(run), expected["rsr"].to_pylist())


@pytest.mark.slow
@pytest.mark.parametrize("kib", [1, 12])
def test_a_full_disk_is_a_clear_error_and_a_rerun_completes(
    dataset: Dataset, student_folder: str, undisturbed: Path, tmp_path: Path, kib: int
) -> None:
    """No file may grow beyond a limit: then nothing can be written at all, or not the joined dataset."""
    dataset.save_to_disk(tmp_path / "rows")
    limited = ("bash", "-c", f'ulimit -f {kib}; trap "" XFSZ; exec "$@"', "limited")
    process = start(command_of(tmp_path / "rows", student_folder, tmp_path / "run"), limited)
    _, err = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "File too large" in err and "make room and run again" in err
    done = {file.name for file in (tmp_path / "run").glob("units/*.json")}
    assert len(done) == (0 if kib == 1 else ROWS // UNIT_ROWS)
    before = times(tmp_path / "run", done)
    finish(*launch(tmp_path / "rows", student_folder, tmp_path / "run"))
    assert times(tmp_path / "run", done) == before
    assert_close(rsr(tmp_path / "run"), rsr(undisturbed))


def test_a_second_launch_is_refused_while_the_first_one_lives(dataset: Dataset, scorer: RSRScorer, run: Path) -> None:
    first = run / "launch-x"
    first.mkdir(parents=True)
    with (first / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with pytest.raises(FolderInUseError, match="another launch is at work"):
            score_dataset(dataset, scorer, run)
        assert first.exists()
    assert len(score_dataset(dataset, scorer, run)) == ROWS
    assert not list(run.glob("launch-*"))


def test_another_setting_or_student_is_refused_by_name(
    dataset: Dataset, student_folder: str, run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", student_folder, other], check=True)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-4}))
    for scorer, message in (
        (RSRScorer(student_folder, rank_clip=7), "belongs to another run: rank_clip= was 100 and is 7 now; give"),
        (
            RSRScorer(student_folder, token_columns=True),
            "belongs to another run: token_columns= was not given and is given now; give",
        ),
        (RSRScorer(str(other)), "belongs to another run: student= was another one, or its files have changed; give"),
        (RSRScorer(student_folder, tokenizer=str(other)), "belongs to another run: tokenizer= was another one; give"),
        (RSRScorer(student_folder, chat_template="chatml"), "chat_template= was not given and is given now; give"),
    ):
        with pytest.raises(ValueError, match=message):
            score_dataset(dataset, scorer, run)


def test_another_dataset_is_refused(dataset: Dataset, scorer: RSRScorer, run: Path) -> None:
    changed = dataset.map(
        lambda row, i: {"messages": conversation("?", "other")} if i == 17 else row, with_indices=True
    )
    with pytest.raises(ValueError, match="scores of another dataset: rows 16 to 19"):
        score_dataset(changed, scorer, run)
    with pytest.raises(ValueError, match=f"the dataset had {ROWS} rows and has 39 now"):
        score_dataset(dataset.select(range(39)), scorer, run)


@pytest.mark.parametrize("kind", ["parquet", "json"])
def test_a_copy_is_the_same_dataset(dataset: Dataset, scorer: RSRScorer, run: Path, tmp_path: Path, kind: str) -> None:
    getattr(dataset, f"to_{kind}")(tmp_path / "copy")
    copy = load_dataset(kind, data_files=str(tmp_path / "copy"), split="train")
    before = times(run, {file.name for file in run.glob("units/*.json")})
    assert len(score_dataset(copy, scorer, run)) == ROWS
    assert times(run, before) == before


def test_an_earlier_version_s_run_resumes_unless_compiled(dataset: Dataset, scorer: RSRScorer, run: Path) -> None:
    settings = json.loads((run / "run.json").read_text())
    options = settings.pop("options")
    assert options["tokens_per_batch"] > 0
    old = {"tokens_per_batch": options["tokens_per_batch"], "share_prompts": options["share_prefixes"]}
    settings |= old | {"format": 2, "torch_compile": False}
    (run / "run.json").write_text(json.dumps(settings))
    (run / "units" / "0000003.json").unlink()
    before = times(run, {file.name for file in run.glob("units/*.json")})
    assert len(score_dataset(dataset, scorer, run)) == ROWS
    assert times(run, before) == before
    for other, message in (({"torch_compile": True}, "torch_compile, which is gone"), ({"format": 99}, "format 99")):
        (run / "run.json").write_text(json.dumps(settings | other))
        with pytest.raises(ValueError, match=message):
            score_dataset(dataset, scorer, run)


def test_a_folder_that_is_not_a_run_is_left_alone(dataset: Dataset, scorer: RSRScorer, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"not a run folder and not empty \('thesis.txt'\)"):
        score_dataset(dataset, scorer, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["thesis.txt"]


def test_splits_keep_their_names_and_share_a_student(dataset: Dataset, student_folder: str, tmp_path: Path) -> None:
    splits = DatasetDict(test=dataset.select(range(6)), train=dataset.select(range(6)), empty=dataset.select([]))
    for name, split in splits.items():
        split._split = NamedSplit(name)
    scorer = RSRScorer(student_folder, token_columns=True)
    scored = score_dataset(splits, scorer, tmp_path)
    assert {name: len(split) for name, split in scored.items()} == {"test": 6, "train": 6, "empty": 0}
    assert [split.split for split in scored.values()] == ["test", "train", "empty"]
    assert scored["test"].features == scored["empty"].features
    assert scored["test"].data.schema.types == scored["empty"].data.schema.types
    assert scored["test"].column_names == scored["empty"].column_names
    assert (tmp_path / "train" / "manifest.json").exists() and scorer._session.engine is not None


def test_a_stream_is_refused_before_anything_is_made(dataset: Dataset, scorer: RSRScorer, tmp_path: Path) -> None:
    stream: IterableDataset = dataset.to_iterable_dataset()
    with pytest.raises(TypeError, match="found IterableDataset; a stream has no length: load it without streaming"):
        score_dataset(stream, scorer, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_timeout_shorter_than_signs_of_life(dataset: Dataset, scorer: RSRScorer, tmp_path: Path) -> None:
    message = "heartbeat_timeout=1: must be at least 9 seconds"
    with pytest.raises(ValueError, match=message), pytest.warns(FutureWarning, match="now called heartbeat_timeout"):
        score_dataset(dataset, scorer, tmp_path / "run", dead_after=1)


@pytest.mark.parametrize("reports", [True, False])
def test_progress_ends_at_the_tokens_of_all_rows(
    student_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reports: bool
) -> None:
    """Rows share their prompt, and a metric of a second pass reads them again."""
    shown = []

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            assert n is not None and n >= 0
            shown.append((self.n + n, self.total))
            return super().update(n)

    monkeypatch.setattr(score_module, "tqdm", Bar)
    monkeypatch.setattr(score_module, "POLL_SECONDS", 0)
    if not reports:
        score = RSRScorer.score_encoded
        monkeypatch.setattr(RSRScorer, "score_encoded", lambda *given: score(*given[:-1]))
    dataset = Dataset.from_list([{"messages": conversation("How many? " * 9, f"Maybe {i}.")} for i in range(12)])
    score_dataset(dataset, RSRScorer(student_folder, metrics=["ifd"]), tmp_path / "run", unit_rows=6)
    totals = json.loads((tmp_path / "run" / "manifest.json").read_text())["totals"]
    assert shown[-1] == (totals["tokens"], totals["tokens"])


def test_a_shuffled_dataset_keeps_its_order(
    dataset: Dataset, scorer: RSRScorer, undisturbed: Path, tmp_path: Path
) -> None:
    shuffled = dataset.shuffle(seed=1)
    scored = score_dataset(shuffled, scorer, tmp_path / "run", unit_rows=7)
    expected = rsr(undisturbed)
    assert scored["id"][:] == shuffled["id"][:]
    assert_close(scored["rsr"][:], [expected[i] for i in shuffled["id"]])


def test_scoring_again_replaces_old_columns(student_folder: str, undisturbed: Path, tmp_path: Path) -> None:
    scored = load_from_disk(undisturbed / "scored")
    again = score_dataset(scored, RSRScorer(student_folder, rank_clip=2), tmp_path / "run")
    assert again.column_names == scored.column_names
    assert set(again["rsr_settings"]).isdisjoint(scored["rsr_settings"])


def test_a_loaded_scorer_is_used_as_it_is(
    dataset: Dataset, tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = RSRScorer(make_model("llama", 400), tokenizer=tokenizer)
    scored = score_dataset(dataset.select(range(8)), scorer, tmp_path / "run")
    assert scored["rsr_status"][:4] == ["scored"] * 4
    assert "2 of 8 rows have no score: 2 no_response" in caplog.text


def test_a_run_of_which_nothing_is_done_may_begin_anew(dataset: Dataset, student_folder: str, tmp_path: Path) -> None:
    rows, broken = dataset.select(range(6)), tmp_path / "broken"
    subprocess.run(["cp", "-r", student_folder, broken], check=True)
    (broken / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot load"):
        score_dataset(rows, RSRScorer(str(broken)), tmp_path / "run")
    assert len(score_dataset(rows, RSRScorer(student_folder), tmp_path / "run")) == 6
    with pytest.raises(ValueError, match=r"cannot load .*: there is no such file or folder"):
        score_dataset(rows, RSRScorer(str(tmp_path / "nowhere")), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_finished_run_is_loaded_and_not_written_again(dataset: Dataset, scorer: RSRScorer, run: Path) -> None:
    def written() -> int:
        return max(file.stat().st_mtime_ns for file in (run / "scored").iterdir())

    before = written()
    assert len(score_dataset(dataset, scorer, run)) == ROWS
    assert written() == before and scorer._session.engine is None
    other = dataset.add_column("difficulty", list(range(ROWS)))
    assert "difficulty" in score_dataset(other, scorer, run).column_names
    assert written() > before and scorer._session.engine is None


def test_the_account_says_who_did_what(undisturbed: Path) -> None:
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert manifest["totals"]["scored_tokens"] == sum(columns(undisturbed)["rsr_num_tokens"].to_pylist())
    assert [account["unit"] for account in manifest["accounts"]] == list(range(ROWS // UNIT_ROWS))
    assert sum(account["rows"] for account in manifest["accounts"]) == ROWS
    assert manifest["versions"]["datasets"] == datasets.__version__
    totals = manifest["totals"]
    assert totals["statuses"] == {"scored": ROWS - 2, "no_response": 2}
    assert totals["padding_share"] == 0 and totals["batches_split_for_memory"] == 0  # packed rows need no padding
    assert totals["processes"]["0"]["rows"] == ROWS and totals["processes"]["0"]["tokens"] == totals["tokens"]
