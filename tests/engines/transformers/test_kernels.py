"""Rank, surprisal and entropy of a chunk of logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_datasets.engines.transformers import reduction as kernels
from rsr_datasets.engines.transformers.reduction import rank_and_surprisal


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 700),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([0.01, 1.0, 30.0]),
    st.integers(0, 2**31),
)
def test_equals_sorting_and_softmax_in_double(
    tokens: int, vocabulary: int, dtype: torch.dtype, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(tokens, vocabulary, generator=generator) * scale).to(dtype)
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    exact = logits.double()
    expected_ranks = 1 + (exact > exact.gather(1, targets[:, None])).sum(1)
    expected = -torch.log_softmax(exact, dim=1).gather(1, targets[:, None])[:, 0]
    ranks, surprisals, nothing = rank_and_surprisal(logits.clone(), targets)
    assert nothing is None
    assert ranks.dtype == torch.int32 and surprisals.dtype == torch.float32
    assert torch.equal(ranks.long(), expected_ranks)
    np.testing.assert_allclose(surprisals.numpy(), expected.numpy(), rtol=1e-6, atol=1e-6)
    assert (surprisals >= 0).all()

    probabilities = torch.softmax(exact, dim=1)
    expected_entropies = torch.special.entr(probabilities).sum(1)
    again, same, entropies = rank_and_surprisal(logits.clone(), targets, entropy=True)
    assert torch.equal(again, ranks) and torch.equal(same, surprisals)
    assert entropies.dtype == torch.float32 and (entropies >= 0).all()
    np.testing.assert_allclose(entropies.numpy(), expected_entropies.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_more_tokens_than_are_reduced_at_once(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary, tokens = 1000, 11
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(tokens, vocabulary, generator=generator) * 5).to(dtype)
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    before = logits.clone()
    whole = rank_and_surprisal(logits, targets, entropy=True)
    assert torch.equal(logits, before)
    for rows in (0.5, 1, 3, 4):
        monkeypatch.setattr(kernels, "_BLOCK_BYTES", int(rows * 4 * vocabulary) // torch.get_num_threads())
        in_parts = rank_and_surprisal(logits, targets, entropy=True)
        assert torch.equal(in_parts[0], whole[0])
        for found, expected in zip(in_parts[1:], whole[1:], strict=True):
            np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6, atol=1e-6)


def test_ranks_of_double_logits_are_not_those_of_their_float32_roundings() -> None:
    ranks, *_ = rank_and_surprisal(torch.tensor([[1.0, 1.0 + 1e-12]], dtype=torch.float64), torch.tensor([0]))
    assert ranks.tolist() == [2]


def test_ties_do_not_count_as_above() -> None:
    ranks, *_ = rank_and_surprisal(torch.tensor([[1.0, 1.0, 1.0, 2.0]]), torch.tensor([1]))
    assert ranks.tolist() == [2]


def test_a_confident_token_keeps_its_digits() -> None:
    _, surprisals, _ = rank_and_surprisal(torch.tensor([[40.0, 28.0]]), torch.tensor([0]))
    assert surprisals.item() == pytest.approx(math.log1p(math.exp(-12)), rel=0.01)


@pytest.mark.parametrize(
    ("logits", "target"),
    [([math.nan, 1.0], 1), ([1.0, math.nan], 1), ([math.inf, 1.0], 1), ([math.inf, 1.0], 0), ([0.0, -math.inf], 1)],
)
def test_logits_that_give_no_number_give_none(logits: list[float], target: int) -> None:
    _, surprisals, _ = rank_and_surprisal(torch.tensor([logits]), torch.tensor([target]))
    assert not math.isfinite(surprisals.item())


def test_masked_out_entries_are_harmless() -> None:
    ranks, surprisals, _ = rank_and_surprisal(torch.tensor([[0.0, -math.inf, 0.0]]), torch.tensor([2]))
    assert ranks.tolist() == [1]
    assert surprisals.item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([0.0, -math.inf, 0.0], math.log(2)),
        ([5.0], 0.0),
        ([0.0] * 7, math.log(7)),
        ([0.0, -50_000.0], 0.0),
        ([40.0, 28.0], math.log1p(math.exp(-12)) + 12 / (1 + math.exp(12))),
    ],
)
def test_entropy_of_distributions_known_by_hand(logits: list[float], expected: float) -> None:
    _, _, entropies = rank_and_surprisal(torch.tensor([logits]), torch.tensor([0]), entropy=True)
    assert entropies.item() == pytest.approx(expected, rel=0.01, abs=1e-7)


@pytest.mark.parametrize("logits", [[math.nan, 1.0], [math.inf, 1.0]])
def test_entropy_of_what_is_no_distribution_is_not_a_number(logits: list[float]) -> None:
    _, _, entropies = rank_and_surprisal(torch.tensor([logits]), torch.tensor([1]), entropy=True)
    assert math.isnan(entropies.item())
