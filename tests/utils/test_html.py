"""What notebooks show: every result as a table, with any name in it as plain text."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from conftest import ROOT
from datasets import Dataset

from rsr_datasets import select_trajectories
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


def test_a_selection_is_a_table(champ: Dataset) -> None:
    unscored = [{**champ[0], "problem_id": HOSTILE, "rsr": None, "rsr_status": "bad_row"}]
    rows = Dataset.from_list([*champ.select([0, 270, 540, 810, 1080]), *unscored])
    _, report = select_trajectories(rows, "problem_id", return_report=True)
    found = cells(report._repr_html_())
    assert found[:10] == ["Selection", "", "before", "after", "rows", "6", "1", "groups", "2", "1"]
    assert f"problem_id={HOSTILE!r}" in found
    assert found[found.index("worse") + 1] == "4" and found[found.index("unscored") + 1] == "1"
    assert found[-3:] == ["share of the kept rows", report.teacher_share.popitem()[0], "100.0%"]
