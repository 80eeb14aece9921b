"""The reduction of :mod:`.reduction` for GPUs: each logit is read once, and nothing of that size is written."""

import torch
import triton
import triton.language as tl

_BLOCK = 4096
_NO_PROBABILITY = tl.constexpr(-200.0)


@triton.jit
def _reduce_row(  # type: ignore[no-untyped-def]  # the compiler resolves annotations: only those of Triton may stand
    logits, stride, targets, ranks, surprisals, entropies, vocabulary, with_entropy: tl.constexpr, block: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    start_of_row = logits + row * stride
    target = tl.load(start_of_row + tl.load(targets + row)).to(tl.float32)
    top = -float("inf")
    total = 0.0
    expected = 0.0
    above = 0
    not_a_number = 0
    for start in range(0, vocabulary, block):
        places = start + tl.arange(0, block)
        inside = places < vocabulary
        x = tl.load(start_of_row + places, mask=inside, other=-float("inf")).to(tl.float32)
        above += tl.sum((x > target).to(tl.int32), axis=0)
        # The maximum of a block hides a NaN.
        not_a_number += tl.sum((x != x).to(tl.int32), axis=0)
        new_top = tl.maximum(top, tl.max(x, axis=0))
        # As long as all logits are -inf there is nothing to subtract or to rescale.
        base = tl.where(new_top == -float("inf"), 0.0, new_top)
        shift = tl.where(top == -float("inf"), 0.0, top - base)
        shrink = tl.exp(shift)
        weights = tl.exp(x - base)
        if with_entropy:
            below = tl.maximum(x - base, _NO_PROBABILITY)
            expected = shrink * (expected + total * shift) + tl.sum(tl.where(inside, weights * below, 0.0), axis=0)
        total = total * shrink + tl.sum(weights, axis=0)
        top = new_top
    log_total = tl.log(total)
    undefined = (not_a_number > 0) | (top == -float("inf"))
    tl.store(ranks + row, above + 1)
    tl.store(surprisals + row, tl.where(undefined, float("nan"), log_total + (top - target)))
    if with_entropy:
        tl.store(entropies + row, tl.where(undefined, float("nan"), log_total - expected / total))


def rank_and_surprisal(
    logits: torch.Tensor, targets: torch.Tensor, entropy: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Like :func:`.reduction.rank_and_surprisal`, with the same ranks; floats differ by the order of a float32 sum."""
    tokens, vocabulary = logits.shape
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    ranks = torch.empty(tokens, dtype=torch.int32, device=logits.device)
    surprisals = torch.empty(tokens, dtype=torch.float32, device=logits.device)
    entropies = torch.empty_like(surprisals) if entropy else None
    given = (logits, logits.stride(0), targets.contiguous())
    found = (ranks, surprisals, surprisals if entropies is None else entropies)
    _reduce_row[(tokens,)](*given, *found, vocabulary, with_entropy=entropy, block=_BLOCK)
    return ranks, surprisals, entropies
