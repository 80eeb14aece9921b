"""Copies of modules that share their weights, with some of the inner modules changed."""

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
