"""JSON files as they are: lines or one list, compressed or not, with column types that hold every row of the file.

The loader of ``datasets`` takes the types from the first 10 MB, reads texts such as "42" beside lists as numbers, and
texts such as "2024-01-01" as times.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from datasets import ArrowBasedBuilder, Dataset, DatasetInfo, Features, Json, List, Split, SplitGenerator, Value
from datasets.builder import Key
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.features.features import get_nested_type

from .merging import as_json, merge

_BATCH_SIZE = 8 << 20
_BLOCK_SIZE = 1 << 20
_BETWEEN_ITEMS = re.compile(r"\s*[\[,]?\s*")
_SPACE = re.compile(r"\s*")
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def _integer(digits: str) -> int | str:
    """An integer, or its digits where 64 bits cannot hold it."""
    value = int(digits) if len(digits) <= 20 else 2**63
    return value if -(2**63) <= value < 2**63 else digits


_DECODER = json.JSONDecoder(parse_int=_integer, parse_constant=lambda _: None)  # NaN is a missing value


def load_json(file: str) -> Dataset:
    """Reads a file into an Arrow file in the cache of ``datasets``, in batches, and maps that into memory.

    Objects with the same keys become structs, others ``Json``; a column of texts and numbers becomes text.

    Raises:
        ValueError: If the file is empty or broken, with the number of the line.
    """
    status = Path(file).stat()
    files = DataFilesList([str(Path(file).resolve())], [(str(status.st_mtime_ns), str(status.st_size))])
    builder = JsonRows(data_files=DataFilesDict({"train": files}), hash="1")
    builder.download_and_prepare()
    return builder.as_dataset(split="train")


class JsonRows(ArrowBasedBuilder):
    """Reads a JSON file twice: for the types, then for the values."""

    def _info(self) -> DatasetInfo:
        return DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[SplitGenerator]:
        file = Path(self.config.data_files["train"][0])
        columns: dict[str, Any] = {}
        for rows in _batches(file):
            for name in dict.fromkeys(chain.from_iterable(rows)):
                feature = _feature([row.get(name) for row in rows], True)
                columns[name] = merge(columns.get(name, Value("null")), feature, name, one_file=True)
        if not columns:
            raise ValueError(f"{file} is empty: it has no row")
        self.info.features = Features(columns)
        return [SplitGenerator(Split.TRAIN, {"files": [file]})]

    def _generate_tables(self, files: list[Path]) -> Iterator[tuple[Key, pa.Table]]:
        features = self.info.features
        for number, rows in enumerate(_batches(files[0])):
            columns = {name: _array([row.get(name) for row in rows], kind) for name, kind in features.items()}
            yield Key(0, number), pa.table(columns, schema=features.arrow_schema)


def _feature(values: list[Any], is_column: bool = False) -> Any:
    """The feature that holds values exactly; only a column may turn numbers beside texts into text."""
    kinds = {*map(type, values)} - {type(None)}
    present = [value for value in values if value is not None]
    if not kinds:
        return Value("null")
    if kinds == {dict} and present[0] and all(value.keys() == present[0].keys() for value in present):
        return {name: _feature([value[name] for value in present]) for name in present[0]}
    if kinds == {list}:
        return List(_feature([*chain.from_iterable(present)]))
    if kinds in ({str}, {bool}, {int}):
        return Value({str: "string", bool: "bool", int: "int64"}[kinds.pop()])
    if kinds <= {int, float}:
        return Value("float64")
    return Value("string") if is_column and kinds <= {str, int, float} else Json()


def _array(values: list[Any], feature: Any) -> pa.Array:
    """Values as an Arrow array of their feature."""
    if isinstance(feature, Json):
        return pa.array([as_json(value) for value in values], pa.json_())
    kind, missing = get_nested_type(feature), pa.array([value is None for value in values])
    if isinstance(feature, dict):
        children = [_array([value and value[name] for value in values], part) for name, part in feature.items()]
        return pa.StructArray.from_arrays(children, fields=[*kind], mask=missing)
    if isinstance(feature, List):
        ends = pa.array(accumulate((len(value or ()) for value in values), initial=0), pa.int32())
        items = _array([*chain.from_iterable(value for value in values if value)], feature.feature)
        return pa.ListArray.from_arrays(ends, items, type=kind, mask=missing)
    if kind == pa.string():
        values = [value if value is None or isinstance(value, str) else as_json(value) for value in values]
    return pa.array(values, kind)


def _batches(file: Path) -> Iterator[list[dict[str, Any]]]:
    """Rows of a file, some megabytes at a time."""
    rows, size = [], 0
    for row, characters in _rows(file):
        rows.append(row)
        size += characters
        if size >= _BATCH_SIZE:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _rows(file: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Rows of a file, each with the number of its characters."""
    try:
        with io.BufferedReader(pa.input_stream(str(file), compression="detect"), _BLOCK_SIZE) as stream:
            if stream.peek(3).startswith(codecs.BOM_UTF8):
                stream.read(3)
            opening = stream.peek().lstrip()
            is_list = opening.startswith(b"[")
            is_spread = opening.partition(b"\n")[0].rstrip().endswith((b"{", b"[", b",", b":"))
            items = _items(stream, is_list) if is_list or is_spread else _lines(stream)
            for line, row, text in items:
                if isinstance(row, str) and is_list:
                    row = {"text": row}
                if not isinstance(row, dict):
                    raise ValueError(f"line {line}: a row must be an object, found {text[:40]}")
                if _HALF_CHARACTER.search(text):
                    _check_characters(row, line)
                yield row, len(text)
    except (OSError, ValueError) as error:  # OSError: broken compression
        raise ValueError(f"cannot read {file}: {error}") from error


def _lines(stream: BinaryIO) -> Iterator[tuple[int, Any, str]]:
    """Number, value and text of each line."""
    for number, line in enumerate(stream, 1):
        if line.strip():
            text = _decode(line, number).strip()
            try:
                yield number, _DECODER.decode(text), text
            except json.JSONDecodeError as error:
                reason = f"line {number} is no whole JSON ({error.msg}, column {error.colno})"
                raise ValueError(f"{reason}; one object a line can be read, or one list of objects") from error
            except RecursionError as error:
                raise ValueError(f"line {number} is nested too deeply") from error


def _items(stream: BinaryIO, is_list: bool) -> Iterator[tuple[int, Any, str]]:
    """Line, value and text of each item of one list, or of objects over several lines; some megabytes at a time."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    text, start, line = "", 0, 1
    while True:
        begin = (_BETWEEN_ITEMS if is_list else _SPACE).match(text, start).end()  # type: ignore[union-attr]
        if is_list and text.startswith("]", begin):
            break
        try:
            value, end = _DECODER.raw_decode(text, begin)
        except json.JSONDecodeError as error:
            may_go_on = error.pos > len(text) - 16 or error.msg.startswith("Unterminated string")
            more = stream.read(max(_BLOCK_SIZE, len(text) - start)) if may_go_on else b""
            if not more:
                if begin == len(text) and not is_list:
                    return
                line += text.count("\n", start, error.pos)
                raise ValueError(f"line {line} is no whole JSON ({error.msg})") from error
            text, start = text[start:] + decode(more), 0
            continue
        line += text.count("\n", start, begin)
        yield line, value, text[begin:end]
        line += text.count("\n", begin, end)
        start = end
    if (text[begin + 1 :] + decode(stream.read(_BLOCK_SIZE))).strip():
        raise ValueError(f"line {line} has more after the end of the list")


def _check_characters(row: Any, line: int) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"line {line} has half a character, {error.object[error.start]!a}: cut or remove it"
        ) from error


def _decode(line: bytes, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"line {number} is not UTF-8: {error.reason} at byte {error.start}") from error
