"""Rows grouped by equal keys."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset

from .arrays import NUMBERS_PER_BATCH, ROWS_PER_BATCH, batches, read_numbers


@dataclass(frozen=True)
class Groups:
    """The group of each row, numbered in order of first appearance, -1 without a key, and the number of groups."""

    codes: npt.NDArray[np.int64]
    count: int

    def present(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which groups some rows, given by number, belong to, bool, shape ``(count,)``."""
        return np.isin(np.arange(self.count), self.codes[rows])


def group_by_columns(dataset: Dataset, names: Sequence[str]) -> Groups:
    """Groups rows by one or several columns, nested ones too; a row with a null or NaN among them is in no group."""
    groups = densify(_keys(dataset, names[0]))
    for name in names[1:]:
        other = densify(_keys(dataset, name))
        missing = (groups.codes < 0) | (other.codes < 0)
        groups = densify(pa.array(groups.codes * other.count + other.codes, mask=missing))
    return groups


def _keys(dataset: Dataset, name: str) -> pa.Array:
    """Numbers or digests that are equal where the column's values are; null for null and NaN."""
    arrow_type = dataset.data.table.schema.field(name).type
    if pa.types.is_integer(arrow_type) or pa.types.is_boolean(arrow_type):
        numbers = np.zeros(len(dataset), dtype=np.int64)
        valid = np.zeros(len(dataset), dtype=bool)
        for where, batch in batches(dataset, [name], NUMBERS_PER_BATCH):
            valid[where] = batch[name].is_valid().to_numpy()
            numbers[where] = pc.fill_null(pc.cast(batch[name], pa.int64(), safe=False), 0).to_numpy()
        return pa.array(numbers, mask=~valid)
    if pa.types.is_floating(arrow_type):
        return pa.array(read_numbers(dataset, name), from_pandas=True)
    return digests(dataset, [name], lambda batch: [digest(value) for value in batch[name].to_pylist()])


def digests(dataset: Dataset, names: Sequence[str], read: Callable[[pa.Table], list[bytes | None]]) -> pa.Array:
    """A 128-bit digest of each row, or null; ``read`` gives the digests of a few rows of some columns."""
    words = np.zeros((len(dataset), 2), dtype=np.uint64)
    for where, batch in batches(dataset, names, ROWS_PER_BATCH):
        found = b"".join(each or bytes(16) for each in read(batch))
        words[where] = np.frombuffer(found, dtype=np.uint64).reshape(-1, 2)
    valid = np.packbits(words.any(axis=1), bitorder="little")
    return pa.Array.from_buffers(pa.binary(16), len(words), [pa.py_buffer(valid), pa.py_buffer(words)])


def digest(value: Any) -> bytes | None:
    """128 bits: two of 50 million contents meet with a probability of about 4e-24."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return xxhash.xxh3_128_digest(text.encode())


def densify(keys: pa.Array) -> Groups:
    """Numbers keys in order of first appearance; null belongs to no group."""
    encoded = keys.dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy()
    return Groups(codes.astype(np.int64), len(encoded.dictionary))


def runs(in_order: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The places at which the run of equal values of each of some sorted values begins, and after which it ends."""
    first = np.flatnonzero(np.append(True, in_order[1:] != in_order[:-1])[: in_order.size])
    sizes = np.diff(np.append(first, in_order.size))
    return np.repeat(first, sizes), np.repeat(first + sizes, sizes)


def order_within(codes: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The rows group after group, in a group by value, equal ones in their order; two sorts of one key each."""
    rank = np.empty(values.size, dtype=np.int64)
    rank[np.argsort(values, kind="stable")] = np.arange(values.size)
    return np.argsort(codes * values.size + rank)
