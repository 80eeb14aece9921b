"""The arithmetic of the Rank-Surprisal Ratio."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_datasets.metrics import ratio_of_means, trajectory_scores

token = st.tuples(st.integers(1, 200_000), st.floats(0, 30, width=32))
trajectories = st.lists(st.lists(token, max_size=40), min_size=1, max_size=8)


def flatten(rows: list[list[tuple[int, float]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tokens = [pair for row in rows for pair in row]
    ranks = np.array([rank for rank, _ in tokens], dtype=np.int32)
    surprisals = np.array([surprisal for _, surprisal in tokens], dtype=np.float32)
    return ranks, surprisals, np.cumsum([0, *map(len, rows)])


@given(trajectories, st.integers(1, 500))
def test_equals_the_plain_sums_of_equation_7(rows: list[list[tuple[int, float]]], clip: int) -> None:
    scores = trajectory_scores(*flatten(rows), rank_clip=clip)
    for i, row in enumerate(rows):
        rank_sum = math.fsum(min(rank, clip) for rank, _ in row)
        surprisal_sum = math.fsum(surprisal for _, surprisal in row)
        assert scores.num_tokens[i] == len(row)
        if not row:
            assert math.isnan(scores.rsr[i]) and math.isnan(scores.avg_rank[i])
            continue
        assert scores.avg_rank[i] == rank_sum / len(row)
        assert scores.avg_surprisal[i] == pytest.approx(surprisal_sum / len(row), rel=1e-14)
        if surprisal_sum > 0:
            assert scores.rsr[i] == pytest.approx(rank_sum / surprisal_sum, rel=1e-14)
        else:
            assert math.isnan(scores.rsr[i])


@given(trajectories)
def test_a_trajectory_scores_the_same_bits_whatever_stands_beside_it(rows: list[list[tuple[int, float]]]) -> None:
    together = trajectory_scores(*flatten(rows))
    for i, row in enumerate(rows):
        alone = trajectory_scores(*flatten([row]))
        for name in ("avg_rank", "avg_surprisal", "rsr"):
            assert np.array_equal(getattr(alone, name)[0], getattr(together, name)[i], equal_nan=True)


@given(trajectories, st.integers(1, 400))
def test_a_greater_clip_never_lowers_the_ratio(rows: list[list[tuple[int, float]]], clip: int) -> None:
    low = trajectory_scores(*flatten(rows), rank_clip=clip).rsr
    high = trajectory_scores(*flatten(rows), rank_clip=clip + 50).rsr
    assert all(math.isnan(a) or a <= b for a, b in zip(low, high, strict=True))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_surprisal_that_is_no_number_undefines_its_trajectory_alone(bad: float) -> None:
    scores = trajectory_scores([1, 2, 3, 4], [1.0, bad, 1.0, 3.0], [0, 2, 4])
    assert math.isnan(scores.rsr[0]) and math.isnan(scores.avg_surprisal[0])
    assert scores.rsr[1] == 7 / 4


def test_ratio_of_means_weighs_trajectories_alike() -> None:
    assert ratio_of_means([2.0, 6.0], [1.0, 3.0]) == 2.0
    assert ratio_of_means([1.0, 3.0, 5.0], [0.5, 0.5, 2.0]) == 3.0
    assert ratio_of_means([1.0, 3.0], [0.5, 0.25]) != pytest.approx(np.mean([1 / 0.5, 3 / 0.25]))


def test_ratio_of_means_without_surprisal_is_not_a_number() -> None:
    assert math.isnan(ratio_of_means([], []))
    assert math.isnan(ratio_of_means([1.0], [0.0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1], [1.0], [0, 1], 0), "rank_clip=0"),
        (([1], [1.0, 2.0], [0, 1]), "one same length"),
        (([1, 2], [1.0, 2.0], [0, 1]), "offsets must run from 0 to 2"),
        (([1, 2], [1.0, 2.0], [0, 3, 2]), "must not decrease"),
    ],
)
def test_arguments_that_do_not_fit(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trajectory_scores(*arguments)
    with pytest.raises(ValueError, match="one same length"):
        ratio_of_means([1.0], [1.0, 2.0])
