"""An encoded row: token ids and the positions to score, or why a row cannot be scored."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
        more: Further sequences of the same row, each with its own context: later turns as the student sees them when
            it writes them (``turns="each"``), or further conversations of a packed row.
    """

    input_ids: IntArray
    positions: IntArray
    status: str = SCORED
    more: tuple[EncodedRow, ...] = ()

    @property
    def sequences(self) -> tuple[EncodedRow, ...]:
        """All sequences of the row, in order."""
        return (self, *self.more)

    @property
    def num_read(self) -> int:
        """Tokens that the student reads: the last token of a sequence is only ever a target."""
        return sum(sequence.input_ids.size - 1 for sequence in self.sequences)


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
    if row.more:
        return _fit_sequences(row, max_length, on_overflow)
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


def _fit_sequences(row: EncodedRow, max_length: int | None, on_overflow: OnOverflow) -> EncodedRow:
    """Fits each sequence by itself; those of which nothing fits are left out."""
    kept: list[EncodedRow] = []
    failure: UnscorableRowError | None = None
    for sequence in row.sequences:
        try:
            kept.append(fit(replace(sequence, more=()), max_length, on_overflow))
        except UnscorableRowError as error:
            if on_overflow == "skip":
                raise
            failure = error
    if not kept:
        raise failure or UnscorableRowError(SKIPPED_TOO_LONG, "no sequence fits")
    cut = failure is not None or any(sequence.status == TRUNCATED for sequence in kept)
    return replace(kept[0], status=TRUNCATED if cut else SCORED, more=tuple(kept[1:]))
