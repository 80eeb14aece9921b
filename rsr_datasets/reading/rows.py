"""An encoded row: token ids and the positions to score, or why a row cannot be scored."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from ..tables.columns import BAD_ROW, NO_RESPONSE, SCORED, SKIPPED_TOO_LONG, TRUNCATED
from .videos import Media

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
        images: The images and videos that the sequence shows, in order; ``input_ids`` hold all tokens of these.
        image_spans: The positions in ``input_ids`` of each image's first token and of the one after its last.
    """

    input_ids: IntArray
    positions: IntArray
    status: str = SCORED
    more: tuple["EncodedRow", ...] = ()
    images: tuple[Media, ...] = ()
    image_spans: tuple[tuple[int, int], ...] = ()

    @property
    def sequences(self) -> tuple["EncodedRow", ...]:
        """All sequences of the row, in order."""
        return (self, *self.more)

    @property
    def num_read(self) -> int:
        """Tokens that the student reads, those that several sequences begin with once."""
        return sum(tokens_read(self.sequences))

    @property
    def read_ids(self) -> IntArray:
        """The tokens of the first sequence that are read: all but the last, which is only predicted."""
        return self.input_ids[:-1]

    def shown(self, start: int, end: int, shift: int = 0) -> dict[str, Any]:
        """The images that begin from ``start`` to before ``end``: arguments of a row shifted by ``shift`` tokens."""
        placed = [each for each in zip(self.images, self.image_spans, strict=True) if start <= each[1][0] < end]
        spans = tuple((first + shift, after + shift) for _, (first, after) in placed)
        return {"images": tuple(image for image, _ in placed), "image_spans": spans}


class Tokens(NamedTuple):
    """A tokenized text: ids, int64, and which tokens count, never one that the tokenizer added around the text.

    ``image_spans`` are those of :class:`EncodedRow`.
    """

    ids: IntArray
    counts: BoolArray
    images: tuple[Media, ...] = ()
    image_spans: tuple[tuple[int, int], ...] = ()


Outcome = EncodedRow | UnscorableRowError


def in_order(sequences: Sequence[IntArray]) -> list[int]:
    """Numbers of sequences in the order of their ids: none shares more first tokens than its neighbours."""
    return sorted(range(len(sequences)), key=lambda i: sequences[i].astype(">i8").tobytes())


def common_length(first: IntArray, second: IntArray) -> int:
    """How many first tokens two sequences share."""
    shorter = min(first.size, second.size)
    same = first[:shorter] == second[:shorter]
    return shorter if same.all() else int(np.argmin(same))


def conversations(rows: Sequence["EncodedRow"]) -> Iterator[slice]:
    """Numbers of the rows that are the sequences of one row: the first of them has the others in ``more``."""
    for i, row in enumerate(rows):
        numbers = slice(i, i + len(row.sequences))
        if row.more and all(a is b for a, b in zip(row.sequences, rows[numbers], strict=False)):
            yield numbers


def tokens_read(rows: Sequence["EncodedRow"]) -> list[int]:
    """Tokens of each row that are read; those that sequences of one row begin with count for one of these."""
    ids = [row.read_ids for row in rows]
    tokens = [each.size for each in ids]
    for numbers in conversations(rows):
        tokens[numbers] = unshared(ids[numbers])
    return tokens


def unshared(sequences: Sequence[IntArray]) -> list[int]:
    """How many tokens each sequence adds, if tokens that sequences begin with are counted once."""
    added = [sequence.size for sequence in sequences]
    for before, i in itertools.pairwise(in_order(sequences)):
        added[i] -= common_length(sequences[before], sequences[i])
    return added


def bad(reason: str) -> NoReturn:
    """Refuses a row with the status ``bad_row``."""
    raise UnscorableRowError(BAD_ROW, reason)


def to_row(sequences: Iterable[Tokens], otherwise: str) -> Outcome:
    """One row of sequences, of which the tokens that count are scored where they have context before them.

    If no token is scored, the error ``no_response`` with the reason ``otherwise``.
    """
    encoded = []
    for ids, counts, images, spans in sequences:
        positions = np.flatnonzero(counts[1:]) + 1
        if positions.size:
            end = int(positions[-1]) + 1
            shown = EncodedRow(ids, positions, images=images, image_spans=spans).shown(0, end)
            encoded.append(EncodedRow(ids[:end], positions, **shown))
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
            end = int(positions[-1]) + 1
            kept.append(EncodedRow(sequence.input_ids[:end], positions, TRUNCATED, **sequence.shown(0, end)))
    if not kept:
        raise UnscorableRowError(SKIPPED_TOO_LONG, found)
    return replace(kept[0], status=TRUNCATED, more=tuple(kept[1:])) if found else row


def first_tokens(row: EncodedRow, count: int) -> EncodedRow:
    """The beginning of a row up to its ``count``-th token to score, at least the first one; its status stays."""
    kept, left = [], max(count, 1)
    for sequence in row.sequences:
        positions = sequence.positions[:left]
        left -= positions.size
        if positions.size:
            end = int(positions[-1]) + 1
            kept.append(EncodedRow(sequence.input_ids[:end], positions, **sequence.shown(0, end)))
    return replace(kept[0], status=row.status, more=tuple(kept[1:]))
