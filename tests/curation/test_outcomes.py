"""Outcomes of training: intervals that cover, and everything that a few runs cannot tell called inconclusive."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from scipy import stats

from rsr_datasets import Outcomes, compare_outcomes, dataset_rsr

pytestmark = pytest.mark.filterwarnings("error")


def runs_of(scores: Mapping[Any, list[float]]) -> list[dict[str, Any]]:
    return [{"arm": arm, "seed": i, "score": s} for arm, values in scores.items() for i, s in enumerate(values)]


def said(found: Outcomes) -> str:
    return " ".join(found.sentences)


def test_arms_that_differ_on_every_seed_are_said_to() -> None:
    found = compare_outcomes(runs_of({"random": [0.40, 0.50, 0.61], "lowest": [0.50, 0.60, 0.70]}))
    assert [each.arm for each in found.arms] == ["lowest", "random"]
    assert found.differences[0].difference.value == pytest.approx(0.29 / 3)
    assert "lowest is better than random: +0.097 [" in said(found) and "over 3 seeds" in said(found)
    assert found.to_pandas()["finding"].tolist() == ["differs"]


def test_differences_are_paired_by_seed() -> None:
    """Seeds differ much more than arms; the order of the rows does not matter."""
    rows = runs_of({"a": [0.1, 0.5, 0.9], "b": [0.2, 0.61, 0.99]})
    found = compare_outcomes(Dataset.from_list(rows[::-1]))
    expected = stats.ttest_rel([0.2, 0.61, 0.99], [0.1, 0.5, 0.9]).confidence_interval(0.95)
    difference = found.differences[0].difference
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))
    assert found.differences[0].first == "b"


def test_scatter_is_inconclusive() -> None:
    found = compare_outcomes(runs_of({"a": [0.1, 0.5, 0.9], "b": [0.9, 0.4, 0.3]}))
    assert "1 of 1 differences between arms are inconclusive." in said(found)
    assert found.to_pandas()["finding"].tolist() == ["inconclusive"] and "inconclusive" in str(found)


def test_one_seed_is_inconclusive() -> None:
    found = compare_outcomes([{"teacher": "ada", "score": 0.9}, {"teacher": "bob", "score": 0.1}])
    assert "inconclusive. One seed cannot tell: train with several." in said(found)
    assert math.isnan(found.differences[0].difference.low)


def test_arms_without_a_common_seed_are_inconclusive() -> None:
    rows = [{"arm": arm, "seed": seed, "score": 0.5} for arm, seed in (("a", 0), ("a", 1), ("b", 2), ("b", 3))]
    assert "inconclusive" in said(compare_outcomes(rows))


def test_seeds_without_scatter_are_inconclusive() -> None:
    """Three equal differences would give an interval of no width."""
    found = compare_outcomes(runs_of({"a": [0.4, 0.5, 0.6], "b": [0.5, 0.6, 0.7]}))
    assert "inconclusive. Seeds without scatter cannot tell either." in said(found)


def test_arms_and_teachers_may_be_in_one_dataset() -> None:
    rows = [{"arm": "a", "teacher": None, "score": 0.5}, {"arm": None, "teacher": "b", "score": 0.25}]
    assert [each.arm for each in compare_outcomes(Dataset.from_list(rows)).arms] == ["a", "b"]


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ([0.9, 0.8, 0.7, 0.6, 0.5], "Lower RSR went with higher scores over 5 arms: Spearman -1.000 ["),
        ([0.5, 0.6, 0.7, 0.8, 0.9], "Lower RSR went with lower scores over 5 arms: Spearman +1.000 ["),
        ([0.9, 0.5, 0.7, 0.6, 0.8], "RSR against score over 5 arms is inconclusive: Spearman -0.100 ["),
        ([0.9, 0.8, 0.7, 0.6], "RSR against score over 4 arms is inconclusive: Spearman -1.000 ["),
        ([0.9, 0.8, 0.7], "RSR against score over 3 arms is inconclusive: Spearman -1.000."),
        ([0.9, 0.8], "RSR cannot be compared with scores"),
        ([0.5, 0.5, 0.5, 0.5], "RSR cannot be compared with scores"),
    ],
)
def test_the_correlation_with_rsr_is_said_or_inconclusive(scores: list[float], sentence: str) -> None:
    found = compare_outcomes(
        runs_of({f"arm {i}": [score] for i, score in enumerate(scores)}),
        {f"arm {i}": 2.0 + i for i in range(len(scores))},
    )
    assert sentence in said(found)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["confidence"] == 0.95


def test_ratios_may_be_those_of_dataset_rsr(champ: Dataset) -> None:
    ratios = dataset_rsr(champ, "teacher", resamples=10)
    found = compare_outcomes(runs_of({name: [r.value, r.value + 0.1] for name, r in ratios.items()}), ratios)
    assert {each.arm: each.rsr for each in found.arms} == {name: r.value for name, r in ratios.items()}
    assert found.correlation is not None and found.correlation.value == pytest.approx(1)


def test_intervals_of_correlations_cover() -> None:
    """Ten teachers with a known correlation; 95% intervals hold in 92% to 99% of 300 draws."""
    rho, hits = 0.7, 0
    truth = 6 / math.pi * math.asin(rho / 2)
    for seed in range(300):
        x, y = np.random.default_rng(seed).standard_normal((2, 10))
        y = rho * x + math.sqrt(1 - rho**2) * y
        found = compare_outcomes(
            runs_of({str(i): [v] for i, v in enumerate(y)}), {str(i): v for i, v in enumerate(x)}
        ).correlation
        hits += found is not None and found.low <= truth <= found.high
    assert 0.92 <= hits / 300 <= 0.99


def test_all_differences_hold_together() -> None:
    """Five equal arms of four seeds: in at most 5% of sets any pair is said to differ."""
    sets = np.random.default_rng(0).standard_normal((200, 5, 4)).tolist()
    found = [compare_outcomes(runs_of(dict(enumerate(scores)))) for scores in sets]
    false = sum(any(pair.difference.is_conclusive for pair in each.differences) for each in found)
    assert false <= 16


@pytest.mark.parametrize(
    ("results", "rsr", "message"),
    [
        ([], None, "results: no rows"),
        ([{"arm": "a"}], None, r"results\[0\]: has the keys \['arm'\]; needs a value of arm or teacher"),
        (["arm"], None, r"results\[0\]: expected a dict, found str"),
        ([{"arm": "a", "score": "0.5"}], None, r"results\[0\]: the score of 'a' is '0.5', no finite number"),
        ([{"arm": "a", "score": 1.0}], {"a": None}, "rsr: the ratio of 'a' is None; expected a number"),
        ([{"arm": "a", "score": math.nan}], None, r"results\[0\]: the score of 'a' is nan"),
        ([{"arm": "a", "score": 1.0}] * 2, None, r"results\[1\]: a second score of 'a' with seed 0"),
        ([{"arm": "a", "score": 1.0}], {"b": 2.0}, "rsr: no result of 'b'"),
    ],
)
def test_mistakes_are_named(results: Any, rsr: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_outcomes(results, rsr)
