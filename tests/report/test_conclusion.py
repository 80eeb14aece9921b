"""The paragraph at the top of the report, and what the page says about student and settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from report_pages import embedded

from rsr_datasets import RSRScorer, diagnose, score_dataset, select_subset, select_trajectories
from rsr_datasets.report import build_report

FIT = "RSR tells how well a trajectory suits the student, not whether it is right"


@pytest.fixture
def scorer(student_folder: str) -> RSRScorer:
    return RSRScorer(student_folder, dtype="float32", chat_template="chatml")


def conclusion(tmp_path: Path, rows: Dataset, **arguments: Any) -> list[str]:
    return embedded(build_report(rows, tmp_path / "report.html", **arguments))["conclusion"]


def rows_of(ranks: dict[str, list[float]], **columns: list[Any]) -> Dataset:
    """A row for each average rank of each teacher, one a problem, with an average surprisal of 1."""
    cells = [
        (teacher, problem, rank) for teacher, all_ranks in ranks.items() for problem, rank in enumerate(all_ranks)
    ]
    scored = [rank > 0 for _, _, rank in cells]
    return Dataset.from_dict({
        "problem_id": [f"p{problem}" for _, problem, _ in cells],
        "teacher": [teacher for teacher, _, _ in cells],
        "rsr": [rank if rank > 0 else None for *_, rank in cells],
        "rsr_avg_rank": [rank if rank > 0 else None for *_, rank in cells],
        "rsr_avg_surprisal": [1.0 if known else None for known in scored],
        "rsr_num_tokens": [10 + i for i in range(len(cells))],
        "rsr_settings": ["0123456789ab-100"] * len(cells),
        "rsr_status": ["scored" if known else "bad_row" for known in scored],
        **columns,
    })  # fmt: skip


def spread(mean: float, seed: int, count: int = 60) -> list[float]:
    return (mean + np.random.default_rng(seed).normal(0, 0.5, count)).tolist()


def test_the_page_begins_with_the_conclusion(champ: Dataset, tmp_path: Path, open_page: Any) -> None:
    selected, selection = select_trajectories(champ, "problem_id", return_report=True)
    path = build_report(champ, tmp_path / "report.html", selected=selected)
    sentences = embedded(path)["conclusion"]
    assert sentences == [
        "PaLM 2 Medium suits the student best: it has the lowest RSR of 5 teachers, 2.66, and keeps this place in "
        "100% of the resamples of problems; next is GPT-4 (2.79).",
        f"The selection keeps 270 of 1,350 rows and lowers RSR from {selection.rsr_before:.2f} to "
        f"{selection.rsr_after:.2f}.",
        "The others: 1,080 had a worse score.",
        f"{FIT}; nothing in the data tells that.",
        *diagnose(champ, "problem_id").sentences_about("length"),
    ]
    page = open_page(path)
    assert page.locator("main section").first.get_attribute("id") == "conclusion"
    assert page.locator("#conclusion-sentences").inner_text() == " ".join(sentences)


def test_it_says_how_surely_a_teacher_is_the_best(tmp_path: Path) -> None:
    sure = conclusion(tmp_path, rows_of({"ada": spread(2, 0), "bob": spread(3, 1)}))[0]
    assert sure.startswith("ada suits the student best: it has the lowest RSR of 2 teachers,") and "100%" in sure
    open_ = conclusion(tmp_path, rows_of({"ada": spread(2, 0), "bob": spread(2.05, 1), "eve": spread(3, 2)}))[0]
    assert re.search(
        r"bob has the lowest RSR of 3 teachers, .* but only in 5\d% of .*: ada \(2.04\) may suit it", open_
    )
    likely = conclusion(tmp_path, rows_of({"ada": spread(2, 0), "bob": spread(2.2, 1)}))[0]
    assert likely.startswith("ada probably suits the student best")


def test_few_trajectories_decide_nothing(tmp_path: Path) -> None:
    found = conclusion(tmp_path, rows_of({"ada": spread(2, 0, 4), "bob": spread(9, 1, 4)}))
    assert "ada has the lowest RSR" in found[0] and "next is bob" in found[0] and "best" not in found[0]
    assert found[1] == "With as few as 4 trajectories of a teacher the order is not sure: take at least 20."


def test_one_teacher_or_none_has_nothing_to_compare(tmp_path: Path) -> None:
    rows = rows_of({"ada": [2.0, 3.0]})
    ratio = "have an RSR of 2.50 for the student; lower suits a student better."
    assert conclusion(tmp_path, rows)[0] == f"The trajectories of ada {ratio}"
    assert conclusion(tmp_path, rows.remove_columns("teacher"))[0] == f"The trajectories {ratio}"
    unscored = rows_of({"ada": [-1.0, -1.0]})
    assert conclusion(tmp_path, unscored) == ["None of 2 rows has a score (2 bad_row)."]


def test_it_says_why_rows_fell(tmp_path: Path) -> None:
    right = [i % 2 == 0 for i in range(60)]
    rows = rows_of({"ada": [*spread(2, 0, 28), -1.0, -1.0], "bob": spread(3, 1, 30)}, is_correct=right)
    assert conclusion(tmp_path, rows)[1] == "58 of 60 rows have a score (2 bad_row)."
    kept, report = select_trajectories(rows, "problem_id", correct="is_correct", return_report=True)
    sentences = conclusion(tmp_path, rows, selected=kept)
    reasons = {"worse": "had a worse score", "unscored": "have no score"}
    for reason, count in report.dropped.items():
        assert f"{count} {reasons[reason]}" in sentences[2]
    assert sentences[2].endswith("(2 bad_row).") and len(report.dropped) == 2
    half = select_subset(kept, fraction=0.5)
    twice = conclusion(tmp_path, rows, selected=half)
    assert f"keeps {len(half)} of 60 rows" in twice[1] and f"{58 - len(half)} had a worse score" in twice[2]
    lost = conclusion(tmp_path, rows, selected=Dataset.from_dict(half[:]))
    assert not any(sentence.startswith("The others") for sentence in lost)


def test_a_selection_of_worse_rows_raises_the_ratio(tmp_path: Path) -> None:
    rows = rows_of({"ada": spread(2, 0), "bob": spread(3, 1)})
    worst = select_trajectories(rows, "problem_id", largest=True)
    assert "keeps 60 of 120 rows and raises RSR from" in conclusion(tmp_path, rows, selected=worst)[1]
    assert "with an RSR of" in conclusion(tmp_path, rows, selected=rows)[1]


def test_correctness_is_told_where_it_is_known(tmp_path: Path) -> None:
    right = [True] * 60 + [False] * 30 + [None] * 30
    rows = rows_of({"ada": spread(2, 0), "bob": spread(3, 1)}, is_correct=right)
    found = diagnose(rows, "problem_id", correct="is_correct")
    assert conclusion(tmp_path, rows)[2:4] == [
        f"67% of all rows whose correctness is known are correct: {FIT}.",
        *found.sentences_about("correctness"),
    ]
    selected = conclusion(tmp_path, rows, selected=rows.select(range(50, 70)))
    known = "of the selected rows whose correctness is known are correct, and 67% of all such rows"
    assert f"50% {known}: {FIT}." in selected
    renamed = rows.rename_column("is_correct", "right")
    assert conclusion(tmp_path, renamed, correct="right") == conclusion(tmp_path, rows)
    assert f"{FIT}; nothing in the data tells that." in conclusion(tmp_path, renamed)
    with pytest.raises(ValueError, match="no column 'nowhere'"):
        conclusion(tmp_path, rows, correct="nowhere")


def test_the_scorer_says_who_scored(scorer: RSRScorer, dataset: Dataset, tmp_path: Path, open_page: Any) -> None:
    rows = dataset.map(scorer, batched=True)
    page = open_page(build_report(rows, tmp_path / "report.html", scorer=scorer))
    name = Path(str(scorer.source.name)).name
    assert page.locator("h1").inner_text() == page.title() == f"Rank-Surprisal Ratio for {name}"
    facts = page.locator(".facts div").all_inner_texts()
    assert facts[:5] == [
        f"student\n{name}", "dtype\nfloat32", "chat template\nchatml", "engine\ntransformers", "ranks clipped at\n100"
    ]  # fmt: skip
    assert facts[5] == f"settings\n{scorer.settings_hash}"
    assert name in page.locator("#conclusion-sentences").inner_text()
    unknown = open_page(build_report(rows, tmp_path / "b.html"))
    assert unknown.title() == "Rank-Surprisal Ratio report"
    assert "does not say which student gave the scores" in unknown.locator("#statuses").inner_text()


def test_another_scorer_is_refused(scorer: RSRScorer, small: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"scorer: its settings give '\w+-100', column 'rsr_settings' holds"):
        build_report(small, tmp_path / "report.html", scorer=scorer)


def test_a_run_says_who_scored(scorer: RSRScorer, dataset: Dataset, tmp_path: Path) -> None:
    scored = score_dataset(dataset, scorer, tmp_path / "run")
    assert embedded(build_report(scored, tmp_path / "report.html"))["overview"]["scoring"][1] == ["dtype", "float32"]
