"""Single columns of a data set as NumPy arrays: numbers, categories, groups of equal keys.

Everything streams through Arrow batches, so that memory holds numbers per row and never a column of text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset

from .columns import ScoreColumns
from .conversation import Turns, UnscorableRowError, find_format, read_prompt

_NUMBERS_PER_BATCH = 1_000_000
_KEYS_PER_BATCH = 20_000
_CONVERSATIONS_PER_BATCH = 1_000
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Categories:
    """A column of few distinct values.

    Attributes:
        codes: Index into ``values`` of each row, -1 for null, int32, shape ``(rows,)``.
        values: The distinct values in order of first appearance.
    """

    codes: npt.NDArray[np.int32]
    values: list[Any]

    def among(self, chosen: Collection[Any]) -> npt.NDArray[np.bool_]:
        """Which rows have one of the values, bool, shape ``(rows,)``."""
        return np.array([*(value in chosen for value in self.values), False])[self.codes]

    def present(self, rows: npt.NDArray[Any]) -> list[Any]:
        """The values of some rows, without null, in order of first appearance in the column."""
        return [self.values[code] for code in np.unique(self.codes[rows]) if code >= 0]


@dataclass(frozen=True)
class Groups:
    """Rows grouped by equal keys.

    Attributes:
        codes: Group of each row, numbered in order of first appearance, -1 without a key, int64, shape ``(rows,)``.
        count: Number of groups.
    """

    codes: npt.NDArray[np.int64]
    count: int


def require_columns(dataset: Dataset, names: Iterable[str], columns: ScoreColumns) -> None:
    """Checks that columns are there before anything is read.

    Args:
        dataset: The data set.
        names: Columns that are needed.
        columns: The score columns; a missing one of them means that the data set was never scored.

    Raises:
        ValueError: If one is missing.
    """
    present = list(dataset.column_names)
    for name in names:
        if name in present:
            continue
        if name in columns.row_types:
            prefix = "" if columns.prefix == "rsr" else f", column_prefix={columns.prefix!r}"
            raise ValueError(
                f"the dataset was never scored: it has no column {name!r}, only {present}; "
                f"dataset.map(RSRScorer(student{prefix}), batched=True) adds it"
            )
        raise ValueError(f"no column {name!r}; the dataset has {present}")


def require_one_setting(columns: ScoreColumns, settings: Sequence[str]) -> None:
    """Checks that scores may be compared.

    Args:
        columns: Their columns.
        settings: The distinct settings of the rows that are compared.

    Raises:
        ValueError: If there are several.
    """
    if len(settings) > 1:
        shown = ", ".join(settings[:5]) + (", ..." if len(settings) > 5 else "")
        raise ValueError(
            f"column {columns.settings!r}: the rows to compare were scored with {len(settings)} different students or "
            f"settings ({shown}); score them alike, filter to one of these, or pass allow_mixed_settings=True"
        )


def read_numbers(dataset: Dataset, column: str) -> npt.NDArray[np.float64]:
    """Reads a numeric column.

    Args:
        dataset: The data set.
        column: Its name.

    Returns:
        Float64, shape ``(rows,)``; NaN for null.

    Raises:
        ValueError: If the column is not numeric.
    """
    parts = []
    for chunk in _batches(dataset, [column], _NUMBERS_PER_BATCH):
        array = chunk[column]
        if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
            raise ValueError(f"column {column!r} is {array.type}, not numeric; scores are compared as numbers")
        parts.append(pc.cast(array, pa.float64(), safe=False).to_numpy())
    return np.concatenate(parts) if parts else np.empty(0)


def read_flags(dataset: Dataset, column: str) -> npt.NDArray[np.bool_]:
    """Reads a boolean column.

    Args:
        dataset: The data set.
        column: Its name.

    Returns:
        Bool, shape ``(rows,)``; false for null.

    Raises:
        ValueError: If the column is not boolean.
    """
    parts = []
    for chunk in _batches(dataset, [column], _NUMBERS_PER_BATCH):
        array = chunk[column]
        if not pa.types.is_boolean(array.type):
            raise ValueError(f"column {column!r} is {array.type}, not boolean; cast it, e.g. with dataset.map")
        parts.append(pc.fill_null(array, False).to_numpy())
    return np.concatenate(parts).astype(bool) if parts else np.empty(0, dtype=bool)


def read_categories(dataset: Dataset, column: str) -> Categories:
    """Reads a column of few distinct texts or numbers.

    Args:
        dataset: The data set.
        column: Its name.

    Raises:
        ValueError: If its values are lists or dicts.
    """
    chunks = []
    for chunk in _batches(dataset, [column], _NUMBERS_PER_BATCH):
        array = chunk[column]
        if pa.types.is_nested(array.type):
            raise ValueError(f"column {column!r} is {array.type}; expected text or numbers")
        chunks.append(pc.dictionary_encode(array))
    if not chunks:
        return Categories(np.empty(0, dtype=np.int32), [])
    encoded = pa.chunked_array([part for chunk in chunks for part in chunk.chunks]).unify_dictionaries()
    codes = [pc.fill_null(part.indices, -1).to_numpy() for part in encoded.chunks]
    return Categories(np.concatenate(codes).astype(np.int32), encoded.chunk(0).dictionary.to_pylist())


def group_by_columns(dataset: Dataset, names: Sequence[str]) -> Groups:
    """Groups rows by the values of one or several columns, nested ones too.

    Args:
        dataset: The data set.
        names: The columns; a row belongs to no group where one of them is null or NaN.
    """
    groups = _densify(_keys(dataset, names[0]))
    for name in names[1:]:
        other = _densify(_keys(dataset, name))
        missing = (groups.codes < 0) | (other.codes < 0)
        groups = _densify(pa.array(groups.codes * other.count + other.codes, mask=missing))
    return groups


def group_by_prompt(dataset: Dataset, turns: Turns = "all", columns: Mapping[str, str] | None = None) -> Groups:
    """Groups rows by the content of the conversation before the first scored turn.

    Args:
        dataset: Rows of one of the formats of :mod:`rsr_datasets.conversation`.
        turns: Which assistant turns were scored.
        columns: Standard column name to actual name, where they differ.

    Returns:
        The groups; a row that cannot be read belongs to none.

    Raises:
        ValueError: If no format fits the columns, or the format has no prompt.
    """
    row_format = find_format(dataset.column_names, columns)
    if row_format.kind == "text":
        raise ValueError(f"group_by='prompt': column {row_format.names[0]!r} has no prompt apart; name a key column")

    def digest(row: Mapping[str, Any]) -> bytes | None:
        try:
            return _digest(read_prompt(row, row_format, turns))
        except UnscorableRowError:
            return None

    batches = _batches(dataset, row_format.names, _CONVERSATIONS_PER_BATCH)
    return _densify(_digest_array([digest(row) for row in batch.to_pylist()] for batch in batches))


def _batches(dataset: Dataset, names: Sequence[str], size: int) -> Iterator[pa.Table]:
    yield from dataset.select_columns(list(names)).with_format("arrow").iter(batch_size=size)


def _keys(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """Values that are equal where the column's are, 16 bytes each at most; null for null and NaN."""
    arrow_type = dataset.features.arrow_schema.field(name).type
    if pa.types.is_nested(arrow_type):
        batches = _batches(dataset, [name], _CONVERSATIONS_PER_BATCH)
        return _digest_array([_digest(value) for value in batch[name].to_pylist()] for batch in batches)
    if not pa.types.is_primitive(arrow_type):
        batches = _batches(dataset, [name], _KEYS_PER_BATCH)
        digests = [_digest_texts(part) for batch in batches for part in batch[name].chunks]
        return pa.chunked_array(digests, pa.binary(_DIGEST_BYTES))
    chunks = [part for batch in _batches(dataset, [name], _NUMBERS_PER_BATCH) for part in batch[name].chunks]
    keys = pa.chunked_array(chunks, type=arrow_type)
    if pa.types.is_floating(arrow_type):
        return pc.if_else(pc.is_nan(keys), pa.scalar(None, arrow_type), keys)
    return keys


def _digest_texts(texts: pa.Array) -> pa.Array:
    encoded = pc.dictionary_encode(texts)
    digests = pa.array([_digest(value) for value in encoded.dictionary.to_pylist()], pa.binary(_DIGEST_BYTES))
    return digests.take(encoded.indices)


def _digest_array(batches: Iterable[list[bytes | None]]) -> pa.ChunkedArray:
    return pa.chunked_array((pa.array(batch, pa.binary(_DIGEST_BYTES)) for batch in batches), pa.binary(_DIGEST_BYTES))


def _digest(value: Any) -> bytes | None:
    """128 bits: two of 50 million contents meet with a probability of about 4e-24."""
    if value is None:
        return None
    if not isinstance(value, str | bytes):
        value = json.dumps(value, sort_keys=True, default=str)
    return xxhash.xxh3_128_digest(value.encode() if isinstance(value, str) else value)


def _densify(keys: pa.Array | pa.ChunkedArray) -> Groups:
    array = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    encoded = pc.dictionary_encode(array)
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    return Groups(codes.astype(np.int64), len(encoded.dictionary))
