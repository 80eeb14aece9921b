"""Long rows go through the feed-forward layers in parts, which bounds the memory that those layers take."""

from __future__ import annotations

from typing import Any

import torch

from ..modules import copied

_FEED_FORWARD = "mlp"  # the name in most families of transformers


def in_parts(decoder: torch.nn.Module, tokens: int) -> torch.nn.Module:
    """A decoder whose feed-forward layers read at most so many tokens at once; the weights are shared."""
    return copied(decoder, lambda name, module: _InParts(module, tokens) if name == _FEED_FORWARD else module)


class _InParts(torch.nn.Module):
    """A layer that computes each token by itself, called with a part of the tokens after the other."""

    def __init__(self, layer: torch.nn.Module, tokens: int) -> None:
        super().__init__()
        self.layer = layer
        self.tokens = tokens

    def forward(self, hidden: torch.Tensor, *others: Any, **settings: Any) -> Any:
        if others or settings or hidden.shape[-2] <= self.tokens:
            return self.layer(hidden, *others, **settings)
        found = [self.layer(part.contiguous()) for part in hidden.split(self.tokens, dim=-2)]
        if isinstance(found[0], tuple):  # layers of experts also return how they routed the tokens
            return tuple(torch.cat(each, dim=-2) for each in zip(*found, strict=True))
        return torch.cat(found, dim=-2)
