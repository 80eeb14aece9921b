"""A chunk of logits and its targets to rank, surprisal and, where asked, entropy."""

import functools
import logging
import math
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

Reduced = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Ranks, int32; surprisals in nats, float32; and entropies in nats, float32, where asked: all of one shape."""

# 200 bits below the greatest logit a float32 probability is zero, and so is its part of the entropy.
_NO_PROBABILITY = -200.0
# torch computes powers of two by itself. It leaves powers of e to MKL, which is slow on AMD's processors.
_BITS_IN_A_NAT = math.log2(math.e)
# Bytes of a block for each thread of a CPU: with a scratch of the same size a block stays in the second-level cache.
_BLOCK_BYTES = 3 << 17


def rank_and_surprisal(logits: torch.Tensor, targets: torch.Tensor, entropy: bool = False) -> Reduced:
    """Rank and surprisal of one target a row (Eq. 2 and section 3.1), and the entropy of the row.

    Logits of shape ``(tokens, vocabulary)`` are not changed. Surprisals are NaN or infinite where they give no number.
    """
    if logits.is_cuda:
        with torch.cuda.device(logits.device):  # Triton launches on the current one
            if fused := _fused():
                return fused(logits, targets, entropy)
    tokens, vocabulary = logits.shape
    rows = tokens
    target = logits.gather(1, targets[:, None])
    # On a CPU the passes below take most of their time to move logits: few rows at a time stay in the cache.
    if logits.device.type == "cpu":
        rows = max(1, _BLOCK_BYTES * torch.get_num_threads() // (4 * vocabulary))
    floats, scratch = (logits.new_empty((min(rows, tokens), vocabulary), dtype=torch.float32) for _ in range(2))
    ranks = torch.empty(tokens, dtype=torch.int32, device=logits.device)
    surprisals = torch.empty(tokens, dtype=torch.float32, device=logits.device)
    entropies = torch.empty_like(surprisals) if entropy else None
    for start in range(0, tokens, rows):
        here = slice(start, start + rows)
        block, own = logits[here], target[here]
        if block.dtype.itemsize < 4:
            block, own = floats[: len(block)].copy_(block), own.float()
        shifted, work = floats[: len(block)], scratch[: len(block)]
        # A sum of ones in float32 is exact up to 16 million, and faster than a sum of integers or booleans.
        ranks[here] = torch.gt(block, own, out=work).sum(dim=1) + 1
        top = block.amax(dim=1, keepdim=True)
        gap = (top - own).squeeze(1)
        weights = torch.exp2(torch.sub(block, top, out=shifted).mul_(_BITS_IN_A_NAT), out=work)
        total = weights.sum(dim=1)
        log_total = total.log()
        surprisals[here] = log_total + gap  # neither is negative: confident tokens keep their digits
        if entropies is not None:
            expected = shifted.clamp_(min=_NO_PROBABILITY).mul_(weights).sum(dim=1).div_(total)
            entropies[here] = log_total - expected / _BITS_IN_A_NAT
    return ranks, surprisals, entropies


@functools.cache
def _fused() -> Callable[..., Reduced] | None:
    """The kernel for GPUs; ``None`` where Triton is not installed, or the kernel fails or errs on a probe."""
    logits = torch.randn((8, 5000), generator=torch.Generator().manual_seed(0))
    targets = torch.arange(len(logits))
    try:
        from .triton_reduction import rank_and_surprisal as fused

        ranks, surprisals, _ = fused(logits.cuda(), targets.cuda())
        expected_ranks, expected, _ = rank_and_surprisal(logits, targets)
        torch.testing.assert_close(ranks.cpu(), expected_ranks)
        torch.testing.assert_close(surprisals.cpu(), expected)
    except ImportError:
        return None
    except Exception as error:  # a compiler and a driver of the user's machine may raise any error
        logger.warning("the Triton kernel is not used: %s", error)
        return None
    return fused
