"""Attention of turns that share long beginnings: a turn's last tokens attend to what came before them, unmasked."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from .batches import Ids, to_device

try:
    from torch.nn.attention import varlen
except ImportError:  # before torch 2.10
    varlen = None  # type: ignore[assignment]

# The kernel takes fewer keys than queries have heads. Later versions of torch want to be told.
_IS_TOLD = varlen is not None and "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters
_GROUPED: dict[str, Any] = {"enable_gqa": True} if _IS_TOLD else {}

Start = tuple[int, int, int]
"""Number of a row, how many of its tokens stand elsewhere in the sequence, and where its other tokens begin."""


class Branch(NamedTuple):
    """Two calls for a CPU: of a row's last tokens to the tokens ``before``, and to themselves; then merged."""

    queries: slice
    before: slice | torch.Tensor

    def attend(
        self,
        found: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float | None,
    ) -> None:
        """Writes into ``found``; shapes as in :func:`.packing.read_pack`'s attention."""
        own = [each[:, :, self.queries] for each in (query, key, value)]
        before = [taken(each, self.before) for each in (key, value)]
        # torch's kernel for CPUs also gives the logarithm of what it divided by.
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        first, log_first = kernel(own[0], *before, scale=scaling)
        second, log_second = kernel(*own, is_causal=True, scale=scaling)
        share = torch.sigmoid(log_first - log_second)[..., None].to(second.dtype)
        found[:, self.queries] = torch.lerp(second, first, share).transpose(1, 2)


class Branches(NamedTuple):
    """One call of a GPU's kernel for the last tokens of several rows, which attend causally to their own row each.

    ``keys`` are the places of the rows' tokens, row after row. Bounds of the rows have the shape ``(rows + 1,)``.
    """

    queries: slice
    keys: torch.Tensor
    query_bounds: torch.Tensor
    key_bounds: torch.Tensor
    most_queries: int
    most_keys: int

    def attend(
        self,
        found: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float | None,
    ) -> None:
        """See :meth:`Branch.attend`."""
        parts = (query[:, :, self.queries], taken(key, self.keys), taken(value, self.keys))
        bounds = (each.to(query.device) for each in (self.query_bounds, self.key_bounds))
        given: list[Any] = [part[0].transpose(0, 1) for part in parts]
        given += [*bounds, self.most_queries, self.most_keys]
        # Where a row has more keys than queries, the kernel's causal mask ends with the last of both.
        output: Any = varlen.varlen_attn(*given, scale=scaling, window_size=(-1, 0), **_GROUPED)
        found[0, self.queries] = output


def branch(path: Ids, shared: int, start: int, device: torch.device | None) -> Branch:
    """The calls for a row whose tokens stand at the places ``path``, and of which another row has ``shared``."""
    before = path[:shared]
    queries = slice(start, start + path.size - shared)
    if before[-1] - before[0] == shared - 1:
        return Branch(queries, slice(int(before[0]), int(before[-1]) + 1))
    return Branch(queries, to_device(torch.from_numpy(before), device))


def branches(
    paths: Sequence[Ids], starts: Sequence[Start], tokens: int, device: torch.device | None
) -> Iterator[Branches]:
    """Calls with at most as many keys as the sequence has ``tokens``: so much memory the copies of keys take."""
    groups: list[list[Start]] = []
    left = 0
    for row, shared, start in starts:
        if (keys := paths[row].size) > left:
            groups.append([])
            left = tokens
        groups[-1].append((row, shared, start))
        left -= keys
    for group in groups:
        some = [paths[row] for row, _, _ in group]
        sizes = [(path.size - shared, path.size) for path, (_, shared, _) in zip(some, group, strict=True)]
        bounds = np.cumsum([(0, 0), *sizes], axis=0, dtype=np.int32)
        longest: list[int] = np.max(sizes, axis=0).tolist()
        numbers = (np.concatenate(some), bounds[:, 0].copy(), bounds[:, 1].copy())
        places = [to_device(torch.from_numpy(each), device) for each in numbers]
        queries = slice(group[0][2], group[0][2] + int(bounds[-1, 0]))
        yield Branches(queries, places[0], places[1], places[2], longest[0], longest[1])


def taken(part: torch.Tensor, places: slice | torch.Tensor) -> torch.Tensor:
    """Keys or values of some tokens. They lie token by token in memory, and are copied so."""
    if isinstance(places, slice):
        return part[:, :, places]
    return part.transpose(1, 2).index_select(1, places.to(part.device)).transpose(1, 2)
