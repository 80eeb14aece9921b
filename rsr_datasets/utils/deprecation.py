"""Arguments that were renamed or removed: accepted under the old name for one version, with a warning."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def renamed_arguments(**renamed: str | None) -> Callable[[Function], Function]:
    """Decorates a function that accepts keyword arguments under their old names too; both at once: ``TypeError``.

    ``renamed`` maps an old name to the new one, or to ``None`` where the argument has no effect any more.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def accepting(*args: Any, **kwargs: Any) -> Any:
            for old, new in renamed.items():
                if old not in kwargs:
                    continue
                if new in kwargs:
                    raise TypeError(f"{old}= is the old name of {new}=: give {new}= alone")
                advice = f"is now called {new}=" if new else "has no effect any more; leave it out"
                warnings.warn(f"{old}= {advice}", FutureWarning, stacklevel=2)
                value = kwargs.pop(old)
                if new:
                    kwargs[new] = value
            return function(*args, **kwargs)

        return accepting  # type: ignore[return-value]

    return decorate
