"""Rows in one sequence, in which the tokens that several rows begin with stand once.

The layers of a decoder read one sequence of tokens without padding; only attention tells the rows apart. Candidates of
one problem share its prompt, and often all rows share a system prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from .batches import cheapest_cut, to_device
from .packed_attention import Block, Call, Layout, laid_out

Ids = npt.NDArray[np.int64]

# torch's kernel for CPUs computes masked scores too, and is as fast for this many queries as for more.
_QUERIES_A_CALL = 128
# torch's kernel skips no masked scores within 512 keys: float32 rows of these lengths are faster in blocks of queries.
_LENGTHS_IN_BLOCKS = range(192, 769)
# A layer has some 12 x (hidden size)^2 weights, and attention under a mask runs at half the rate of large products:
# n queries of m keys cost as much as the weights cost for n x m / (6 x hidden size) tokens.
_MASK_COST = 6


class Pack:
    """Rows in one sequence.

    Args:
        rows: Token ids of each row, of shape ``(length,)``.
        least_shared: Least part of a row that must be shared with another row; above 1 no tokens are shared.
        device: Where the sequence goes.
        dtype: The student's dtype.
        hidden_size: The student's hidden size, for few large calls of attention, as suits a GPU: rows share where that
            saves more than the calls cost. ``None`` gives each row calls of its own.

    Attributes:
        input_ids: Shape ``(1, tokens)``.
        position_ids: Shape ``(1, tokens)``.
        paths: For each row the places of its tokens in the sequence, shape ``(length,)``.
        layout: How attention is computed.
    """

    def __init__(
        self,
        rows: Sequence[Ids],
        least_shared: float,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        hidden_size: int | None = None,
    ) -> None:
        self._device = device
        self._dtype = dtype
        self._longest = max(row.size for row in rows)
        self.paths: list[Ids] = [np.empty(0, dtype=np.int64)] * len(rows)
        self.layout = Layout()
        ids, positions, size = [], [], 0
        for run in sharing_runs(rows, least_shared, hidden_size):
            starts = []
            for row, neighbour in _longest_first(rows, run):
                shared = 0 if neighbour is None else _common_length(rows[neighbour], rows[row])
                own = np.arange(size, size + rows[row].size - shared)
                self.paths[row] = own if neighbour is None else np.concatenate([self.paths[neighbour][:shared], own])
                ids.append(rows[row][shared:])
                positions.append(np.arange(shared, rows[row].size))
                if own.size:  # a row that another row begins with has no tokens of its own
                    starts.append((row, shared, size))
                size += own.size
            if hidden_size is None:
                self.layout.blocks += [self._row_block(*start) for start in starts]
            else:
                self.layout.blocks.append(self._run_block(starts, size))
        self.input_ids = to_device(torch.from_numpy(np.concatenate(ids))[None], device)
        self.position_ids = to_device(torch.from_numpy(np.concatenate(positions))[None], device)

    def _row_block(self, row: int, shared: int, start: int) -> Block:
        """Calls for the tokens that a row does not share."""
        path = self.paths[row]
        whole = slice(start, start + path.size)
        in_blocks = self._dtype == torch.float32 and path.size in _LENGTHS_IN_BLOCKS
        if not shared and not in_blocks:
            return Block(whole, [Call(whole, path.size)])
        calls = []
        for first in range(shared, path.size, _QUERIES_A_CALL):
            end = min(first + _QUERIES_A_CALL, path.size)
            queries = slice(start + first - shared, start + end - shared)
            calls.append(Call(queries, end, self._last_are_causal(end - first, end)))
        return Block(to_device(torch.from_numpy(path), self._device) if shared else whole, calls)

    def _last_are_causal(self, queries: int, keys: int) -> torch.Tensor:
        """The mask of queries that are the last of the keys, cut out of the one for all rows."""
        return self._mask[-queries:, self._mask.shape[1] - keys :]

    @cached_property
    def _mask(self) -> torch.Tensor:
        """The last keys are the queries themselves; all keys before them are seen."""
        hidden = torch.ones((_QUERIES_A_CALL, _QUERIES_A_CALL), dtype=torch.bool).triu(1)
        mask = torch.zeros((_QUERIES_A_CALL, _QUERIES_A_CALL + self._longest), dtype=self._dtype)
        mask[:, -_QUERIES_A_CALL:].masked_fill_(hidden, -torch.inf)
        return to_device(mask, self._device)

    def _run_block(self, starts: Sequence[tuple[int, int, int]], end: int) -> Block:
        """One call for the first of some rows, and one for the tokens that the others do not share."""
        first, _, begin = starts[0]
        rest = begin + self.paths[first].size
        calls = [Call(slice(begin, rest), rest - begin)]
        if rest < end:
            mask = torch.zeros((end - rest, end - begin), dtype=torch.bool, device=self._device)
            for row, shared, start in starts[1:]:
                path = to_device(torch.from_numpy(self.paths[row] - begin), self._device)
                steps = torch.arange(path.numel(), device=self._device)
                queries = slice(start - rest, start - rest + path.numel() - shared)
                mask[queries, path] = steps <= steps[shared:, None]
            calls.append(Call(slice(rest, end), end - begin, mask))
        return Block(slice(begin, end), calls)


def sharing_runs(rows: Sequence[Ids], least_shared: float, hidden_size: int | None = None) -> list[list[int]]:
    """Divides rows into runs that share their first tokens; the arguments are those of :class:`Pack`.

    Returns:
        Numbers of rows, run by run, in an order in which each row shares most with the row before it.
    """
    runs: list[list[int]] = []
    tokens = longest = previous = 0
    for row in _sorted(rows):
        size = rows[row].size
        shared = _common_length(rows[previous], rows[row]) if runs else 0
        saved = float(shared)
        if hidden_size is not None:
            together = max(longest, size)
            masked = (tokens + size - shared - together) * (tokens + size - shared) - (tokens - longest) * tokens
            saved -= masked / (_MASK_COST * hidden_size)
        if runs and shared and saved >= least_shared * size:
            runs[-1].append(row)
            tokens, longest = tokens + size - shared, max(longest, size)
        else:
            runs.append([row])
            tokens = longest = size
        previous = row
    return runs


def plan_packs(
    rows: Sequence[Ids], tokens_per_batch: int, least_shared: float, hidden_size: int | None = None
) -> list[list[int]]:
    """Divides rows into batches that are read as one sequence each, where that costs least.

    Rows that begin alike stand together. Tokens that rows of two batches share are read twice. A batch costs as much
    as in :func:`.batches.plan_batches`. It holds at most ``tokens_per_batch`` tokens beside those that its first two
    rows share; a longer row has a batch of its own.

    Returns:
        Numbers of rows, batch by batch, the batch of the longest row first.
    """
    order: list[int] = []
    shares: list[int] = []
    for run in sharing_runs(rows, least_shared, hidden_size):
        order += run
        shares += [0] + [_common_length(rows[a], rows[b]) for a, b in itertools.pairwise(run)]
    sizes = np.array([rows[row].size for row in order], dtype=np.int64)
    read = np.cumsum(sizes - shares)

    def tokens_from(begin: int) -> npt.NDArray[np.int64]:
        tokens = read[begin:] - read[begin] + sizes[begin]
        most = tokens_per_batch + (shares[begin + 1] if begin + 1 < len(order) else 0)
        return tokens[: max(1, int(np.searchsorted(tokens, most, side="right")))]

    batches = [order[cut] for cut in cheapest_cut(len(order), tokens_from, tokens_per_batch)]
    return sorted(batches, key=lambda batch: -max(rows[row].size for row in batch))


def _sorted(rows: Sequence[Ids]) -> list[int]:
    """Numbers of rows in the order of their token ids: each stands beside the row with which it shares most."""
    return sorted(range(len(rows)), key=lambda row: rows[row].astype(">i8").tobytes())


def _longest_first(rows: Sequence[Ids], run: Sequence[int]) -> Iterator[tuple[int, int | None]]:
    """A run from its longest row on, up and then down, each row with the row beside it that came before."""
    longest = max(range(len(run)), key=lambda i: rows[run[i]].size)
    yield run[longest], None
    for i in range(longest + 1, len(run)):
        yield run[i], run[i - 1]
    for i in range(longest - 1, -1, -1):
        yield run[i], run[i + 1]


def _common_length(first: Ids, second: Ids) -> int:
    """How many first tokens two rows share."""
    shorter = min(first.size, second.size)
    same = first[:shorter] == second[:shorter]
    return shorter if same.all() else int(np.argmin(same))


def read_pack(decoder: torch.nn.Module, pack: Pack) -> torch.Tensor:
    """Hidden states of a pack's tokens, shape ``(tokens, hidden size)``, by a packed decoder."""
    with laid_out(pack.layout):
        output = decoder(input_ids=pack.input_ids, position_ids=pack.position_ids, use_cache=False)
    return output.last_hidden_state[0]
