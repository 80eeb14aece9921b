"""The reading of what ``map`` or a caller by hand gives to a scorer, and the form in which they take the columns."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

import multiprocess.process
import pyarrow as pa
from datasets import Features
from datasets.features.features import require_decoding
from datasets.formatting.formatting import LazyBatch, LazyDict

from ..reading.formats import FORMATS, TOKENIZED, RowFormat
from ..tables.arrays import as_json_text, read_rows
from .columns import append_columns

_OTHER_FORMATS = {"numpy", "torch", "pandas", "polars", "jax", "jaxlib", "tensorflow"}


class MapInput(NamedTuple):
    """Rows to score, with what was given beside them; ``give_back`` turns the new columns into the call's result."""

    rows: list[dict[str, Any]]
    row_format: RowFormat
    indices: Sequence[int] | None
    rank: int | None
    give_back: Callable[[Mapping[str, pa.Array]], pa.Table | dict[str, Any]]


def read_input(
    rows: Any, extra: tuple[Any, ...], caller: FrameType, find_format: Callable[[Iterable[str]], RowFormat]
) -> MapInput:
    """Reads the arguments of a scorer's call; ``caller``, the frame that made it, shows what only ``map`` knows."""
    module = caller.f_globals.get("__name__")
    _check_input(rows, extra, from_map=module == "datasets.arrow_dataset")
    if len(extra) == 1:
        extra = (None, *extra) if isinstance(extra[0], int) and _gives_rank(caller) else (*extra, None)
    indices, rank = extra or (None, None)
    indices = [indices] if isinstance(indices, int) else indices
    row_format = find_format(rows.column_names if isinstance(rows, pa.Table) else rows)
    read = partial(MapInput, row_format=row_format, indices=indices, rank=rank)
    if isinstance(rows, pa.Table):
        table = read_rows(rows.select(row_format.names), Features.from_arrow_schema(rows.schema))
        return read(table, give_back=partial(append_columns, rows))
    values = {name: _value(rows, name) for name in row_format.names}
    # A streamed row whose only column is an empty list looks like an empty batch: there the stream itself knows.
    stream = caller.f_locals.get("self") if module == "datasets.iterable_dataset" else None
    if isinstance(rows, LazyDict):
        batched, features = isinstance(rows, LazyBatch), Features.from_arrow_schema(rows.pa_table.schema)
    elif stream is not None:
        batched = getattr(stream, "batched", False)
        features = getattr(getattr(stream, "ex_iterable", None), "features", None) or {}
    else:
        batched, features = _is_batch(values, row_format), {}
    for name in values.keys() & features.keys():
        texts = as_json_text(values[name] if batched else [values[name]], features[name])
        values[name] = texts if batched else texts[0]
    lines = zip(*values.values(), strict=True) if batched else [values.values()]
    as_rows = [dict(zip(values, line, strict=True)) for line in lines]
    if isinstance(rows, LazyDict):
        # Map keeps the types of Arrow arrays in its own batch, also when every value is null. Returned lists lose
        # their types, and a returned table would make map forget remove_columns.
        return read(as_rows, give_back=lambda new: rows.update(new) or {})
    if batched:
        return read(as_rows, give_back=lambda new: {name: new[name].to_pylist() for name in new})
    return read(as_rows, give_back=lambda new: {name: new[name][0].as_py() for name in new})


def _value(rows: Mapping[str, Any], name: str) -> Any:
    """A column of a batch or the value of a row; files of images are not decoded, which could fail."""
    if not isinstance(rows, LazyDict) or name not in rows.keys_to_format:
        return rows[name]
    features = Features.from_arrow_schema(rows.pa_table.schema)
    if not require_decoding(features[name]):
        return rows[name]
    column = [row[name] for row in read_rows(rows.pa_table.select([name]), features)]
    return column if isinstance(rows, LazyBatch) else column[0]


def _is_batch(rows: Mapping[str, Any], row_format: RowFormat) -> bool:
    """Says whether a plain dict holds a sequence of values for each column, or one row's values."""
    if not all(isinstance(value, list | tuple) for value in rows.values()):
        return False
    for name in (row_format.columns[standard] for standard in FORMATS[row_format.kind]):
        first = next((item for item in rows[name] if item is not None), None)
        if row_format.kind == TOKENIZED and isinstance(first, int | float):
            return False  # a list of token ids: one row
        if isinstance(first, Mapping) and not all(isinstance(first.get(key), list) for key in first):
            return False  # a list of messages: one conversation
    lengths = {name: len(values) for name, values in rows.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns have different lengths: {lengths}; a batch has one value a row in each of them")
    return True


def _check_input(rows: Any, extra: tuple[Any, ...], from_map: bool) -> None:
    """Refuses formats and ``input_columns``, under which ``map`` hands over rows without their types."""
    # Map hands a plain dict only for a formatted dataset. With texts alone, the dict looks like that of a stream.
    plain = isinstance(rows, Mapping) and not isinstance(rows, LazyDict)
    modules = {type(value).__module__.split(".")[0] for value in (rows.values() if plain else [rows])}
    if (plain and from_map) or modules & _OTHER_FORMATS:
        raise ValueError(
            "the dataset has a format (numpy, torch, pandas, ...) that loses the types of the columns: score "
            'dataset.reset_format() (or with_format("arrow")) and set the format afterwards'
        )
    if not isinstance(rows, pa.Table | Mapping) or len(extra) > 2:
        raise ValueError(
            f"expected rows as a dict or a pa.Table, found {type(rows).__name__}: call map without input_columns=; "
            "columns of other names are given with RSRScorer(..., columns={...})"
        )


def _gives_rank(caller: FrameType | None) -> bool:
    """Says whether a single number is a rank: ``map`` knows; by hand it is one in a worker process."""
    while caller is not None:
        module, known = caller.f_globals.get("__name__"), caller.f_locals
        if module == "datasets.iterable_dataset" or (module == "datasets.arrow_dataset" and "with_rank" in known):
            return bool(known.get("with_rank"))
        caller = caller.f_back
    return multiprocess.process.parent_process() is not None
