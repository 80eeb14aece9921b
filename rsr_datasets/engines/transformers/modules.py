"""Copies of modules that share their weights, with some of the inner modules changed."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch


def copied(module: torch.nn.Module, change: Callable[[str, torch.nn.Module], torch.nn.Module]) -> torch.nn.Module:
    """A module whose structure is copied and whose weights are shared.

    ``change`` takes the name and the copy of each inner module, innermost first; it returns the module to use instead.
    """
    new = copy.copy(module)
    for name in ("_old_forward", "forward"):  # accelerate's hooks, which move layers among devices
        if (method := module.__dict__.get(name)) is not None:
            new.__dict__[name] = _bound_to_copy(method, module, new)
    new.__dict__["_modules"] = {
        name: None if child is None else change(name, copied(child, change)) for name, child in module._modules.items()
    }
    return new


def _bound_to_copy(method: Any, module: torch.nn.Module, new: torch.nn.Module) -> Any:
    """A method that an instance holds itself, bound to the instance's copy."""
    if isinstance(method, functools.partial):
        return functools.partial(
            method.func, *(new if arg is module else arg for arg in method.args), **method.keywords
        )
    return MethodType(method.__func__, new) if getattr(method, "__self__", None) is module else method
