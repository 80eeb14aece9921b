"""An encoded row: token ids and the positions to score, or why a row cannot be scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..tables.columns import SCORED, SKIPPED_TOO_LONG, TRUNCATED

OnOverflow = Literal["truncate", "skip", "error"]
IntArray = npt.NDArray[np.int64]


class UnscorableRowError(ValueError):
    """A row that cannot be scored.

    Attributes:
        status: One of the row statuses of :mod:`rsr_datasets.tables.columns`.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class EncodedRow:
    """A row as the student sees it.

    Attributes:
        input_ids: Token ids up to and including the last scored token, int64, shape ``(tokens,)``.
        positions: Increasing positions in ``input_ids`` of the tokens to score, each at least 1, shape ``(scored,)``.
        status: ``scored``, or ``truncated`` where scored tokens were cut off.
    """

    input_ids: IntArray
    positions: IntArray
    status: str = SCORED


def fit(row: EncodedRow, max_length: int | None, on_overflow: OnOverflow) -> EncodedRow:
    """Applies the length limit to an encoded row.

    Args:
        row: The row.
        max_length: Longest sequence in tokens, counted to the last scored token; ``None`` for no limit.
        on_overflow: What to do with a longer row.

    Returns:
        The row itself, or its first ``max_length`` tokens with status ``truncated``.

    Raises:
        UnscorableRowError: ``skipped_too_long`` for ``"skip"``, or where no response token fits.
        OverflowError: For ``"error"``.
    """
    length = row.input_ids.size
    if max_length is None or length <= max_length:
        return row
    found = f"{length} tokens, more than max_length={max_length}"
    if on_overflow == "error":
        raise OverflowError(f'{found}; raise max_length, or use on_overflow="truncate" or "skip"')
    positions = row.positions[row.positions < max_length]
    if on_overflow == "skip" or not positions.size:
        raise UnscorableRowError(SKIPPED_TOO_LONG, found)
    return EncodedRow(row.input_ids[: positions[-1] + 1], positions, TRUNCATED)
