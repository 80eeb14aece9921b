"""Batches: how many tokens a device reads in one forward pass, and which rows are read together."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import transformers

Ids = npt.NDArray[np.int64]
"""Token ids or places of tokens, shape ``(tokens,)``."""

_PASSES_IN_BUDGET = 16
_LEAST_TOKENS = 512
_MEMORY_PROBE_LENGTH = 2048


def default_tokens_per_batch(device: torch.device) -> int:
    """Tokens in one forward pass that keep a kind of device busy, whether or not they fit into its memory."""
    return 1024 if device.type == "cpu" else 16384


def default_chunk_bytes(device: torch.device) -> int:
    """Bytes that the logits of one chunk, and the copies made of them, take on a kind of device."""
    return 3 << (25 if device.type == "cpu" else 28)


def bytes_per_token(config: transformers.PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes that a token takes in a pass: residual stream, attention's inputs and output, MLP, of one layer."""
    sizes = config.get_text_config()
    inner = getattr(sizes, "intermediate_size", None) or 4 * sizes.hidden_size  # some families have one for each layer
    width = 6 * sizes.hidden_size + 3 * (inner if isinstance(inner, int) else max(inner))
    return int(width * dtype.itemsize)


def choose_tokens_per_batch(
    device: torch.device, max_positions: int | None, read: Callable[[torch.Tensor], object]
) -> int:
    """Tokens of a pass that keep the device busy and fit into half of the free memory, measured by ``read``."""
    most = default_tokens_per_batch(device)
    if device.type != "cuda":
        return most
    length = min(_MEMORY_PROBE_LENGTH, max_positions or _MEMORY_PROBE_LENGTH)
    try:
        free, taken = _memory_of_pass(device, length, read)
    except torch.OutOfMemoryError:
        return _LEAST_TOKENS
    return max(_LEAST_TOKENS, min(most, int(0.5 * free * length / max(1, taken))))


@torch.no_grad()
def _memory_of_pass(device: torch.device, length: int, read: Callable[[torch.Tensor], object]) -> tuple[int, int]:
    """Free bytes of a GPU, and the most bytes that a row of some length takes while it is read."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    free, _ = torch.cuda.mem_get_info(device)
    read(torch.zeros((1, length), dtype=torch.int64))
    return free, torch.cuda.max_memory_allocated(device) - before


def plan_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Groups sequences of similar length into the cheapest batches, longest first, as indices into ``lengths``."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])

    def padded_tokens(begin: int) -> Ids:
        longest = max(1, lengths[order[begin]])
        return longest * np.arange(1, min(len(order) - begin, max(1, tokens_per_batch // longest)) + 1)

    return [order[cut] for cut in cheapest_cut(len(order), padded_tokens, tokens_per_batch)]


def cheapest_cut(count: int, tokens_from: Callable[[int], Ids], tokens_per_batch: int) -> list[slice]:
    """Cuts a sequence of ``count`` rows into the batches that cost least: their tokens, and a pass over the weights.

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


def pad_right(sequences: Sequence[Ids]) -> torch.Tensor:
    """Stacks sequences, padded on the right: causal attention needs no mask. Padding repeats the row's last token."""
    longest = max(ids.size for ids in sequences)  # the embedding of another token may not be a number
    return torch.from_numpy(np.stack([np.pad(ids, (0, longest - ids.size), mode="edge") for ids in sequences]))


def to_device(tensor: torch.Tensor, device: torch.device | None) -> torch.Tensor:
    """Copies a tensor from the CPU to a device, without waiting for a GPU's earlier work."""
    if device is None or device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
