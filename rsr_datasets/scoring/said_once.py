"""Warnings that a scorer logs once, however many rows they concern."""

from __future__ import annotations

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)


class SaidOnce:
    """A log of the warnings that were said.

    Args:
        strict: Whether a row that cannot be scored is an error.
    """

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._said: set[str] = set()

    def warn(self, key: str, message: str, *values: object) -> None:
        """Logs a warning, unless one of the same key was logged before."""
        if key not in self._said:
            self._said.add(key)
            logger.warning(message, *values)

    def status(self, status: str, reason: str, place: str) -> None:
        """Says why a row has no score, once for each status.

        Raises:
            ValueError: If the scorer is strict.
        """
        if self._strict:
            raise ValueError(f"{place}: {status}: {reason}")
        message = "%s: %s: %s (said once; the status column has them all)"
        self.warn(f"status {status}", message, place, status, reason)


def place_of(i: int, indices: Sequence[int] | None) -> str:
    """Names a row in messages: by its number in the dataset where ``indices`` has it, else in its batch."""
    return f"row {indices[i]}" if indices is not None else f"row {i} of its batch"
