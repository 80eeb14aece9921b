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
from datasets import ClassLabel, Dataset, Features
from datasets.utils import tqdm

from .columns import ScoreColumns
from .conversation import Turns, UnscorableRowError, find_format, read_prompt

_NUMBERS_PER_BATCH = 1_000_000
_KEYS_PER_BATCH = 20_000
_CONVERSATIONS_PER_BATCH = 1_000
PROMPT = "prompt"
_SHOWN_AFTER = 2.0
_DIGEST_TYPE = np.dtype("V16")
_NO_DIGEST = bytes(16)


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


def metric_column(dataset: Dataset, metric: str, columns: ScoreColumns) -> str:
    """Finds the column of a metric.

    Args:
        dataset: The data set.
        metric: The metric's name.
        columns: The score columns.

    Raises:
        ValueError: If it is missing, with what adds it.
    """
    column = columns.metric(metric)
    if column in columns.row_types:
        require_columns(dataset, [column], columns)
    if column not in dataset.column_names:
        prefix = "" if columns.prefix == "rsr" else f", column_prefix={columns.prefix!r}"
        raise ValueError(
            f"metric {metric!r}: no column {column!r}; RSRScorer(student, metrics=[{metric!r}]{prefix}) adds it, and "
            f"rescore(dataset, metrics=[{metric!r}]) where there are token columns; the dataset has "
            f"{list(dataset.column_names)}"
        )
    return column


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
    numbers = np.empty(len(dataset))
    for where, batch in _batches(dataset, [column], _NUMBERS_PER_BATCH):
        array = batch[column]
        if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_null(array.type)):
            raise ValueError(f"column {column!r} is {array.type}, not numeric; scores are compared as numbers")
        numbers[where] = pc.cast(array, pa.float64(), safe=False).to_numpy()
    return numbers


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
    flags = np.empty(len(dataset), dtype=bool)
    for where, batch in _batches(dataset, [column], _NUMBERS_PER_BATCH):
        array = batch[column]
        if not (pa.types.is_boolean(array.type) or pa.types.is_null(array.type)):
            raise ValueError(f"column {column!r} is {array.type}, not boolean; cast it, e.g. with dataset.map")
        flags[where] = pc.fill_null(pc.cast(array, pa.bool_()), False).to_numpy()
    return flags


def read_categories(dataset: Dataset, column: str) -> Categories:
    """Reads a column of few distinct texts or numbers; a ``ClassLabel`` by its names.

    Args:
        dataset: The data set.
        column: Its name.

    Raises:
        ValueError: If its values are lists or dicts.
    """
    codes = np.empty(len(dataset), dtype=np.int32)
    known: dict[Any, int] = {}
    for where, batch in _batches(dataset, [column], _NUMBERS_PER_BATCH):
        if pa.types.is_nested(batch[column].type):
            raise ValueError(f"column {column!r} is {batch[column].type}; expected text or numbers")
        encoded = batch[column].combine_chunks().dictionary_encode()
        of_batch = [known.setdefault(value, len(known)) for value in encoded.dictionary.to_pylist()]
        codes[where] = np.array([*of_batch, -1], dtype=np.int32)[pc.fill_null(encoded.indices, -1)]
    first_rows = np.full(len(known) + 1, len(dataset))
    first_rows[codes[::-1]] = np.arange(len(dataset))[::-1]
    order = np.argsort(first_rows[:-1])
    feature = dataset.features[column]
    values = [feature.int2str(value) if isinstance(feature, ClassLabel) else value for value in known]
    return Categories(np.append(np.argsort(order), -1).astype(np.int32)[codes], [values[code] for code in order])


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


def group_rows(
    dataset: Dataset, keys: Sequence[str], turns: Turns = "all", columns: Mapping[str, str] | None = None
) -> Groups:
    """Groups rows by columns, or by their prompts where that is what ``["prompt"]`` means.

    Args:
        dataset: The rows.
        keys: Columns; ``["prompt"]``, where there is no such column, is the conversation before the first scored turn.
        turns: For a prompt without such a column: which assistant turns were scored.
        columns: For the same: standard column name to actual name, where they differ.
    """
    if groups_by_conversation(dataset, keys):
        return group_by_prompt(dataset, turns, columns)
    return group_by_columns(dataset, keys)


def groups_by_conversation(dataset: Dataset, keys: Sequence[str]) -> bool:
    """Whether keys mean the conversation before the first scored turn, and no column."""
    return list(keys) == [PROMPT] and PROMPT not in dataset.column_names


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

    digests = _Digests(len(dataset))
    for where, batch in _batches(dataset, row_format.names, _CONVERSATIONS_PER_BATCH):
        digests.set(where, [digest(row) for row in read_rows(batch, dataset.features)])
    return _densify(digests.to_arrow())


def read_rows(table: pa.Table, features: Features) -> list[dict[str, Any]]:
    """Reads rows of a table as dicts.

    Args:
        table: Some columns of some rows.
        features: The types of at least these columns; those that need decoding, such as JSON, are decoded.
    """
    decoded = Features({name: features[name] for name in table.column_names}).decode_batch(table.to_pydict())
    return [dict(zip(decoded, values, strict=True)) for values in zip(*decoded.values(), strict=True)]


def content_hash(table: pa.Table) -> str:
    """A 128-bit hash of what a table holds, in hexadecimal.

    The same for equal values, however they are cut into chunks, sliced, or laid out in memory.

    Args:
        table: Columns of any types; their names and order count.
    """
    digest = xxhash.xxh3_128()
    for name in table.column_names:
        digest.update(f"{name}\n".encode())
        for start in range(0, table.num_rows, _CONVERSATIONS_PER_BATCH):
            piece = table[name].slice(start, _CONVERSATIONS_PER_BATCH)
            _hash_array(pa.concat_arrays(piece.chunks) if piece.num_chunks != 1 else piece.chunk(0), digest)
    return digest.hexdigest()


def _hash_array(array: pa.Array, digest: xxhash.xxh3_128) -> None:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    valid = array.is_valid()
    digest.update(f"{len(array)}:{valid.true_count}\n".encode())
    if valid.true_count < len(array):
        digest.update(np.packbits(valid.to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        present = array.drop_null().cast(pa.large_binary())
        _hash_numbers(pc.binary_length(present), digest)
        _, bounds, data = present.buffers()
        first, last = np.frombuffer(bounds, np.int64)[[present.offset, present.offset + len(present)]]
        if data is not None:
            digest.update(data.slice(first, last - first))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        _hash_numbers(pc.list_value_length(array.drop_null()), digest)
        _hash_array(array.flatten(), digest)
    elif pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            digest.update(f"{kind.field(i).name}\n".encode())
            _hash_array(pc.struct_field(array, i), digest)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        _hash_numbers(array.drop_null(), digest)
    else:
        digest.update(repr(array.to_pylist()).encode())


def _hash_numbers(numbers: pa.Array, digest: xxhash.xxh3_128) -> None:
    digest.update(numbers.to_numpy(zero_copy_only=False).tobytes())


class _Digests:
    """A 128-bit digest of each row, or none."""

    def __init__(self, rows: int) -> None:
        self._bytes = np.zeros(rows, dtype=_DIGEST_TYPE)
        self._valid = np.zeros(rows, dtype=bool)

    def set(
        self, where: slice | npt.NDArray[np.int64], digests: Sequence[bytes | None], codes: Any = slice(None)
    ) -> None:
        filled = b"".join(digest or _NO_DIGEST for digest in digests)
        self._bytes[where] = np.frombuffer(filled, dtype=_DIGEST_TYPE)[codes]
        self._valid[where] = np.array([digest is not None for digest in digests], dtype=bool)[codes]

    def to_arrow(self) -> pa.Array:
        validity = pa.py_buffer(np.packbits(self._valid, bitorder="little"))
        return pa.Array.from_buffers(
            pa.binary(_DIGEST_TYPE.itemsize), self._valid.size, [validity, pa.py_buffer(self._bytes)]
        )


def _batches(
    dataset: Dataset, names: Sequence[str], size: int
) -> Iterator[tuple[slice | npt.NDArray[np.int64], pa.Table]]:
    """Some columns piece by piece, each with the rows of the data set that it holds.

    A data set that was shuffled, filtered or selected has an indices mapping. Its own way of reading through that
    copies row by row; here the table below is read once, in the order in which it lies.
    """
    table = dataset.data.table.select(list(names))
    bar = tqdm(total=table.num_rows, desc=f"Reading {', '.join(names)}", unit="row", delay=_SHOWN_AFTER, leave=False)
    with bar:
        if dataset._indices is None:
            for start in range(0, table.num_rows, size):
                yield slice(start, start + size), table.slice(start, size)
                bar.update(min(size, table.num_rows - start))
            return
        indices = dataset._indices.column(0).to_numpy().astype(np.int64)
        rows = np.argsort(indices, kind="stable")
        indices = indices[rows]
        for start in range(0, table.num_rows, size):
            first, end = np.searchsorted(indices, [start, start + size])
            if first < end:
                yield rows[first:end], table.slice(start, size).combine_chunks().take(indices[first:end] - start)
            bar.update(min(size, table.num_rows - start))


def _keys(dataset: Dataset, name: str) -> pa.Array:
    """Numbers or digests that are equal where the column's values are; null for null and NaN."""
    arrow_type = dataset.data.table.schema.field(name).type
    if pa.types.is_integer(arrow_type) or pa.types.is_boolean(arrow_type):
        numbers = np.zeros(len(dataset), dtype=np.int64)
        valid = np.zeros(len(dataset), dtype=bool)
        for where, batch in _batches(dataset, [name], _NUMBERS_PER_BATCH):
            valid[where] = batch[name].is_valid().to_numpy()
            numbers[where] = pc.fill_null(pc.cast(batch[name], pa.int64(), safe=False), 0).to_numpy()
        return pa.array(numbers, mask=~valid)
    if pa.types.is_floating(arrow_type):
        return pa.array(read_numbers(dataset, name), from_pandas=True)
    digests = _Digests(len(dataset))
    is_text = pa.types.is_large_string(arrow_type) or pa.types.is_string(arrow_type)
    for where, batch in _batches(dataset, [name], _KEYS_PER_BATCH if is_text else _CONVERSATIONS_PER_BATCH):
        if is_text:
            encoded = batch[name].combine_chunks().dictionary_encode()
            distinct = [_digest(value) for value in encoded.dictionary.to_pylist()]
            digests.set(where, [*distinct, None], pc.fill_null(encoded.indices, -1).to_numpy())
        else:
            digests.set(where, [_digest(value) for value in batch[name].to_pylist()])
    return digests.to_arrow()


def _digest(value: Any) -> bytes | None:
    """128 bits: two of 50 million contents meet with a probability of about 4e-24."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return xxhash.xxh3_128_digest(text.encode())


def _densify(keys: pa.Array) -> Groups:
    encoded = keys.dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy()
    return Groups(codes.astype(np.int64), len(encoded.dictionary))
