"""Length-sorted batches by token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

_PASSES_IN_BUDGET = 16


def plan_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Groups sequences of similar length into the batches that cost least; returns indices into ``lengths``.

    A batch costs its padded tokens and a pass over the weights, which counts as a part of the budget. So where lengths
    spread, smaller batches that pad less are cheaper than full ones. The longest sequences come first: a batch that
    does not fit into memory shows at once. A sequence longer than ``tokens_per_batch`` has a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])

    def padded_tokens(begin: int) -> npt.NDArray[np.int64]:
        longest = max(1, lengths[order[begin]])
        return longest * np.arange(1, min(len(order) - begin, max(1, tokens_per_batch // longest)) + 1)

    return [order[cut] for cut in cheapest_cut(len(order), padded_tokens, tokens_per_batch)]


def cheapest_cut(
    count: int, tokens_from: Callable[[int], npt.NDArray[np.int64]], tokens_per_batch: int
) -> list[slice]:
    """Cuts a sequence of ``count`` rows into the batches that cost least; returns the batches in order.

    ``tokens_from`` takes a row and gives the tokens of the batches that begin there, with one row, two and so on.
    """
    if tokens_per_batch < 1:
        raise ValueError(f"tokens_per_batch={tokens_per_batch}: must be a positive number")
    # For the first n rows: the cost of the cheapest batches, and where the last of these begins.
    costs = np.full(count + 1, np.inf)
    costs[0] = 0
    begins = np.zeros(count + 1, dtype=np.int64)
    for begin in range(count):
        costs_here = costs[begin] + tokens_per_batch / _PASSES_IN_BUDGET + tokens_from(begin)
        ends = slice(begin + 1, begin + 1 + costs_here.size)
        cheaper = costs_here < costs[ends]
        costs[ends][cheaper] = costs_here[cheaper]
        begins[ends][cheaper] = begin
    cuts: list[slice] = []
    end = count
    while end:
        cuts.append(slice(int(begins[end]), end))
        end = int(begins[end])
    return cuts[::-1]


def pad_right(sequences: Sequence[npt.NDArray[np.int64]]) -> torch.Tensor:
    """Stacks sequences to int64 of shape ``(sequences, longest)``, padded on the right.

    Under causal attention no real token sees a token on its right, so the padding needs no mask. Padding repeats the
    row's own last token: the embedding of another token may not be a number, and must not get into the batch.
    """
    padded = np.zeros((len(sequences), max(len(ids) for ids in sequences)), dtype=np.int64)
    for row, ids in zip(padded, sequences, strict=True):
        row[: len(ids)] = ids
        row[len(ids) :] = ids[-1]
    return torch.from_numpy(padded)


def to_device(tensor: torch.Tensor, device: torch.device | None) -> torch.Tensor:
    """Copies a tensor from the CPU to a device, without waiting for a GPU's earlier work."""
    if device is None or device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
