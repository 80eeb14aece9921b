"""Copies of a student's decoder that share its weights, with some of its modules changed."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch

_FEED_FORWARD = "mlp"  # as most families of transformers name it


def copied(module: torch.nn.Module, change: Callable[[str, torch.nn.Module], torch.nn.Module]) -> torch.nn.Module:
    """A module whose structure is copied and whose weights are shared.

    Args:
        module: It is left as it is.
        change: Given the name and the copy of each module in it, inner ones first, returns what takes its place.
    """
    new = copy.copy(module)
    for name in ("_old_forward", "forward"):  # where accelerate's hooks move a student's layers among devices
        if (method := module.__dict__.get(name)) is not None:
            new.__dict__[name] = _of_the_copy(method, module, new)
    new.__dict__["_modules"] = {
        name: None if child is None else change(name, copied(child, change)) for name, child in module._modules.items()
    }
    return new


def _of_the_copy(method: Any, module: torch.nn.Module, new: torch.nn.Module) -> Any:
    """A method that an instance holds itself, bound to its copy."""
    if isinstance(method, functools.partial):
        return functools.partial(
            method.func, *(new if arg is module else arg for arg in method.args), **method.keywords
        )
    return MethodType(method.__func__, new) if getattr(method, "__self__", None) is module else method


def in_parts(decoder: torch.nn.Module, tokens: int) -> torch.nn.Module:
    """A decoder whose feed-forward layers see long rows in parts, which bounds the memory that their inside takes.

    Args:
        decoder: It is left as it is.
        tokens: Most tokens of a row that a feed-forward layer is given at once.
    """
    return copied(decoder, lambda name, module: _InParts(module, tokens) if name == _FEED_FORWARD else module)


class _InParts(torch.nn.Module):
    """A layer that computes token by token, given some tokens after the other."""

    def __init__(self, layer: torch.nn.Module, tokens: int) -> None:
        super().__init__()
        self.layer = layer
        self.tokens = tokens

    def forward(self, hidden: torch.Tensor, *others: Any, **settings: Any) -> Any:
        if others or settings or hidden.shape[-2] <= self.tokens:
            return self.layer(hidden, *others, **settings)
        found = [self.layer(part.contiguous()) for part in hidden.split(self.tokens, dim=-2)]
        if isinstance(found[0], tuple):  # beside the result, how tokens were dealt out to experts
            return tuple(torch.cat(each, dim=-2) for each in zip(*found, strict=True))
        return torch.cat(found, dim=-2)
