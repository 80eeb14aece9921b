"""Progress bars of ``datasets``."""

import contextlib
from collections.abc import Iterator

import datasets

_MANY_ROWS = 1_000_000


@contextlib.contextmanager
def no_bar_if_quick(rows: int) -> Iterator[None]:
    """Shows no bar for saving or reading so few rows that it takes seconds."""
    is_quick = rows < _MANY_ROWS and not datasets.are_progress_bars_disabled()
    if is_quick:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if is_quick:
            datasets.enable_progress_bars()
