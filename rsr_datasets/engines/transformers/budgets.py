"""How many tokens a device reads in one forward pass, and how many logits it holds at once."""

from __future__ import annotations

from collections.abc import Callable

import torch

_CPU_TOKENS = 2048
_DEFAULT_TOKENS = 16384
_LEAST_TOKENS = 512
_MEMORY_PROBE_LENGTH = 2048
_SHARE_OF_FREE_MEMORY = 0.5
_DEVICE_CHUNK_BYTES = {"cpu": 3 << 26}
_DEFAULT_CHUNK_BYTES = 3 << 28


def default_tokens_per_batch(device: torch.device) -> int:
    """Tokens in one forward pass that keep a kind of device busy, whether or not they fit into its memory."""
    return _CPU_TOKENS if device.type == "cpu" else _DEFAULT_TOKENS


def default_chunk_bytes(device: torch.device) -> int:
    """Bytes that the logits of one chunk, and the copies made of them, take on a kind of device."""
    return _DEVICE_CHUNK_BYTES.get(device.type, _DEFAULT_CHUNK_BYTES)


def choose_tokens_per_batch(
    device: torch.device, max_positions: int | None, read: Callable[[torch.Tensor], object]
) -> int:
    """Tokens in one forward pass that keep the device busy and fit into half of a GPU's free memory.

    ``read`` reads token ids of shape ``(1, tokens)``; on a GPU the memory that this takes is measured.
    """
    most = default_tokens_per_batch(device)
    if device.type != "cuda":
        return most
    length = min(_MEMORY_PROBE_LENGTH, max_positions or _MEMORY_PROBE_LENGTH)
    try:
        free, taken = _memory_of_pass(device, length, read)
    except torch.OutOfMemoryError:
        return _LEAST_TOKENS
    return max(_LEAST_TOKENS, min(most, int(_SHARE_OF_FREE_MEMORY * free * length / max(1, taken))))


@torch.no_grad()
def _memory_of_pass(device: torch.device, length: int, read: Callable[[torch.Tensor], object]) -> tuple[int, int]:
    """Free bytes of a GPU, and the most bytes that a row of some length takes while it is read."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    free, _ = torch.cuda.mem_get_info(device)
    read(torch.zeros((1, length), dtype=torch.int64))
    return free, torch.cuda.max_memory_allocated(device) - before
