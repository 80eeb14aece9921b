"""Selections that read candidates in stages, with a real student."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import conversation
from datasets import Dataset, DatasetDict, load_from_disk
from forked_python import ForkedPython, ranks

from rsr_datasets import RSRScorer, preview_card, score_dataset, select_trajectories
from rsr_datasets.runs.prefixes import PrefixScorer
from rsr_datasets.tables.records import read_records

WORDS = "to solve the problem let x be the number of strings then f(n) = 2 f(n-1) + 3 so the answer is 42".split()  # noqa: SIM905
PROBLEMS, CANDIDATES = 35, 8


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Candidates that differ in style; one has no response, one a bad role, two are longer than the student reads."""
    rng = np.random.default_rng(0)
    rows = []
    for problem in range(PROBLEMS):
        for candidate in range(CANDIDATES):
            words = rng.choice(WORDS, int(rng.integers(40, 80)), p=rng.dirichlet(np.full(len(WORDS), 0.15)))
            messages = conversation(f"Problem {problem}?", " ".join(words))
            rows.append(
                {"problem": problem, "candidate": candidate, "ok": bool(rng.random() < 0.7), "messages": messages}
            )
    rows[5]["messages"] = conversation("Problem 0?", "")
    rows[20]["messages"] = [{"role": "narrator", "content": "once"}, *conversation("Problem 2?", "x")]
    for i in (33, 107):
        rows[i]["messages"] = conversation(f"Problem {i // CANDIDATES}?", "the answer is 42 " * 120)
    folder = tmp_path_factory.mktemp("source") / "dataset"
    Dataset.from_list([rows[i] for i in rng.permutation(len(rows))]).save_to_disk(folder)
    return load_from_disk(folder)


@pytest.fixture(scope="module")
def scorer(student_folder: str) -> RSRScorer:
    return RSRScorer(student_folder)


@pytest.fixture(scope="module")
def scored(source: Dataset, scorer: RSRScorer, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return score_dataset(source, scorer, tmp_path_factory.mktemp("scored") / "run")


ARGUMENTS = {"group_by": "problem", "prune": True, "regret": 0.1, "calibration": 20}


@pytest.fixture(scope="module")
def run(source: Dataset, scorer: RSRScorer, tmp_path_factory: pytest.TempPathFactory):
    """A selection in stages: its folder, what it kept, and its report."""
    folder = tmp_path_factory.mktemp("pruned") / "run"
    best, report = select_trajectories(source, scorer=scorer, output_dir=folder, return_report=True, **ARGUMENTS)
    return folder, best, report


def names(dataset: Dataset) -> list[tuple[int, int]]:
    return list(zip(dataset["problem"], dataset["candidate"], strict=True))


@pytest.mark.parametrize(
    "arguments", [{}, {"correct": "ok"}, {"keep": 3, "max_tokens": 180}, {"keep_truncated": True}]
)
def test_without_regret_it_is_the_selection_from_everything(source, scorer, scored, arguments):
    expected, everything = select_trajectories(scored, "problem", return_report=True, **arguments)
    options = {"scorer": scorer, "prune": True, "regret": 0.0, "calibration": 4}
    found, report = select_trajectories(source, "problem", return_report=True, **options, **arguments)
    assert names(found) == names(expected)
    assert report.dropped == everything.dropped
    np.testing.assert_allclose(found["rsr"], expected["rsr"], rtol=1e-5)
    assert set(found["rsr_settings"]) == set(expected["rsr_settings"])


def test_too_small_a_sample_is_named(source, scorer, caplog):
    with caplog.at_level("WARNING", "rsr_datasets"):
        select_trajectories(source, scorer=scorer, **ARGUMENTS | {"calibration": 4})
    assert "after 4 problems: all is read; a rule needs a sample of 20" in caplog.text


def test_only_rows_that_were_read_to_their_end_have_a_ratio(run, scored):
    pruned = load_from_disk(run[0] / "scored")
    assert names(pruned) == names(scored)
    table, whole = pruned.to_pandas(), scored.to_pandas()
    with_ratio = table["rsr"].notna()
    assert set(table["rsr_status"][with_ratio]) <= {"scored", "truncated"}
    assert set(table["rsr_status"][~with_ratio]) == {"pruned", "no_response", "bad_row"}
    assert (table["rsr_tokens_read"][with_ratio] == table["rsr_num_tokens"][with_ratio]).all()
    np.testing.assert_allclose(table["rsr"][with_ratio], whole["rsr"][with_ratio], rtol=1e-5)
    was_pruned = table["rsr_status"] == "pruned"
    read, tokens = table["rsr_tokens_read"][was_pruned], whole["rsr_num_tokens"][was_pruned]
    assert was_pruned.sum() > 30 and (read > 0).all() and (read < tokens).all()


def test_survivors_are_chosen_from_and_the_promise_holds(run, scored):
    _, best, report = run
    expected = select_trajectories(scored, "problem")
    assert len(best) == len(expected) == PROBLEMS
    assert set(best["rsr_status"]) == {"scored"}
    assert np.mean(expected["rsr"]) <= np.mean(best["rsr"]) <= 1.1 * np.mean(expected["rsr"])
    assert report.pruning["calibration"] == 20 and len(report.pruning["shares"]) == 2


def test_every_row_is_in_the_report(run, source):
    _, best, report = run
    assert report.rows_out + sum(report.dropped.values()) == len(source)
    assert report.dropped["pruned"] > 30 and report.dropped["unscored"] == 2
    assert report.pruning["tokens_read"] < report.pruning["tokens"]
    assert f"of {report.pruning['tokens']:,} tokens" in str(report)
    assert report.rsr_before is None  # the rows with a ratio are no fair sample
    assert [record["step"] for record in read_records(best)] == ["score", "prune", "select_trajectories"]


def test_the_pruned_rows_can_be_selected_from_later(run):
    folder, best, _ = run
    again, report = select_trajectories(load_from_disk(folder / "scored"), "problem", return_report=True)
    assert names(again) == names(best) and report.dropped["pruned"] > 30


def test_the_card_says_that_candidates_were_pruned(run):
    card = str(preview_card(run[1]))
    assert "Candidates were read in stages" in card and "of 35 problems 20, drawn at random, were read whole" in card
    assert "at most a share of `0.1` above choosing from everything, with confidence `0.9`" in card


def test_it_resumes_from_its_folder(run, source, scorer, tmp_path):
    folder, best, _ = run
    shutil.copytree(folder, tmp_path / "run")
    for lost in ("whole", "stage-2", "scored"):
        shutil.rmtree(tmp_path / "run" / lost)
    notes = sorted((tmp_path / "run").glob("*/units/*.json"))
    before = [note.stat().st_mtime_ns for note in notes]
    again = select_trajectories(source, scorer=scorer, output_dir=tmp_path / "run", **ARGUMENTS)
    assert again.to_dict() == best.to_dict()
    assert notes and [note.stat().st_mtime_ns for note in notes] == before


def test_each_split_is_read_by_itself(source, scorer):
    parts = DatasetDict({"a": source, "b": source.filter(lambda row: row["problem"] < 2)})
    found, reports = select_trajectories(parts, scorer=scorer, return_report=True, **ARGUMENTS)
    assert {name: len(part) for name, part in found.items()} == {"a": PROBLEMS, "b": 2}
    assert [reports[name].pruning["problems"] for name in "ab"] == [PROBLEMS, 2]


def test_a_beginning_has_the_scores_that_its_tokens_have_in_the_whole(source, student_folder, tmp_path):
    scorer = RSRScorer(student_folder, token_columns=True)
    rows = source.select(range(20))
    whole = score_dataset(rows, scorer, tmp_path / "whole")
    limits = np.arange(1, 21) * 10
    prefix = PrefixScorer(scorer, limits)
    begun = score_dataset(rows, prefix, tmp_path / "begun")
    for row, beginning, limit in zip(whole, begun, limits, strict=True):
        ranks, surprisals = row["rsr_token_ranks"] or [], row["rsr_token_surprisals"] or []
        assert beginning[prefix.whole_column] == len(ranks)
        assert beginning["rsr_num_tokens"] == min(limit, len(ranks))
        if ranks:
            ratio = np.minimum(ranks[:limit], 100).sum() / np.sum(surprisals[:limit])
            assert beginning["rsr"] == pytest.approx(ratio, rel=1e-5)


def test_turns_that_are_read_apart_are_begun_too(student_folder):
    def told(turns: int) -> list[dict[str, str]]:
        return [message for i in range(turns) for message in conversation(f"{i}?", "the answer is 42. " * 4)]

    rows = Dataset.from_list([{"problem": i // 4, "messages": told(1 + i % 4)} for i in range(100)])
    scorer = RSRScorer(student_folder, turns="each")
    found, report = select_trajectories(
        rows, "problem", scorer=scorer, prune=True, regret=0.5, calibration=20, return_report=True
    )
    assert len(found) == 25 and report.dropped["pruned"] > 0


def test_an_empty_dataset_and_one_without_problems_are_selected_from(source, scorer):
    nothing = Dataset.from_dict({"problem": [], "messages": []})
    assert len(select_trajectories(nothing, "problem", scorer=scorer, prune=True)) == 0
    keyless = source.select(range(5)).remove_columns("problem").add_column("problem", [None] * 5)
    found, report = select_trajectories(keyless, "problem", scorer=scorer, prune=True, return_report=True)
    assert len(found) == 0 and report.dropped == {"no_group": 5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prune": False}, "prune=False with scorer="),
        ({"scorer": None}, "prune=True without scorer="),
        ({"regret": -0.1}, "regret=-0.1: must be in"),
        ({"confidence": 1.0}, "confidence=1.0: must be in"),
        ({"calibration": 0}, "calibration=0: must be a positive whole number"),
        ({"metric": "rsr_avg_rank"}, "give no metric"),
        ({"correct": "right"}, "no column 'right'"),
    ],
)
def test_a_mistake_is_named_before_anything_is_read(source, scorer, arguments, message):
    with pytest.raises(ValueError, match=message):
        select_trajectories(source, **{"group_by": "problem", "scorer": scorer, "prune": True, **arguments})


SCRIPT = """
import json, sys, torch
from datasets import load_from_disk
from rsr_datasets import RSRScorer, select_trajectories
torch.set_num_threads(1)
source, student, output, arguments = sys.argv[1:]
more = {"scorer": RSRScorer(student), "output_dir": output, **json.loads(arguments)}
best = select_trajectories(load_from_disk(source), **more)
print(json.dumps(best["candidate"][:]))
"""


def test_two_processes_give_the_same_bits(run, source, student_folder, tmp_path: Path) -> None:
    folder, best, _ = run
    source.save_to_disk(tmp_path / "source")
    (tmp_path / "prune.py").write_text(SCRIPT)
    arguments = [tmp_path / "source", student_folder, tmp_path / "run", json.dumps(ARGUMENTS)]
    printed = []
    for process in [ForkedPython(tmp_path / "prune.py", *arguments, **variables) for variables in ranks(2)]:
        out, err = process.communicate()
        assert process.poll() == 0, err[-6000:]
        printed += [json.loads(line) for line in out.splitlines() if line.startswith("[")]
    assert printed == [best["candidate"][:]] * 2
    found, expected = (load_from_disk(where / "scored") for where in (tmp_path / "run", folder))
    assert Counter(found["rsr_status"]) == Counter(expected["rsr_status"])
    assert found.to_dict() == expected.to_dict()
