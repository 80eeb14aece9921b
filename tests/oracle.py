"""The plainest scoring that is right: full logits of one row alone, as one softmax a token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rsr_datasets.metrics import TrajectoryTokens
from rsr_datasets.reading.rows import EncodedRow
from rsr_datasets.scoring.session import local_rows, row_without_prompt

NEAR = 1e-5


@dataclass(frozen=True)
class PlainScores:
    """Ranks, surprisals in nats, how many logits lie within ``NEAR`` of the target's, entropies, all ``(tokens,)``."""

    ranks: np.ndarray
    surprisals: np.ndarray
    near: np.ndarray
    entropies: np.ndarray


@torch.inference_mode()
def plain_scores(model: PreTrainedModel, row: EncodedRow) -> PlainScores:
    logits = model(input_ids=torch.from_numpy(row.input_ids)[None]).logits[0].float()
    found = []
    for position in row.positions:
        own = logits[position - 1]
        target = row.input_ids[position]
        log_probabilities = torch.log_softmax(own.double(), dim=-1)
        rank = 1 + (own > own[target]).sum()
        near = ((own - own[target]).abs() <= NEAR).sum() - 1
        entropy = torch.special.entr(log_probabilities.exp()).sum()
        found.append((rank, -log_probabilities[target], near, entropy))
    return PlainScores(*(torch.stack(each).numpy() for each in zip(*found, strict=True)))


def assert_scored_the_same(ranks: np.ndarray, surprisals: np.ndarray, expected: PlainScores) -> None:
    """The contract's "scored the same"."""
    np.testing.assert_allclose(surprisals, expected.surprisals, rtol=0, atol=NEAR)
    assert (np.abs(ranks - expected.ranks) <= expected.near).all(), (ranks - expected.ranks, expected.near)


def plain_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, row: EncodedRow) -> TrajectoryTokens:
    """All that metrics read of a trajectory: its second passes are a plain loop over separate forward passes."""
    plain = plain_scores(model, row)
    local = np.concatenate([plain_scores(model, part).surprisals for part in local_rows(row, tokenizer)])
    without = plain_scores(model, row_without_prompt(row, tokenizer)).surprisals
    return TrajectoryTokens(plain.ranks.astype(np.int32), plain.surprisals, 100, plain.entropies, local, without)
