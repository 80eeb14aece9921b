"""Long rows go through the feed-forward layers in parts, which bounds the memory that those layers take."""

from typing import Any

import torch

from ..packing import copied

_FEED_FORWARD = "mlp"  # the name in most families of transformers
_MOST_TOKENS = 2048
_MOST_TOKENS_OF_A_GPU = 16384
_MOST_TOKENS_OF_PROBE = 10


def in_parts(module: torch.nn.Module, for_probe: bool) -> torch.nn.Module:
    """A copy of a decoder whose feed-forward layers read a bounded number of tokens at once."""
    if not any(name.endswith(_FEED_FORWARD) for name, _ in module.named_modules()):
        return module
    tokens = _MOST_TOKENS_OF_PROBE if for_probe else None
    return copied(module, lambda name, part: _InParts(part, tokens) if name == _FEED_FORWARD else part)


class _InParts(torch.nn.Module):
    """A layer that computes each token by itself, called with one part of a row after the other.

    A part has ``tokens`` at most; ``None`` leaves that to the device.
    """

    def __init__(self, layer: torch.nn.Module, tokens: int | None) -> None:
        super().__init__()
        self.layer = layer
        self.tokens = tokens

    def forward(self, hidden: torch.Tensor, *others: Any, **settings: Any) -> Any:
        tokens = self.tokens or (_MOST_TOKENS if hidden.device.type == "cpu" else _MOST_TOKENS_OF_A_GPU)
        if others or settings or hidden.shape[-2] <= tokens:
            return self.layer(hidden, *others, **settings)
        found = [self.layer(part.contiguous()) for part in hidden.split(tokens, dim=-2)]
        if isinstance(found[0], tuple):  # layers of experts also return how they routed the tokens
            return tuple(torch.cat(each, dim=-2) for each in zip(*found, strict=True))
        return torch.cat(found, dim=-2)
