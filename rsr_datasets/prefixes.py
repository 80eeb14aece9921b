"""Prompts that several rows share, the candidates of one problem say, read by the student once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.utils import ModelOutput

from .batching import BatchAccount, pad_right, plan_batches
from .conversation import EncodedRow

# Shorter prompts are not worth a pass of their own, and beside a longer response the mask grows large.
_SHORTEST_PREFIX = 16
_LONGEST_SUFFIX = 4096
_LEAST_SAVING = 0.05
# A layer has some 12 x (hidden size)^2 weights. Attention under a mask also computes what the mask hides, at half the
# rate of the large products: for a response of n tokens as much again as the weights cost for n^2 / (6 x hidden size).
_MASK_COST = 6


@dataclass(frozen=True)
class Window:
    """Rows whose prompts are read together, each prompt once.

    Attributes:
        prefixes: The prompts' token ids, each of shape ``(tokens,)``.
        rows: Numbers of the rows.
        groups: For each of them the number of its prompt among ``prefixes``.
    """

    prefixes: list[npt.NDArray[np.int64]]
    rows: list[int]
    groups: list[int]


@dataclass(frozen=True)
class Branches:
    """One text that is tried as the continuation of a row from several places.

    Attributes:
        ids: Token ids of the row, int64.
        ends: Tokens of the row before each of the places, ascending, at least 1.
        continuation: Token ids of what follows there.
        scored: How many of its last tokens are scored.
    """

    ids: npt.NDArray[np.int64]
    ends: Sequence[int]
    continuation: npt.NDArray[np.int64]
    scored: int

    def rows(self) -> list[EncodedRow]:
        """Each branch as a row of its own."""
        own = np.arange(self.continuation.size - self.scored, self.continuation.size)
        return [EncodedRow(np.concatenate([self.ids[:end], self.continuation]), own + end) for end in self.ends]


def prefix_length(row: EncodedRow) -> int:
    """Tokens of a row before the one from which its first scored token is predicted."""
    return int(row.positions[0]) - 1


def plan_windows(
    rows: Sequence[EncodedRow], tokens_per_window: int, hidden_size: int
) -> tuple[list[Window], list[int]]:
    """Finds the rows for which reading a shared prompt once saves work.

    The plan depends on the rows, the limit and the model alone.

    Args:
        rows: Encoded rows.
        tokens_per_window: Most tokens of prompts, padded to the longest, whose keys and values are held at once.
        hidden_size: Of the student.

    Returns:
        Windows of rows that share prompts, and the numbers of the rows that share none.
    """
    groups: dict[bytes, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row.input_ids[: prefix_length(row)].tobytes(), []).append(i)
    shared = [members for members in groups.values() if _pays([rows[i] for i in members], hidden_size)]
    shared.sort(key=lambda members: -prefix_length(rows[members[0]]))
    windows: list[Window] = []
    widest = 0
    for members in shared:
        prefix = rows[members[0]].input_ids[: prefix_length(rows[members[0]])]
        if not windows or widest * (len(windows[-1].prefixes) + 1) > tokens_per_window:
            windows.append(Window([], [], []))
            widest = prefix.size
        window = windows[-1]
        window.rows.extend(members)
        window.groups.extend([len(window.prefixes)] * len(members))
        window.prefixes.append(prefix)
    sharing = {i for window in windows for i in window.rows}
    return windows, [i for i in range(len(rows)) if i not in sharing]


def _pays(rows: Sequence[EncodedRow], hidden_size: int) -> bool:
    prefix = prefix_length(rows[0])
    suffixes = np.array([row.input_ids.size - prefix for row in rows], dtype=np.float64)
    saved = prefix * (len(rows) - 1) - float((suffixes**2).sum()) / (_MASK_COST * hidden_size)
    whole = prefix * len(rows) + float(suffixes.sum())
    return prefix >= _SHORTEST_PREFIX and suffixes.max() <= _LONGEST_SUFFIX and saved >= _LEAST_SAVING * whole


def _common_length(prompts: Sequence[npt.NDArray[np.int64]]) -> int:
    """How many tokens all prompts begin with, a system prompt say; each has at least one more."""
    first, longest = prompts[0], min(prompt.size for prompt in prompts) - 1
    same = np.all([prompt[:longest] == first[:longest] for prompt in prompts], axis=0)
    return int(longest if same.all() else np.argmin(same))


class PrefixCache:
    """Keys and values of a window's prompts.

    Args:
        decoder: The student's decoder.
        prefixes: Token ids of the prompts.
        device: Where the token ids go.
        tokens_per_batch: Padded tokens in one forward pass.

    Attributes:
        batches: What the forward passes cost.

    Raises:
        ValueError: If the decoder keeps something else than the keys and values of all tokens.
    """

    def __init__(
        self,
        decoder: torch.nn.Module,
        prefixes: Sequence[npt.NDArray[np.int64]],
        device: torch.device,
        tokens_per_batch: int,
    ) -> None:
        self._decoder = decoder
        self._device = device
        self._lengths = torch.tensor([prefix.size for prefix in prefixes], device=device)
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.batches: list[BatchAccount] = []
        longest = max(prefix.size for prefix in prefixes)
        common = _common_length(prefixes)
        if common < _SHORTEST_PREFIX or len(prefixes) == 1:
            common = 0
        else:
            beginning: ModelOutput = decoder(input_ids=pad_right([prefixes[0][:common]]).to(device), use_cache=True)
            self._keep(beginning.past_key_values, list(range(len(prefixes))), longest)
            self.batches.append(BatchAccount(common, common, split=False))
        sizes = [prefix.size - common for prefix in prefixes]
        for batch in plan_batches(sizes, tokens_per_batch):
            input_ids = pad_right([prefixes[i][common:] for i in batch]).to(device)
            output: ModelOutput = decoder(input_ids=input_ids, **self._after(common, batch, input_ids.shape[1]))
            self._keep(output.past_key_values, batch, longest)
            self.batches.append(BatchAccount(sum(sizes[i] for i in batch), input_ids.numel(), split=False))

    def _after(self, common: int, batch: Sequence[int], length: int) -> dict[str, Any]:
        """What the decoder is told where the beginning of the prompts has been read."""
        if not common:
            return {"use_cache": True}
        cache = DynamicCache()
        for i, (keys, values) in enumerate(self._layers):
            cache.update(keys[batch, :, :common], values[batch, :, :common], i)
        positions = torch.arange(common, common + length, device=self._device).expand(len(batch), length)
        return {"use_cache": True, "past_key_values": cache, "position_ids": positions}

    def _keep(self, cache: Any, batch: Sequence[int], longest: int) -> None:
        """Puts the keys and values of some prompts beside those of the others."""
        if type(cache) is not DynamicCache or any(type(layer) is not DynamicLayer for layer in cache.layers):
            raise ValueError(f"{type(self._decoder).__name__} does not keep the keys and values of all tokens")
        found = [(layer.keys, layer.values) for layer in cache.layers]
        if not self._layers:  # zeros: what a mask hides is multiplied by zero, and must be a number

            def room(part: torch.Tensor) -> torch.Tensor:
                return part.new_zeros((self._lengths.numel(), part.shape[1], longest, part.shape[3]))

            self._layers = [(room(keys), room(values)) for keys, values in found]
        for kept, new in zip(self._layers, found, strict=True):
            for room_for_all, part in zip(kept, new, strict=True):
                room_for_all[batch, :, : part.shape[2]] = part

    def hidden(self, groups: Sequence[int], suffixes: Sequence[npt.NDArray[np.int64]]) -> torch.Tensor:
        """Hidden states of what follows the prompts.

        Args:
            groups: For each row the number of its prompt.
            suffixes: Token ids of each row after its prompt.

        Returns:
            Shape ``(rows, longest suffix, hidden size)``.
        """
        chosen = torch.tensor(groups, device=self._device)
        lengths = self._lengths[chosen]
        longest = int(lengths.max())
        input_ids = pad_right(suffixes).to(self._device)
        steps = torch.arange(input_ids.shape[1], device=self._device)
        # Between a shorter prompt and what follows it lies padding, which the mask hides and the positions skip.
        is_prompt = torch.arange(longest, device=self._device) < lengths[:, None]
        mask = torch.cat([is_prompt, is_prompt.new_ones(input_ids.shape)], dim=1)
        cache = DynamicCache()
        for i, (keys, values) in enumerate(self._layers):
            here = chosen.to(keys.device)
            cache.update(keys[here, :, :longest], values[here, :, :longest], i)
        output = self._decoder(
            input_ids=input_ids,
            attention_mask=mask.long(),
            position_ids=lengths[:, None] + steps,
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state

    def hidden_of_branches(self, branches: Branches) -> torch.Tensor:
        """Hidden states of branches of the first prompt, read side by side in one row.

        Each sees the prompt up to its place and, of the row, itself alone.

        Args:
            branches: The branches; the prompt holds their row up to the last place, without the token before it.

        Returns:
            Shape ``(branches, tokens of the continuation, hidden size)``, from which those tokens are predicted.
        """
        size = branches.continuation.size
        starts = torch.tensor(branches.ends, device=self._device) - 1
        own = [np.append(branches.ids[end - 1], branches.continuation[:-1]) for end in branches.ends]
        steps = torch.arange(size, device=self._device)
        place, step = torch.arange(len(own), device=self._device).repeat_interleave(size), steps.repeat(len(own))
        prompt = torch.arange(int(self._lengths[0]), device=self._device) < starts[place, None]
        visible = torch.cat([prompt, (place == place[:, None]) & (step <= step[:, None])], dim=1)
        keys = self._layers[0][0]
        mask = torch.zeros(visible.shape, dtype=keys.dtype, device=self._device)
        mask.masked_fill_(~visible, torch.finfo(keys.dtype).min)
        cache = DynamicCache()
        for i, (keys, values) in enumerate(self._layers):
            cache.update(keys[:1], values[:1], i)
        output = self._decoder(
            input_ids=torch.from_numpy(np.concatenate(own))[None].to(self._device),
            attention_mask=mask[None, None],
            position_ids=(starts[:, None] + steps).flatten()[None],
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state[0].unflatten(0, (len(own), size))
