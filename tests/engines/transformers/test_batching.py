"""Length-sorted batches by token budget."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_datasets.engines.transformers.batches import pad_right, plan_batches

lengths_strategy = st.lists(st.integers(1, 300), max_size=60)


@given(lengths_strategy, st.integers(1, 2000))
def test_every_row_once_and_no_batch_over_budget(lengths: list[int], budget: int) -> None:
    batches = plan_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


@given(lengths_strategy, st.integers(1, 2000))
def test_longest_first(lengths: list[int], budget: int) -> None:
    flat = [lengths[i] for batch in plan_batches(lengths, budget) for i in batch]
    assert flat == sorted(lengths, reverse=True)


def cost(batches: list[list[int]], lengths: list[int], budget: int) -> float:
    return sum(max(lengths[i] for i in batch) * len(batch) + budget / 16 for batch in batches)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=9), st.integers(1, 2000))
def test_no_other_cut_costs_less(lengths: list[int], budget: int) -> None:
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    costs = []
    for cuts in itertools.product((False, True), repeat=len(lengths) - 1):
        bounds = [0, *(i for i, cut in enumerate(cuts, 1) if cut), len(lengths)]
        batches = [order[start:end] for start, end in itertools.pairwise(bounds)]
        if all(len(batch) == 1 or lengths[batch[0]] * len(batch) <= budget for batch in batches):
            costs.append(cost(batches, lengths, budget))
    assert cost(plan_batches(lengths, budget), lengths, budget) == min(costs)


def test_rows_that_differ_much_are_not_padded_to_one_length() -> None:
    assert plan_batches([900, 100, 100], 4000) == [[0], [1, 2]]
    assert plan_batches([150, 100, 100], 4000) == [[0, 1, 2]]


def test_budget_must_be_positive() -> None:
    with pytest.raises(ValueError, match="tokens_per_batch=0"):
        plan_batches([1], 0)


def test_padding_is_on_the_right() -> None:
    padded = pad_right([np.array([5, 6, 7]), np.array([8])])
    assert padded.tolist() == [[5, 6, 7], [8, 8, 8]]
