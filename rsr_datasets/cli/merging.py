"""Datasets with different columns or types as one: types that hold the values of all, and values in these types."""

import json
import logging
from collections.abc import Mapping
from functools import partial
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, Json, LargeList, List, Value, concatenate_datasets
from datasets.features.features import get_nested_type
from datasets.fingerprint import Hasher
from filelock import FileLock

from ..reading.formats import find_format, needed_columns
from ..reading.unread import advice, columns_argument
from ..tables.arrays import ROWS_PER_BATCH
from ..tables.records import SCORE, read_records
from ..utils.texts import shorten, shorten_list

logger = logging.getLogger(__name__)

_MAY_BE_TEXT = ("messages", "conversations", "tools", "chat_template_kwargs")  # text is read as JSON there
_NULL = Value("null")


def concatenate(parts: Mapping[str, Dataset]) -> Dataset:
    """Joins the rows of named datasets, in order; a column that some of them lack is null in their rows.

    Raises:
        ValueError: If no type holds the values of a column; two datasets, the column and both types are named.
    """
    columns: dict[str, Any] = {}
    for name in sorted(parts):  # so that the order of the names decides nothing but the order of the rows
        for column, feature in parts[name].features.items():
            try:
                columns[column] = merge(columns.get(column, _NULL), feature, column)
            except TypeError as error:
                raise ValueError(_difference(parts, column)) from error
    features = Features(columns)
    splits = {str(part.split) for part in parts.values()}
    split = splits.pop() if len(splits) == 1 else None
    return concatenate_datasets([_conform(part, features) for part in parts.values()], split=split)


def require_one_format(parts: Mapping[str, Dataset], columns: Mapping[str, str]) -> None:
    """Checks that no dataset lacks the columns that are read of all together, since its rows could not be scored.

    Raises:
        ValueError: If one does; two datasets and their columns are named.
    """
    present = {name: _filled(part) for name, part in parts.items()}
    try:
        chosen = find_format(dict.fromkeys(chain.from_iterable(present.values())), columns)
    except ValueError:
        return  # scoring says why
    needed = needed_columns(chosen)
    lacking = [name for name in parts if not {*needed} <= {*present[name]}]
    if not lacking:
        return
    other = next((name for name in parts if name not in lacking), "another file")
    try:
        seen = " and ".join(find_format(present[lacking[0]]).names)
    except ValueError:
        seen = f"{shorten_list(present[lacking[0]])}{advice(present[lacking[0]])}"
    raise ValueError(
        f"files of different formats: {other} has {' and '.join(needed)}, {lacking[0]} has {seen}; score the files of "
        "each format in a run of their own (--output-dir runs/NAME) and give runs/* to the other commands"
    )


def warn_of_plain_texts(parts: Mapping[str, Dataset]) -> None:
    """Warns where some of several scored datasets were scored as plain text and others with the chat template."""
    plain: dict[str, dict[str, str]] = {}
    with_template = []
    for name, part in parts.items():
        scored = [record for record in read_records(part) if record.get("step") == SCORE]
        if not scored:
            continue
        try:
            found = find_format(_filled(part), (scored[-1].get("output") or {}).get("columns"))
        except ValueError:
            continue
        needed = needed_columns(found)
        if found.kind in ("prompt_completion", "text") and all(_is_text(part.features[column]) for column in needed):
            plain[name] = dict(zip(("user", "assistant"), needed, strict=True)) if len(needed) == 2 else {}
        else:
            with_template.append(name)
    if plain and with_template:
        name, names = next(iter(plain.items()))
        again = f"; score {name} again with {columns_argument(names)} into another folder" if names else ""
        logger.warning(
            "the texts of %s were scored without the chat template, those of %s with it: they do not compare%s",
            shorten_list(list(plain)),
            shorten_list(with_template),
            again,
        )


def _filled(part: Dataset) -> list[str]:
    """The columns that hold more than nulls."""
    return [column for column, kind in part.features.items() if kind != _NULL]


def merge(one: Any, other: Any, column: str | None = None, one_file: bool = False) -> Any:
    """Gives the feature that holds the values of two features.

    ``column`` is the name of a column, none for what is in it. In ``one_file``, structs with different keys are
    ``Json``, which tells a null from a missing key.

    Raises:
        TypeError: If two columns of different files hold values of different kinds.
    """
    if one == other or other == _NULL:
        return one
    if one == _NULL:
        return other
    if isinstance(one, Json) or isinstance(other, Json):
        return Json()
    if isinstance(one, dict) and isinstance(other, dict) and (not one_file or one.keys() == other.keys()):
        return {key: merge(one.get(key, _NULL), other.get(key, _NULL), None, one_file) for key in one | other}
    if isinstance(one, List | LargeList) and isinstance(other, List | LargeList):
        kind = LargeList if isinstance(one, LargeList) or isinstance(other, LargeList) else List
        return kind(merge(one.feature, other.feature, None, one_file))
    if isinstance(one, Value) and isinstance(other, Value):
        # Inside of columns an integer stays an integer, which a template writes without a point.
        is_exact = column is not None or one_file or ("float" in one.dtype) == ("float" in other.dtype)
        if is_exact and (wider := _wider(one.pa_type, other.pa_type, column)):
            return Features.from_arrow_schema(pa.schema([("", wider)]))[""]
    if column is None or one_file or (column in _MAY_BE_TEXT and (_is_text(one) or _is_text(other))):
        return Json()
    raise TypeError(f"{one} and {other}")


def as_json(value: Any) -> str | None:
    """A value as the text that a ``Json`` column holds."""
    return None if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _wider(one: pa.DataType, other: pa.DataType, column: str | None) -> pa.DataType | None:
    """The type of both; a column of texts and numbers is text, as the ids of problems are."""
    try:
        schemas = [pa.schema([("", kind)]) for kind in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowTypeError:
        text, number = (one, other) if _is_text(Value(str(one))) else (other, one)
        is_number = pa.types.is_integer(number) or pa.types.is_floating(number)
        return text if column and is_number and _is_text(Value(str(text))) else None


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _difference(parts: Mapping[str, Dataset], column: str) -> str:
    found = {name: parts[name].features[column] for name in sorted(parts) if column in parts[name].features}
    for pair in combinations(found, 2):
        try:
            merge(found[pair[0]], found[pair[1]], column)
        except TypeError:
            break
    types = " and ".join(f"{_shown(found[name])} in {name}" for name in pair)
    return f"column {column!r} is {types}: no type holds both; convert or rename one of them"


def _shown(feature: Any) -> str:
    return str(feature.dtype) if isinstance(feature, Value) else shorten(feature, 80)


def _conform(part: Dataset, features: Features) -> Dataset:
    """The dataset with these columns in this order, on disk; the process that comes first converts for all."""
    if list(part.features.items()) == list(features.items()):
        return part
    if not len(part):
        return Dataset(features.arrow_schema.empty_table(), DatasetInfo(part.info.description))
    folder = Path(datasets.config.HF_DATASETS_CACHE, "rsr_datasets")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{Hasher.hash([part._fingerprint, list(features.items())])}.arrow"
    with FileLock(f"{file}.lock"):
        convert = partial(_convert_rows, old=part.features, new=features)
        shape = {"batched": True, "batch_size": ROWS_PER_BATCH, "remove_columns": part.column_names}
        converted = part.with_format("arrow").map(convert, **shape, features=features, cache_file_name=str(file))
    return converted.with_format(None)


def _convert_rows(table: pa.Table, old: Features, new: Features) -> pa.Table:
    columns = []
    for name, feature in new.items():
        if name in old:
            columns.append(_convert(table[name].combine_chunks(), old[name], feature))
        else:
            columns.append(pa.nulls(len(table), get_nested_type(feature)))
    return pa.table(columns, schema=new.arrow_schema)


def _convert(array: pa.Array, old: Any, new: Any) -> pa.Array:
    """An array of one feature as an array of another one that :func:`merge` gave."""
    kind, missing = get_nested_type(new), array.is_null()
    if old == new:
        return array
    if old == _NULL:
        return pa.nulls(len(array), kind)
    if isinstance(new, Json):
        return pa.array([as_json(_plain(value, old)) for value in array.to_pylist()], pa.json_())
    if isinstance(new, dict):
        nothing = pa.nulls(len(array))
        children = [
            _convert(array.field(key) if key in old else nothing, old.get(key, _NULL), feature)
            for key, feature in new.items()
        ]
        return pa.StructArray.from_arrays(children, fields=[*kind], mask=missing)
    if isinstance(new, List | LargeList):
        is_large = isinstance(new, LargeList)
        lengths = array.value_lengths().fill_null(0).to_numpy()
        ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64() if is_large else pa.int32())
        items = _convert(array.flatten(), old.feature, new.feature)
        return (pa.LargeListArray if is_large else pa.ListArray).from_arrays(ends, items, type=kind, mask=missing)
    return array.cast(kind)


def _plain(value: Any, feature: Any) -> Any:
    """A value of an Arrow array as JSON has it: without the nulls that Arrow puts in place of missing keys."""
    if value is None or isinstance(feature, Json):
        return value and json.loads(value)
    if isinstance(feature, dict):
        return {key: _plain(value[key], part) for key, part in feature.items() if value[key] is not None}
    return [_plain(item, feature.feature) for item in value] if isinstance(feature, List | LargeList) else value
