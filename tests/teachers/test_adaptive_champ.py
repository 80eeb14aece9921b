"""Adaptive teacher ranking on real scores: CHAMP's five sources, scored once with SmolLM2 in float32."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from adaptive_experiment import run
from conftest import ROOT, SHARED
from datasets import Dataset

SCORES = ROOT / "tests" / "data" / "champ_smollm2_scores.parquet"
ORACLE = SHARED / "oracle" / "champ_smollm2.json"


@pytest.fixture(scope="module")
def scores() -> Dataset:
    return Dataset(pq.read_table(SCORES))


def test_the_leader_is_found_with_a_fraction_of_the_trajectories(scores: Dataset) -> None:
    result = run(scores, seeds=60, sample=None, confidence=0.95, tolerance=0.01, problem_column="problem_id")
    assert result["all_trajectories"] == 5 * 270 and sum(result["chosen"].values()) == 60
    assert result["within_tolerance"] >= 0.95
    assert 0 < result["median_share"] <= 0.6


def test_close_sources_cost_more(scores: Dataset) -> None:
    """Without the leader the two next sources lie 1.5% apart: telling them apart takes more of the data."""
    others = scores.filter(lambda teacher: teacher != "PaLM 2 Medium", input_columns="teacher")
    easy, hard = (
        run(rows, seeds=20, sample=None, confidence=0.95, tolerance=0.01, problem_column="problem_id")
        for rows in (scores, others)
    )
    assert hard["within_tolerance"] >= 0.95
    assert hard["median_share"] > easy["median_share"]


def test_the_shipped_scores_are_the_published_ones_where_there_are_any(scores: Dataset) -> None:
    if not ORACLE.exists():
        pytest.skip(f"the published scores are not at {ORACLE}")
    found = {(row["problem_id"], row["teacher"]): row for row in scores}
    rows = json.loads(ORACLE.read_text())["trajectories"]
    for row in rows:
        ours = found[row["problem_id"], row["teacher"]]
        assert ours["rsr_num_tokens"] == row["num_tokens"]
        assert ours["rsr_avg_surprisal"] == pytest.approx(row["avg_surprisal"], rel=1e-5)
        # One rank may fall on the other side of a tie in the last bits of float32.
        assert abs(ours["rsr_avg_rank"] - row["avg_rank"]) * row["num_tokens"] < 1 + 1e-6
    assert sum(found[r["problem_id"], r["teacher"]]["rsr"] != pytest.approx(r["rsr"], rel=1e-5) for r in rows) <= 1
