"""What notebooks show: every result as a table, with any name in it as plain text."""

from __future__ import annotations

import math
from html.parser import HTMLParser

import pytest
from conftest import ROOT
from datasets import Dataset

from rsr_datasets import DatasetRSR, dataset_rsr, rank_teachers, select_trajectories
from rsr_datasets.utils.html import table

HOSTILE = "<script>alert(1)</script>\"'&amp; $x$ \x1b[31m"
TAGS = {"table", "caption", "thead", "tbody", "tr", "th", "td"}


class Cells(HTMLParser):
    """Text of each cell and caption; any tag that is no part of a table fails."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS and not attrs
        self.open.append(tag)
        if tag in ("caption", "th", "td"):
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.found[-1] += data


def cells(markup: str) -> list[str]:
    parser = Cells()
    parser.feed(markup)
    parser.close()
    assert not parser.open
    return parser.found


@pytest.fixture(scope="module")
def champ() -> Dataset:
    scores = Dataset.from_parquet(str(ROOT / "tests" / "data" / "champ_smollm2_scores.parquet"))
    names = {"human": HOSTILE}
    return scores.map(lambda row: {"teacher": names.get(row["teacher"], row["teacher"])})


def test_a_table_escapes_what_is_in_it() -> None:
    assert cells(table([(HOSTILE, 3)], head=(HOSTILE, "n"), caption=HOSTILE)) == [HOSTILE, HOSTILE, "n", HOSTILE, "3"]


def test_a_result_is_a_table(champ: Dataset) -> None:
    result = dataset_rsr(champ)
    found = cells(result._repr_html_())
    assert {"RSR", f"{result.rsr:.3f}", "95% interval", f"{result.low:.3f} – {result.high:.3f}", "1,350"} <= set(found)
    nothing = DatasetRSR(math.nan, math.nan, math.nan, 0.95, 0, 0, 7, 0)
    assert "nan – nan" in cells(nothing._repr_html_())


def test_a_ranking_is_a_table_in_order(champ: Dataset) -> None:
    ranking = rank_teachers(champ, problem_column="problem_id", sample=50)
    found = cells(ranking._repr_html_())
    names = [name for name in found if name in {ranked.teacher for ranked in ranking.teachers}]
    assert names == [ranked.teacher for ranked in ranking.teachers]
    assert HOSTILE in names and found[0].startswith("250 trajectories and ")
    assert [f"{sure:.1%}" for sure in ranking.order_confidence] == [cell for cell in found if cell.endswith("%")]


def test_a_selection_is_a_table(champ: Dataset) -> None:
    unscored = [{**champ[0], "problem_id": HOSTILE, "rsr": None, "rsr_status": "bad_row"}]
    rows = Dataset.from_list([*champ.select([0, 270, 540, 810, 1080]), *unscored])
    _, report = select_trajectories(rows, "problem_id", return_report=True)
    found = cells(report._repr_html_())
    assert found[:10] == ["Selection", "", "before", "after", "rows", "6", "1", "groups", "2", "1"]
    assert f"problem_id={HOSTILE!r}" in found
    assert found[found.index("worse") + 1] == "4" and found[found.index("unscored") + 1] == "1"
    assert found[-3:] == ["share of the kept rows", report.teacher_share.popitem()[0], "100.0%"]
