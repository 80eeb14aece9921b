"""Rows in one sequence, in which tokens that several rows begin with stand once. Only attention tells rows apart."""

import contextvars
import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from types import MethodType
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AttentionInterface, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from ...reading.rows import common_length, in_order
from .batches import Ids, cheapest_cut, to_device
from .conversations import Branch, Branches, Start, branch, branches, taken

_ATTENTION = "rsr_datasets_packed"
# Arguments of attention functions that do not change the result.
_NO_EFFECT = {"position_ids", "use_cache", "output_attentions", "output_hidden_states", "return_dict"}
# On a GPU some of torch's kernels take fewer keys than queries have heads, up to this size and without a mask.
_MOST_GROUPED = 256
# torch's kernel for CPUs computes masked scores too, and is as fast for this many queries as for more.
_QUERIES_A_CALL = 128
# torch's kernel skips no masked scores within 512 keys: float32 rows of these lengths are faster in blocks of queries.
_LENGTHS_IN_BLOCKS = range(192, 769)
# A layer has some 12 x (hidden size)^2 weights, and attention under a mask runs at half the rate of large products:
# n queries of m keys cost as much as the weights cost for n x m / (6 x hidden size) tokens.
_MASK_COST = 6


class Call(NamedTuple):
    """Attention of ``queries`` to the first ``visible`` keys of their block.

    Without a mask (broadcastable to ``(1, 1, queries, visible)``, boolean or to be added) it is causal.
    """

    queries: slice
    visible: int
    mask: torch.Tensor | None = None


class Block(NamedTuple):
    """Calls of attention to the same keys, which are tokens of the sequence."""

    keys: slice | torch.Tensor
    calls: list[Call]

    def attend(
        self, found: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> None:
        """See :meth:`.conversations.Branch.attend`."""
        keys, values = (taken(each, self.keys) for each in (key, value))
        for call in self.calls:
            given = (query[:, :, call.queries], keys[:, :, : call.visible], values[:, :, : call.visible])
            found[:, call.queries] = _computed(*given, call.mask, scaling)


class Pack:
    """Rows in one sequence; above 1, ``least_shared``, the least part of a row to share, shares nothing.

    ``hidden_size`` is for few large calls of attention, as suits a GPU: rows share where that saves more than the
    calls cost. ``None`` gives each row calls of its own, as suits a CPU. Turns ``of_conversations`` share all they
    can, and none is read under a mask. Ids and positions have the shape ``(1, tokens)``; ``paths`` holds the places of
    each row's tokens; ``attended`` counts the layers that computed attention so.
    """

    def __init__(
        self,
        rows: Sequence[Ids],
        least_shared: float,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        hidden_size: int | None = None,
        of_conversations: bool = False,
    ) -> None:
        self._device = device
        self._dtype = dtype
        self._longest = max(row.size for row in rows)
        self.paths: list[Ids] = [np.empty(0, dtype=np.int64)] * len(rows)
        self.blocks: list[Block | Branch | Branches] = []
        self.attended = 0
        ids, positions, size = [], [], 0
        turns: list[Start] = []
        for run in sharing_runs(rows, least_shared, None if of_conversations else hidden_size):
            starts: list[Start] = []
            for row, neighbour in _longest_first(rows, run):
                shared = 0 if neighbour is None else common_length(rows[neighbour], rows[row])
                own = np.arange(size, size + rows[row].size - shared)
                self.paths[row] = own if neighbour is None else np.concatenate([self.paths[neighbour][:shared], own])
                ids.append(rows[row][shared:])
                positions.append(np.arange(shared, rows[row].size))
                if own.size:  # a row that another row begins with has no tokens of its own
                    starts.append((row, shared, size))
                size += own.size
            if of_conversations and hidden_size is not None:
                turns += starts
            elif hidden_size is None:
                self.blocks += [self._row_block(*start, of_conversations) for start in starts]
            else:
                self.blocks.append(self._run_block(starts, size))
        self.blocks += branches(self.paths, turns, size, device)
        self.input_ids = to_device(torch.from_numpy(np.concatenate(ids))[None], device)
        self.position_ids = to_device(torch.from_numpy(np.concatenate(positions))[None], device)

    def _row_block(self, row: int, shared: int, start: int, of_conversation: bool) -> Block | Branch:
        """Calls for the tokens that a row does not share."""
        path = self.paths[row]
        if shared and of_conversation:
            return branch(path, shared, start, self._device)
        whole = slice(start, start + path.size)
        if not shared and not (self._dtype == torch.float32 and path.size in _LENGTHS_IN_BLOCKS):
            return Block(whole, [Call(whole, path.size)])
        calls = []
        for first in range(shared, path.size, _QUERIES_A_CALL):
            end = min(first + _QUERIES_A_CALL, path.size)
            mask = self._mask[first - end :, self._mask.shape[1] - end :]
            calls.append(Call(slice(start + first - shared, start + end - shared), end, mask))
        return Block(to_device(torch.from_numpy(path), self._device) if shared else whole, calls)

    @functools.cached_property
    def _mask(self) -> torch.Tensor:
        """The mask from which each call cuts its own: the last keys are the queries, all keys before them are seen."""
        hidden = torch.ones((_QUERIES_A_CALL, _QUERIES_A_CALL), dtype=torch.bool).triu(1)
        mask = torch.zeros((_QUERIES_A_CALL, _QUERIES_A_CALL + self._longest), dtype=self._dtype)
        mask[:, -_QUERIES_A_CALL:].masked_fill_(hidden, -torch.inf)
        return to_device(mask, self._device)

    def _run_block(self, starts: Sequence[Start], end: int) -> Block:
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
    """Divides rows, by number and in the order of their ids, into runs that share first tokens; see :class:`Pack`."""
    runs: list[list[int]] = []
    tokens = longest = previous = 0
    for row in in_order(rows):
        size = rows[row].size
        shared = common_length(rows[previous], rows[row]) if runs else 0
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
    rows: Sequence[Ids],
    tokens_per_batch: int,
    least_shared: float,
    hidden_size: int | None = None,
    of_conversations: bool = False,
) -> list[list[int]]:
    """Divides rows (by their numbers) into the sequences that cost least, that with the longest row first.

    The tokens that a batch's first two rows share do not count; a row beyond the budget has a batch of its own. Turns
    ``of_conversations`` may be twice as many tokens as the longest turn: of these at most half are read again.
    """
    order: list[int] = []
    shares: list[int] = []
    least_budgets: list[int] = []
    for run in sharing_runs(rows, least_shared, None if of_conversations else hidden_size):
        order += run
        shares += [0] + [common_length(rows[a], rows[b]) for a, b in itertools.pairwise(run)]
        least_budgets += [2 * max(rows[row].size for row in run) * of_conversations] * len(run)
    sizes = np.array([rows[row].size for row in order], dtype=np.int64)
    read = np.cumsum(sizes - shares)

    def tokens_from(begin: int) -> Ids:
        tokens = read[begin:] - read[begin] + sizes[begin]
        most = tokens_per_batch + (shares[begin + 1] if begin + 1 < len(order) else 0)
        most = max(most, least_budgets[begin])
        return tokens[: max(1, int(np.searchsorted(tokens, most, side="right")))]

    batches = [order[cut] for cut in cheapest_cut(len(order), tokens_from, tokens_per_batch)]
    return sorted(batches, key=lambda batch: -max(rows[row].size for row in batch))


def _longest_first(rows: Sequence[Ids], run: Sequence[int]) -> Iterator[tuple[int, int | None]]:
    """A run from its longest row on, up and then down, each row with the row beside it that came before."""
    longest = max(range(len(run)), key=lambda i: rows[run[i]].size)
    yield run[longest], None
    for i in range(longest + 1, len(run)):
        yield run[i], run[i - 1]
    for i in range(longest - 1, -1, -1):
        yield run[i], run[i + 1]


_PACK: contextvars.ContextVar[Pack | None] = contextvars.ContextVar("pack", default=None)
"""The pack that is read; ``None`` where a packed decoder reads rows side by side."""


def read_pack(decoder: torch.nn.Module, pack: Pack) -> torch.Tensor:
    """Hidden states of a pack's tokens, shape ``(tokens, hidden size)``, by a packed decoder."""
    token = _PACK.set(pack)
    try:
        output = decoder(input_ids=pack.input_ids, position_ids=pack.position_ids, use_cache=False)
    finally:
        _PACK.reset(token)
    return output.last_hidden_state[0]


def _attend(
    _: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of each row, ``(rows, heads, tokens, head size)`` to ``(rows, tokens, heads, head size)``."""
    others = {name for name, asked in kwargs.items() if asked is not None and name not in _NO_EFFECT}
    if others or attention_mask is not None or dropout:
        raise ValueError(f"attention is not merely causal: {sorted(others)}")
    blocks: list[Block | Branch | Branches] = [Block(slice(None), [Call(slice(None), query.shape[2])])]
    if (pack := _PACK.get()) is not None:
        pack.attended += 1
        blocks = pack.blocks
    found = query.new_empty((query.shape[0], query.shape[2], query.shape[1], value.shape[3]))
    for block in blocks:
        block.attend(found, query, key, value, scaling)
    return found, None


def _computed(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    mask = None if mask is None else mask.to(query.device)
    groups = query.shape[1] // key.shape[1]
    takes_groups = query.device.type == "cpu" or (mask is None and key.shape[-1] == value.shape[-1] <= _MOST_GROUPED)
    if groups > 1 and not takes_groups:
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    grouped = key.shape[1] != query.shape[1]
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
    ).transpose(1, 2)


AttentionInterface.register(_ATTENTION, _attend)


def copied(module: torch.nn.Module, change: Callable[[str, torch.nn.Module], torch.nn.Module]) -> torch.nn.Module:
    """A copy of a module that shares its weights; ``change`` replaces each copied inner module, given its name."""
    new = copy.copy(module)
    for name in ("_old_forward", "forward"):  # accelerate's hooks, which move layers among devices
        method: Any = module.__dict__.get(name)
        if isinstance(method, functools.partial):
            arguments = (new if argument is module else argument for argument in method.args)
            new.__dict__[name] = functools.partial(method.func, *arguments, **method.keywords)
        elif getattr(method, "__self__", None) is module:
            new.__dict__[name] = MethodType(method.__func__, new)
    new.__dict__["_modules"] = {
        name: None if child is None else change(name, copied(child, change)) for name, child in module._modules.items()
    }
    return new


def packed_decoder(decoder: torch.nn.Module) -> torch.nn.Module:
    """A copy that reads rows in one sequence or side by side; ``ValueError`` unless its attention is plain SDPA."""
    config: PreTrainedConfig = decoder.config
    if config._attn_implementation != "sdpa":
        raise ValueError(f"its attention is {config._attn_implementation}")
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers):
        raise ValueError(f"{type(decoder).__name__} does not keep the keys and values of all tokens")
    configs: dict[int, PreTrainedConfig] = {}

    def attending(_: str, module: torch.nn.Module) -> torch.nn.Module:
        own = module.__dict__.get("config")
        if isinstance(own, PreTrainedConfig):
            if id(own) not in configs:
                configs[id(own)] = copy.deepcopy(own)
                configs[id(own)]._attn_implementation = _ATTENTION
            module.__dict__["config"] = configs[id(own)]
        return module

    return attending("", copied(decoder, attending))
