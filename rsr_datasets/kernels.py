"""A chunk of logits and its targets to rank and surprisal."""

from __future__ import annotations

import torch


def rank_and_surprisal(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rank and surprisal of one target a row (Eq. 2 and section 3.1).

    No sort and no top-k: counting the entries above the target gives the exact rank. The sum of exponentials is
    accumulated in float32 and surprisal is put together from two terms that are never negative, so that confident
    tokens keep their digits.

    Args:
        logits: Shape ``(tokens, vocabulary)``, any floating dtype. Overwritten where it is float32.
        targets: Ids of the tokens that were written, int64, shape ``(tokens,)``.

    Returns:
        Ranks, int32, shape ``(tokens,)``: 1 + the number of entries strictly above the target's; and surprisals in
        nats, float32, shape ``(tokens,)``: NaN or infinite where the logits do not give a number.
    """
    target = logits.gather(1, targets[:, None])
    ranks = (logits > target).sum(dim=1, dtype=torch.int32) + 1
    top = logits.amax(dim=1, keepdim=True).float()
    total = logits.float().sub_(top).exp_().sum(dim=1)
    surprisals = total.log_() + (top - target.float()).squeeze(1)
    return ranks, surprisals
