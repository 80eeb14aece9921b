"""Attention of rows that stand in one sequence: each token sees its own row only."""

from __future__ import annotations

import contextlib
import contextvars
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from .modules import copied

_ATTENTION = "rsr_datasets_packed"
_MOST_GROUPED = 256
# Arguments of attention functions that do not change the result.
_NO_EFFECT = {"position_ids", "use_cache", "output_attentions", "output_hidden_states", "return_dict"}


@dataclass(frozen=True)
class Call:
    """One call of attention.

    Attributes:
        queries: Tokens of the sequence.
        visible: How many of their block's keys they are given.
        mask: Which of these keys each query sees, broadcastable to ``(1, 1, queries, visible)``, boolean or to be
            added. Without a mask the keys are the queries, and each query sees itself and the queries before it.
    """

    queries: slice
    visible: int
    mask: torch.Tensor | None = None


@dataclass(frozen=True)
class Block:
    """Calls of attention to the same keys, which are tokens of the sequence."""

    keys: slice | torch.Tensor
    calls: list[Call]


@dataclass
class Layout:
    """How attention of one sequence is computed, and how many layers have computed it so."""

    blocks: list[Block] = field(default_factory=list)
    attended: int = 0


_LAYOUT: contextvars.ContextVar[Layout] = contextvars.ContextVar("layout")


@contextlib.contextmanager
def laid_out(layout: Layout) -> Iterator[None]:
    """Inside, a packed decoder reads a sequence of this layout."""
    token = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


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
    """Attention among the tokens of each row: of the sequence in its layout, or of a batch of rows side by side.

    Queries, keys and values have the shape ``(rows, heads, tokens, head size)``, with one row for a sequence. The
    result has the shape ``(rows, tokens, heads, head size)``. A family that asks for more than causal attention to all
    tokens is refused with a ``ValueError``.
    """
    others = {name for name, asked in kwargs.items() if asked is not None and name not in _NO_EFFECT}
    if others or attention_mask is not None or dropout:
        raise ValueError(f"attention is not merely causal: {sorted(others)}")
    layout = _LAYOUT.get(None)
    blocks = [Block(slice(None), [Call(slice(None), query.shape[2])])]
    if layout is not None:
        layout.attended += 1
        blocks = layout.blocks
    found = query.new_empty((query.shape[0], query.shape[2], query.shape[1], value.shape[3]))
    for block in blocks:
        keys, values = (_taken(each, block.keys) for each in (key, value))
        for call in block.calls:
            visible, contents = keys[:, :, : call.visible], values[:, :, : call.visible]
            found[:, call.queries] = _computed(call, query[:, :, call.queries], visible, contents, scaling)
    return found, None


def _computed(
    call: Call, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    mask = None if call.mask is None else call.mask.to(query.device)
    groups = query.shape[1] // key.shape[1]
    # On a GPU only some of torch's kernels take fewer keys than queries have heads, and none of them with a mask.
    takes_groups = query.device.type == "cpu" or (mask is None and key.shape[-1] == value.shape[-1] <= _MOST_GROUPED)
    if groups > 1 and not takes_groups:
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    return torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    ).transpose(1, 2)


def _taken(part: torch.Tensor, places: slice | torch.Tensor) -> torch.Tensor:
    """Keys or values of some tokens. They lie token by token in memory, and are copied so."""
    if isinstance(places, slice):
        return part[:, :, places]
    return part.transpose(1, 2).index_select(1, places.to(part.device)).transpose(1, 2)


AttentionInterface.register(_ATTENTION, _attend)


def packed_decoder(decoder: torch.nn.Module) -> torch.nn.Module:
    """A copy of a decoder that reads rows in one sequence; the weights are shared, attention is replaced.

    The copy reads rows side by side too, and does not ask a GPU whether they need a mask.

    Raises:
        ValueError: If the decoder's attention is another than torch's own, or does not see all tokens.
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
