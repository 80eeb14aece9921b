"""An encoded row: token ids and the positions to score, or why a row cannot be scored."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NoReturn

import numpy as np
import numpy.typing as npt

from ..tables.columns import BAD_ROW, NO_RESPONSE, SCORED, SKIPPED_TOO_LONG, TRUNCATED

OnOverflow = Literal["truncate", "skip", "error"]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


class UnscorableRowError(ValueError):
    """A row that cannot be scored; ``status`` is one of those of :mod:`rsr_datasets.tables.columns`."""

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
    more: tuple["EncodedRow", ...] = ()

    @property
    def sequences(self) -> tuple["EncodedRow", ...]:
        """All sequences of the row, in order."""
        return (self, *self.more)

    @property
    def num_read(self) -> int:
        """Tokens that the student reads: the last token of a sequence is only ever a target."""
        return sum(sequence.input_ids.size - 1 for sequence in self.sequences)


Outcome = EncodedRow | UnscorableRowError


def bad(reason: str) -> NoReturn:
    """Refuses a row with the status ``bad_row``."""
    raise UnscorableRowError(BAD_ROW, reason)


def to_row(sequences: Iterable[tuple[IntArray, BoolArray]], otherwise: str) -> Outcome:
    """One row of sequences, each token ids and which of them are scored where they have context before them.

    If no token is scored, the error ``no_response`` with the reason ``otherwise``.
    """
    encoded = []
    for ids, scored in sequences:
        positions = np.flatnonzero(scored[1:]) + 1
        if positions.size:
            encoded.append(EncodedRow(ids[: positions[-1] + 1], positions))
    if not encoded:
        return UnscorableRowError(NO_RESPONSE, otherwise)
    return replace(encoded[0], more=tuple(encoded[1:]))


def fit(row: EncodedRow, max_length: int | None, on_overflow: OnOverflow) -> EncodedRow:
    """Cuts each sequence of a row to ``max_length`` tokens, counted to its last scored token.

    Sequences of which nothing fits are left out. A row that is cut has the status ``truncated``.

    Raises:
        UnscorableRowError: ``skipped_too_long`` for ``"skip"``, or where no response token fits.
        OverflowError: For ``"error"``.
    """
    kept = []
    found = ""
    for sequence in row.sequences:
        length = sequence.input_ids.size
        if max_length is None or length <= max_length:
            kept.append(sequence)
            continue
        found = f"{length} tokens, more than max_length={max_length}"
        if on_overflow == "error":
            raise OverflowError(f'{found}; raise max_length, or use on_overflow="truncate" or "skip"')
        if on_overflow == "skip":
            raise UnscorableRowError(SKIPPED_TOO_LONG, found)
        positions = sequence.positions[sequence.positions < max_length]
        if positions.size:
            kept.append(EncodedRow(sequence.input_ids[: positions[-1] + 1], positions, TRUNCATED))
    if not kept:
        raise UnscorableRowError(SKIPPED_TOO_LONG, found)
    return replace(kept[0], status=TRUNCATED, more=tuple(kept[1:])) if found else row
