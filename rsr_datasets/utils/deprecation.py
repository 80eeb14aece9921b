"""Arguments that were renamed or removed: accepted under the old name for one version, with a warning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def renamed_arguments(**renamed: str | None) -> Callable[[Function], Function]:
    """Accepts keyword arguments under their old names.

    Args:
        renamed: Old name to new name; ``None`` for an argument that was removed and has no effect any more.

    Returns:
        A decorator. The decorated function raises ``TypeError`` where the old and the new name are both given.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def accepting(*args: Any, **kwargs: Any) -> Any:
            for old, new in renamed.items():
                if old not in kwargs:
                    continue
                value = kwargs.pop(old)
                if new is None:
                    warnings.warn(f"{old}= has no effect any more; leave it out", FutureWarning, stacklevel=2)
                    continue
                if new in kwargs:
                    raise TypeError(f"{old}= is the old name of {new}=: give {new}= alone")
                warnings.warn(f"{old}= is now called {new}=", FutureWarning, stacklevel=2)
                kwargs[new] = value
            return function(*args, **kwargs)

        return accepting  # type: ignore[return-value]

    return decorate
