"""Single columns of a dataset as NumPy arrays, read in batches: memory never holds a column of text."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Json, LargeList, List
from datasets.utils import tqdm

from ..utils.texts import did_you_mean
from .columns import PRUNED, STATUSES_WITH_SCORE, TRUNCATED, ScoreColumns

NUMBERS_PER_BATCH = 1_000_000
ROWS_PER_BATCH = 1_000
NO_VALUE = "no_value"  # in place of a status that says scored, where the value is null, NaN or infinite
_SHOWN_AFTER = 2.0


@dataclass(frozen=True)
class Categories:
    """A column of few distinct values, in order of first appearance; ``codes`` are indices into them, -1 for null."""

    codes: npt.NDArray[np.int32]
    values: list[Any]

    def among(self, chosen: Collection[Any]) -> npt.NDArray[np.bool_]:
        """Which rows have one of the values, bool, shape ``(rows,)``."""
        return np.array([*(value in chosen for value in self.values), False])[self.codes]

    def present(self, rows: npt.NDArray[Any]) -> list[Any]:
        """The values of some rows, without null, in order of first appearance in the column."""
        return [self.values[code] for code in np.unique(self.codes[rows]) if code >= 0]

    def counts(self, rows: Any = slice(None)) -> dict[Any, int]:
        """How many of some rows have each value, null (``None``) first, then in order of first appearance."""
        found = np.bincount(self.codes[rows] + 1, minlength=len(self.values) + 1)
        return {value: int(count) for value, count in zip([None, *self.values], found, strict=True) if count}


def require_columns(dataset: Dataset, names: Iterable[str], columns: ScoreColumns) -> None:
    """Checks that columns are there before anything is read; without score columns the dataset was never scored."""
    present = list(dataset.column_names)
    for name in names:
        if name not in present and name in columns.row_types:
            raise ValueError(
                f"the dataset was never scored: it has no column {name!r}, only {present}; "
                f"dataset.map(RSRScorer(student{columns.prefix_argument}), batched=True) adds it"
            )
        if name not in present:
            raise ValueError(f"no column {name!r}{did_you_mean(name, present)}; the dataset has {present}")


def metric_column(dataset: Dataset, metric: str, columns: ScoreColumns) -> str:
    """Finds the column of a metric; a ``ValueError`` says what adds a missing one."""
    column = columns.metric(metric)
    if column in columns.row_types:
        require_columns(dataset, [column], columns)
    if column not in dataset.column_names:
        raise ValueError(
            f"metric {metric!r}: no column {column!r}; RSRScorer(student, metrics=[{metric!r}]"
            f"{columns.prefix_argument}) adds it, and rescore(dataset, metrics=[{metric!r}]) where there are token "
            f"columns; the dataset has {list(dataset.column_names)}"
        )
    return column


def require_one_setting(columns: ScoreColumns, settings: Sequence[str]) -> None:
    """Checks that scores may be compared: that the distinct settings of their rows are not several."""
    if len(settings) > 1:
        shown = ", ".join(settings[:5]) + (", ..." if len(settings) > 5 else "")
        raise ValueError(
            f"column {columns.settings!r}: the rows to compare were scored with {len(settings)} different students or "
            f"settings ({shown}); score them alike, filter to one of these, or pass allow_mixed_settings=True"
        )


def read_numbers(dataset: Dataset, column: str) -> npt.NDArray[np.float64]:
    """Reads a numeric column; NaN for null. A column of another type is a ``ValueError``."""
    numbers = np.empty(len(dataset))
    for where, batch in batches(dataset, [column], NUMBERS_PER_BATCH):
        array = batch[column]
        if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_null(array.type)):
            raise ValueError(f"column {column!r} is {array.type}, not numeric; scores are compared as numbers")
        numbers[where] = pc.cast(array, pa.float64(), safe=False).to_numpy()
    return numbers


def read_present(dataset: Dataset, names: Iterable[str]) -> npt.NDArray[np.bool_]:
    """Whether none of some columns is null, bool, shape ``(rows,)``; no value is read."""
    present = np.ones(dataset.data.num_rows, dtype=bool)
    for name in names:
        present &= pc.is_valid(dataset.data.table[name]).to_numpy()
    return present if dataset._indices is None else present[dataset._indices.column(0).to_numpy()]


def read_flags(dataset: Dataset, column: str) -> npt.NDArray[np.bool_]:
    """Reads a boolean column; false for null. A column of another type is a ``ValueError``."""
    flags = np.empty(len(dataset), dtype=bool)
    for where, batch in batches(dataset, [column], NUMBERS_PER_BATCH):
        array = batch[column]
        if not (pa.types.is_boolean(array.type) or pa.types.is_null(array.type)):
            raise ValueError(f"column {column!r} is {array.type}, not boolean; cast it, e.g. with dataset.map")
        flags[where] = pc.fill_null(pc.cast(array, pa.bool_()), False).to_numpy()
    return flags


def read_categories(dataset: Dataset, column: str) -> Categories:
    """Reads a column of few distinct texts or numbers, a ``ClassLabel`` by its names; not of lists or dicts."""
    codes = np.empty(len(dataset), dtype=np.int32)
    known: dict[Any, int] = {}
    for where, batch in batches(dataset, [column], NUMBERS_PER_BATCH):
        if pa.types.is_nested(batch[column].type):
            raise ValueError(f"column {column!r} is {batch[column].type}; expected text or numbers")
        encoded = batch[column].combine_chunks().dictionary_encode()
        of_batch = [known.setdefault(value, len(known)) for value in encoded.dictionary.to_pylist()]
        codes[where] = np.array([*of_batch, -1], dtype=np.int32)[pc.fill_null(encoded.indices, -1)]
    in_order = pa.array(codes, mask=codes < 0).dictionary_encode()
    feature = dataset.features[column]
    values = [feature.int2str(value) if isinstance(feature, ClassLabel) else value for value in known]
    codes = pc.fill_null(in_order.indices, -1).to_numpy()
    return Categories(codes, [values[code] for code in in_order.dictionary.to_pylist()])


@dataclass(frozen=True)
class RowStatus:
    """The outcome of scoring rows; the arrays have the shape ``(rows,)``."""

    scored: npt.NDArray[np.bool_]  # on the whole response or, where truncated, on a part
    truncated: npt.NDArray[np.bool_]
    pruned: npt.NDArray[np.bool_]  # not read to the end by a selection
    unscored: dict[str, int]  # how many rows have no score, by status; NO_VALUE where the status promises a score


def read_status(dataset: Dataset, columns: ScoreColumns, values: npt.NDArray[np.float64] | None = None) -> RowStatus:
    """Reads the status column, if there is one. A row also needs a finite value, where ``values`` are given."""
    scored = np.ones(len(dataset), dtype=bool) if values is None else np.isfinite(values)
    if columns.status not in dataset.column_names:
        missing = int((~scored).sum())
        no_rows = np.zeros(len(dataset), dtype=bool)
        return RowStatus(scored, no_rows, no_rows, {NO_VALUE: missing} if missing else {})
    status = read_categories(dataset, columns.status)
    scored = scored & status.among(STATUSES_WITH_SCORE)
    unscored: dict[str, int] = {}
    for value, count in status.counts(~scored).items():
        name = NO_VALUE if value is None or value in STATUSES_WITH_SCORE else str(value)
        unscored[name] = unscored.get(name, 0) + count
    return RowStatus(scored, status.among([TRUNCATED]), status.among([PRUNED]), unscored)


def read_rows(table: pa.Table, features: Features) -> list[dict[str, Any]]:
    """Reads rows as decoded dicts, files of images, sounds and videos as dicts of their bytes and paths.

    A value with a ``Json`` part is JSON text, see :func:`as_json_text`.
    """
    names = table.column_names
    decoded = Features({name: _without_decoding(features[name]) for name in names}).decode_batch(table.to_pydict())
    decoded = {name: as_json_text(decoded[name], features[name]) for name in names}
    return [dict(zip(decoded, values, strict=True)) for values in zip(*decoded.values(), strict=True)]


def _without_decoding(feature: Any) -> Any:
    """A feature whose files stay as they are."""
    if isinstance(feature, dict):
        return {key: _without_decoding(part) for key, part in feature.items()}
    if isinstance(feature, List | LargeList):
        return replace(feature, feature=_without_decoding(feature.feature))
    return replace(feature, decode=False) if hasattr(feature, "decode") and not isinstance(feature, Json) else feature


def as_json_text(values: Sequence[Any], feature: Any) -> Sequence[Any]:
    """Decoded values of a column of type ``Json``, or with parts of this type, as JSON text, but for plain texts.

    The nulls of this text were in the data; those that Arrow fills in for missing keys are left out.
    """
    if "Json(" not in repr(feature):
        return values
    told = (_without_filled(value, feature) for value in values)
    return [
        value if isinstance(value, str | None) else json.dumps(value, ensure_ascii=False, default=str)
        for value in told
    ]


def _without_filled(value: Any, feature: Any) -> Any:
    if isinstance(feature, dict) and isinstance(value, Mapping):
        return {key: _without_filled(item, feature.get(key)) for key, item in value.items() if item is not None}
    if isinstance(feature, List | LargeList) and isinstance(value, list):
        return [_without_filled(item, feature.feature) for item in value]
    return value


def replace_column(dataset: Dataset, name: str, values: Any, feature: Any = None) -> Dataset:
    """Adds a column at the end, in place of one of the same name; without a feature its type is inferred."""
    kept = dataset.remove_columns(name) if name in dataset.column_names else dataset
    return kept.add_column(name, values, feature=feature)


def batches(
    dataset: Dataset, names: Sequence[str], size: int
) -> Iterator[tuple[slice | npt.NDArray[np.int64], pa.Table]]:
    """Some columns piece by piece with their rows, read once below an indices mapping, in the order of the table."""
    table = dataset.data.table.select(list(names))
    if dataset._indices is not None:
        indices = dataset._indices.column(0).to_numpy().astype(np.int64)
        rows = np.argsort(indices, kind="stable")
        indices = indices[rows]
    bar = tqdm(total=table.num_rows, desc=f"Reading {', '.join(names)}", unit="row", delay=_SHOWN_AFTER, leave=False)
    with bar:
        for start in range(0, table.num_rows, size):
            piece = table.slice(start, size)
            if dataset._indices is None:
                yield slice(start, start + size), piece
            else:
                first, end = np.searchsorted(indices, [start, start + size])
                if first < end:
                    yield rows[first:end], piece.combine_chunks().take(indices[first:end] - start)
            bar.update(piece.num_rows)
