"""Rows that are tokenized already: token ids, and which of them a trainer trains on."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..rows import BoolArray, IntArray, Outcome, Tokens, UnscorableRowError, bad, to_row
from .base import Format, RowFormat

TOKENIZED = "tokenized"
_MASKS = ("completion_mask", "assistant_masks")
_OTHERS = ("labels", *_MASKS, "attention_mask", "position_ids", "seq_lengths")

FORMAT = Format(TOKENIZED, 60, ("input_ids",), lambda row: bad("rows of token ids hold no text"), _OTHERS)


def encode_tokenized(rows: Sequence[Mapping[str, Any]], row_format: RowFormat) -> list[Outcome]:
    """Encodes rows of token ids; neither tokenizer nor template is needed.

    A token is scored if its label is not -100 and each mask of the row is 1 there. Padding, by ``attention_mask``, is
    left out on either side. A packed row, by ``seq_lengths`` or ``position_ids`` that restart, gives one sequence for
    each of its parts.
    """
    outcomes: list[Outcome] = []
    for row in rows:
        try:
            outcomes.append(_encode({standard: row.get(actual) for standard, actual in row_format.columns.items()}))
        except UnscorableRowError as error:
            outcomes.append(error)
    return outcomes


def _encode(values: Mapping[str, Any]) -> Outcome:
    ids = _numbers(values, "input_ids")
    if ids is None or not ids.size or ids.min() < 0:
        bad("column 'input_ids': expected a list of token ids, none of them negative")
    scored = np.ones(ids.size, dtype=bool)
    labels = _numbers(values, "labels", ids.size)
    masks = [mask for name in _MASKS if (mask := _numbers(values, name, ids.size)) is not None]
    if labels is None and not masks:
        bad(f"column 'input_ids' needs one of {['labels', *_MASKS]}, which says what is scored")
    if labels is not None:
        scored = labels != -100
        if np.any(labels[scored] != ids[scored]):
            bad("column 'labels': differs from 'input_ids' where it is not -100")
    for mask in masks:
        scored &= mask == 1
    starts = _starts(values, ids.size)
    present = _numbers(values, "attention_mask", ids.size)
    if present is not None:
        kept = np.flatnonzero(present)
        if kept.size and kept[-1] - kept[0] + 1 != kept.size:
            bad("column 'attention_mask': zeros between ones")
        ids, scored, starts = ids[kept], scored[kept], starts[kept]
    bounds = [0, *np.flatnonzero(starts).tolist(), ids.size]
    return to_row(
        (Tokens(ids[first:end], scored[first:end]) for first, end in itertools.pairwise(bounds)),
        "no token is scored that has context before it",
    )


def _numbers(values: Mapping[str, Any], name: str, length: int | None = None) -> IntArray | None:
    given = values.get(name)
    if given is None:
        return None
    try:
        numbers = np.asarray(given)
    except ValueError:
        numbers = np.empty((0, 0))
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iub"):
        bad(f"column {name!r}: expected a list of whole numbers")
    if length is not None and numbers.size != length:
        bad(f"column {name!r} has {numbers.size} entries, 'input_ids' {length}")
    return numbers.astype(np.int64)


def _starts(values: Mapping[str, Any], length: int) -> BoolArray:
    """Which tokens begin a part of a packed row, bool, shape ``(length,)``."""
    starts = np.zeros(length, dtype=bool)
    lengths = _numbers(values, "seq_lengths")
    positions = _numbers(values, "position_ids", length)
    if lengths is not None:
        if lengths.sum() != length or (lengths < 1).any():
            bad(f"column 'seq_lengths': the sum is {lengths.sum()}, not {length}")
        starts[np.cumsum(lengths)[:-1]] = True
    elif positions is not None:
        starts[1:] = np.diff(positions) < 0
    return starts
