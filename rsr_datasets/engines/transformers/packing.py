"""Rows that the student reads in one sequence, where what several of them begin with stands only once.

The layers of a decoder see one sequence of tokens without padding; only attention tells its rows apart. Candidates of
one problem share its prompt, and often all rows a system prompt.
"""

from __future__ import annotations

import contextvars
import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import library
from transformers import AttentionInterface, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ...reading.rows import EncodedRow
from .batches import cheapest_cut, to_device
from .decoders import copied
from .speedups.products import float32_product, onednn_is_faster

Ids = npt.NDArray[np.int64]

_ATTENTION = "rsr_datasets_packed"
# torch's kernel for CPUs computes what a mask hides too, and is as fast for this many queries as for more.
_QUERIES_A_CALL = 128
# It skips nothing of a causal mask within 512 keys: float32 rows of these lengths took 7 to 28% less time in blocks of
# queries, longer ones more, and those of half precision no less.
_LENGTHS_IN_BLOCKS = range(192, 769)
# On AMD's processors torch's kernel is no faster in bfloat16 than in float32: attention put together from oneDNN's
# products takes 0.5 to 0.9 of its time, from so many keys on and where heads share these.
_LEAST_KEYS_BY_PRODUCTS = 320
# Scores that one product gives, 4 MiB of float32: heads are taken together where these are fewer.
_MOST_SCORES = 1 << 20
# A layer has some 12 x (hidden size)^2 weights, and attention under a mask runs at half the rate of large products:
# for n queries of m keys it costs as much as the weights cost for n x m / (6 x hidden size) tokens.
_MASK_COST = 6
_MOST_GROUPED = 256
# What attention functions are given besides, and what does not concern them.
_OF_NO_CONCERN = {"position_ids", "use_cache", "output_attentions", "output_hidden_states", "return_dict"}


@dataclass(frozen=True)
class Branches:
    """One text that is tried as the continuation of a row from several places.

    Attributes:
        ids: Token ids of the row, int64.
        ends: Tokens of the row before each of the places, ascending, at least 1.
        continuation: Token ids of what follows there.
        scored: How many of its last tokens are scored.
    """

    ids: Ids
    ends: Sequence[int]
    continuation: Ids
    scored: int

    def rows(self) -> list[EncodedRow]:
        """Each branch as a row of its own."""
        own = np.arange(self.continuation.size - self.scored, self.continuation.size)
        return [EncodedRow(np.concatenate([self.ids[:end], self.continuation]), own + end) for end in self.ends]


@dataclass(frozen=True)
class _Call:
    """One call of attention.

    Attributes:
        queries: The tokens of the sequence that ask.
        visible: How many of their block's keys they are given.
        mask: Which of these each of them sees, broadcastable to ``(1, 1, queries, visible)``, boolean or to be added;
            without one they are the queries themselves, and each sees those before it and itself.
        by_products: Whether attention is put together from products here, instead of torch's kernel. The queries are
            the last of the keys then, and the mask is to be added.
    """

    queries: slice
    visible: int
    mask: torch.Tensor | None = None
    by_products: bool = False


@dataclass(frozen=True)
class _Block:
    """Calls of attention to the same keys, which are tokens of the sequence."""

    keys: slice | torch.Tensor
    calls: list[_Call]


class Pack:
    """Rows in one sequence.

    Args:
        rows: Token ids of each row, of shape ``(length,)``.
        least_shared: Part of a row from which on it shares what it begins with; above 1 none is shared.
        device: Where the sequence goes.
        dtype: Of the student.
        hidden_size: Of the student where rows that share are to be read in few large calls of attention, as suits a
            GPU, and sharing is to pay for these; without it each row has calls of its own.
        by_products: What :func:`attends_by_products` says.

    Attributes:
        input_ids: Shape ``(1, tokens)``.
        position_ids: Shape ``(1, tokens)``.
        paths: For each row the places of its tokens in the sequence, shape ``(length,)``.
        blocks: How attention is computed.
        attended: How many layers have read it.
    """

    def __init__(
        self,
        rows: Sequence[Ids],
        least_shared: float,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        hidden_size: int | None = None,
        by_products: bool = False,
    ) -> None:
        self._device = device
        self._dtype = dtype
        self._by_products = by_products
        self._longest = max(row.size for row in rows)
        self.paths: list[Ids] = [np.empty(0, dtype=np.int64)] * len(rows)
        self.blocks: list[_Block] = []
        self.attended = 0
        ids, positions, size = [], [], 0
        for run in sharing_runs(rows, least_shared, hidden_size):
            starts = []
            for row, neighbour in _longest_first(rows, run):
                shared = 0 if neighbour is None else _common_length(rows[neighbour], rows[row])
                own = np.arange(size, size + rows[row].size - shared)
                self.paths[row] = own if neighbour is None else np.concatenate([self.paths[neighbour][:shared], own])
                ids.append(rows[row][shared:])
                positions.append(np.arange(shared, rows[row].size))
                if own.size:  # none of a row that another begins with
                    starts.append((row, shared, size))
                size += own.size
            if hidden_size is None:
                self.blocks += [self._row_block(*start) for start in starts]
            else:
                self.blocks.append(self._run_block(starts, size))
        self.input_ids = to_device(torch.from_numpy(np.concatenate(ids))[None], device)
        self.position_ids = to_device(torch.from_numpy(np.concatenate(positions))[None], device)

    def _row_block(self, row: int, shared: int, start: int) -> _Block:
        """Calls for what a row does not share."""
        path = self.paths[row]
        whole = slice(start, start + path.size)
        in_blocks = (self._dtype == torch.float32 and path.size in _LENGTHS_IN_BLOCKS) or (
            self._by_products and path.size >= _LEAST_KEYS_BY_PRODUCTS
        )
        if not shared and not in_blocks:
            return _Block(whole, [_Call(whole, path.size)])
        calls = []
        for first in range(shared, path.size, _QUERIES_A_CALL):
            end = min(first + _QUERIES_A_CALL, path.size)
            queries = slice(start + first - shared, start + end - shared)
            by_products = self._by_products and end >= _LEAST_KEYS_BY_PRODUCTS
            calls.append(_Call(queries, end, self._last_are_causal(end - first, end), by_products))
        return _Block(to_device(torch.from_numpy(path), self._device) if shared else whole, calls)

    def _last_are_causal(self, queries: int, keys: int) -> torch.Tensor:
        """The mask of queries that are the last of the keys: a part of one that serves all."""
        return self._mask[-queries:, self._mask.shape[1] - keys :]

    @cached_property
    def _mask(self) -> torch.Tensor:
        """The last keys are the queries themselves; all before them are seen."""
        hidden = torch.ones((_QUERIES_A_CALL, _QUERIES_A_CALL), dtype=torch.bool).triu(1)
        mask = torch.zeros((_QUERIES_A_CALL, _QUERIES_A_CALL + self._longest), dtype=self._dtype)
        mask[:, -_QUERIES_A_CALL:].masked_fill_(hidden, -torch.inf)
        return to_device(mask, self._device)

    def _run_block(self, starts: Sequence[tuple[int, int, int]], end: int) -> _Block:
        """One call for the first of some rows, and one for what all others do not share."""
        first, _, begin = starts[0]
        rest = begin + self.paths[first].size
        calls = [_Call(slice(begin, rest), rest - begin)]
        if rest < end:
            mask = torch.zeros((end - rest, end - begin), dtype=torch.bool, device=self._device)
            for row, shared, start in starts[1:]:
                path = to_device(torch.from_numpy(self.paths[row] - begin), self._device)
                steps = torch.arange(path.numel(), device=self._device)
                queries = slice(start - rest, start - rest + path.numel() - shared)
                mask[queries, path] = steps <= steps[shared:, None]
            calls.append(_Call(slice(rest, end), end - begin, mask))
        return _Block(slice(begin, end), calls)


def sharing_runs(rows: Sequence[Ids], least_shared: float, hidden_size: int | None = None) -> list[list[int]]:
    """Divides rows into runs of those that share what they begin with.

    Args:
        rows: Token ids of each row.
        least_shared: Part of a row from which on it shares what it begins with.
        hidden_size: Of the student, where the tokens of a run are read under one mask, whose cost must be saved.

    Returns:
        Numbers of rows, run by run, in an order in which each shares most with the one before it.
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

    Rows that begin alike stand together; between two batches, what the rows on both sides share is read twice. A batch
    costs its tokens and a pass over the weights, like one of :func:`.batches.plan_batches`.

    Args:
        rows: Token ids of each row.
        tokens_per_batch: Most tokens in one batch, beside what its first two rows share; a longer row has its own.
        least_shared: Part of a row from which on it shares what it begins with.
        hidden_size: As :class:`Pack` will be given it.

    Returns:
        Numbers of rows, batch by batch, those of the longest rows first; each occurs once.

    Raises:
        ValueError: If ``tokens_per_batch`` is not positive.
    """
    if tokens_per_batch < 1:
        raise ValueError(f"tokens_per_batch={tokens_per_batch}: must be a positive number")
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
    """Numbers of rows in the order of their token ids: each stands beside the one with which it shares most."""
    return sorted(range(len(rows)), key=lambda row: rows[row].astype(">i8").tobytes())


def _longest_first(rows: Sequence[Ids], run: Sequence[int]) -> Iterator[tuple[int, int | None]]:
    """A run from its longest row on, up and then down, each row with the one beside it that came before."""
    longest = max(range(len(run)), key=lambda i: rows[run[i]].size)
    yield run[longest], None
    for i in range(longest + 1, len(run)):
        yield run[i], run[i - 1]
    for i in range(longest - 1, -1, -1):
        yield run[i], run[i + 1]


def _common_length(first: Ids, second: Ids) -> int:
    """How many tokens both begin with."""
    shorter = min(first.size, second.size)
    same = first[:shorter] == second[:shorter]
    return shorter if same.all() else int(np.argmin(same))


_PACK: contextvars.ContextVar[Pack] = contextvars.ContextVar("pack")


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
    """Attention among the tokens of each row: of the pack that is being read, or of a batch, side by side.

    Queries, keys and values have the shape ``(rows, heads, tokens, head size)``, one row for a pack, and the result
    ``(rows, tokens, heads, head size)``. A family that asks for more than causal attention to all tokens is refused
    with a ``ValueError``.
    """
    others = {name for name, asked in kwargs.items() if asked is not None and name not in _OF_NO_CONCERN}
    if others or attention_mask is not None or dropout:
        raise ValueError(f"attention is not merely causal: {sorted(others)}")
    return _among_rows(query, key, value, scaling), None


# One operation to the compiler, which so compiles a layer in one piece, whatever the rows are.
@library.custom_op("rsr_datasets::attention_among_rows", mutates_args=())
def _among_rows(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None) -> torch.Tensor:
    pack = _PACK.get(None)
    blocks = [_Block(slice(None), [_Call(slice(None), query.shape[2])])]
    if pack is not None:
        pack.attended += 1
        blocks = pack.blocks
    found = _empty_result(query, key, value, scaling)
    groups = query.shape[1] // key.shape[1]
    # On a GPU only some of torch's kernels take fewer keys than queries have heads, and none of them with a mask.
    takes_groups = query.device.type == "cpu" or key.shape[-1] == value.shape[-1] <= _MOST_GROUPED
    for block in blocks:
        keys, values = (_taken(each, block.keys) for each in (key, value))
        for call in block.calls:
            visible, contents = keys[:, :, : call.visible], values[:, :, : call.visible]
            mask = None if call.mask is None else call.mask.to(query.device)
            if call.by_products and mask is not None:
                found[:, call.queries] = _by_products(query[:, :, call.queries], visible, contents, mask, scaling)
                continue
            if groups > 1 and not (takes_groups and (mask is None or query.device.type == "cpu")):
                visible, contents = (each.repeat_interleave(groups, dim=1) for each in (visible, contents))
            attended = torch.nn.functional.scaled_dot_product_attention(
                query[:, :, call.queries],
                visible,
                contents,
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=visible.shape[1] != query.shape[1],
            )
            found[:, call.queries] = attended.transpose(1, 2)
    return found


@_among_rows.register_fake
def _empty_result(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None) -> torch.Tensor:
    return query.new_empty((query.shape[0], query.shape[2], query.shape[1], value.shape[3]))


def _by_products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Attention of a row's last tokens: like torch's, of scores in float32 and weights in the student's dtype."""
    count, size = query.shape[2:]
    scaling = size**-0.5 if scaling is None else scaling
    together = max(1, _MOST_SCORES // (count * key.shape[2]))
    keys = key[0].to(torch.float32, memory_format=torch.contiguous_format)
    found = []
    for asking, given, contents in zip(query[0].chunk(key.shape[1]), keys, value[0], strict=True):
        for heads in asking.split(together):
            scores = float32_product(heads.float() * scaling, given, None)
            scores[..., -count:] += mask[:, -count:]
            weights = scores.softmax(dim=-1).to(value.dtype)
            found.append(torch.nn.functional.linear(weights, contents.t()))
    return torch.cat(found).transpose(0, 1)[None]


def _taken(part: torch.Tensor, places: slice | torch.Tensor) -> torch.Tensor:
    """Some tokens of keys or values; these lie token by token in memory, and are copied so."""
    if isinstance(places, slice):
        return part[:, :, places]
    return part.transpose(1, 2).index_select(1, places.to(part.device)).transpose(1, 2)


AttentionInterface.register(_ATTENTION, _attend)


def attends_by_products(model: PreTrainedModel) -> bool:
    """Whether attention that is put together from matrix products is faster for a student than torch's kernel."""
    config = model.config.get_text_config()
    heads, shared = (getattr(config, f"num_{name}_heads", None) for name in ("attention", "key_value"))
    grouped = bool(heads and shared and heads > shared)
    return grouped and model.device.type == "cpu" and model.dtype == torch.bfloat16 and onednn_is_faster()


def packed_decoder(decoder: torch.nn.Module) -> torch.nn.Module:
    """A decoder that reads packs: its structure copied, its weights shared, its attention replaced.

    It reads rows side by side too, and knows without asking a GPU that they need no mask.

    Args:
        decoder: The student's decoder, which is left as it is.

    Raises:
        ValueError: If its attention is another than torch's own, or does not see all tokens.
    """
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


def read_pack(decoder: torch.nn.Module, pack: Pack) -> torch.Tensor:
    """Hidden states of a pack's tokens, shape ``(tokens, hidden size)``.

    Args:
        decoder: What :func:`packed_decoder` gave, or the same compiled.
        pack: Rows in one sequence.
    """
    token = _PACK.set(pack)
    try:
        output = decoder(input_ids=pack.input_ids, position_ids=pack.position_ids, use_cache=False)
    finally:
        _PACK.reset(token)
    return output.last_hidden_state[0]
