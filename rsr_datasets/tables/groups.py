"""Rows grouped by equal keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset

from .arrays import NUMBERS_PER_BATCH, batches, read_numbers

_KEYS_PER_BATCH = 20_000
_CONVERSATIONS_PER_BATCH = 1_000
_DIGEST_TYPE = np.dtype("V16")
_NO_DIGEST = bytes(16)


@dataclass(frozen=True)
class Groups:
    """Rows grouped by equal keys.

    Attributes:
        codes: Group of each row, numbered in order of first appearance, -1 without a key, int64, shape ``(rows,)``.
        count: Number of groups.
    """

    codes: npt.NDArray[np.int64]
    count: int

    def present(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which groups some rows, given by number, belong to, bool, shape ``(count,)``."""
        found = np.zeros(self.count, dtype=bool)
        found[self.codes[rows[self.codes[rows] >= 0]]] = True
        return found


def group_by_columns(dataset: Dataset, names: Sequence[str]) -> Groups:
    """Groups rows by the values of one or several columns, nested ones too.

    Args:
        dataset: The data set.
        names: The columns; a row belongs to no group where one of them is null or NaN.
    """
    groups = densify(_keys(dataset, names[0]))
    for name in names[1:]:
        other = densify(_keys(dataset, name))
        missing = (groups.codes < 0) | (other.codes < 0)
        groups = densify(pa.array(groups.codes * other.count + other.codes, mask=missing))
    return groups


class Digests:
    """A 128-bit digest of each row, or none."""

    def __init__(self, rows: int) -> None:
        self._bytes = np.zeros(rows, dtype=_DIGEST_TYPE)
        self._valid = np.zeros(rows, dtype=bool)

    def set(
        self, where: slice | npt.NDArray[np.int64], digests: Sequence[bytes | None], codes: Any = slice(None)
    ) -> None:
        """Sets the digests of some rows; ``codes`` picks each row's among ``digests``."""
        filled = b"".join(digest or _NO_DIGEST for digest in digests)
        self._bytes[where] = np.frombuffer(filled, dtype=_DIGEST_TYPE)[codes]
        self._valid[where] = np.array([digest is not None for digest in digests], dtype=bool)[codes]

    def to_arrow(self) -> pa.Array:
        """The digests as fixed-size binary; null for none."""
        validity = pa.py_buffer(np.packbits(self._valid, bitorder="little"))
        return pa.Array.from_buffers(
            pa.binary(_DIGEST_TYPE.itemsize), self._valid.size, [validity, pa.py_buffer(self._bytes)]
        )


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
    digests = Digests(len(dataset))
    is_text = pa.types.is_large_string(arrow_type) or pa.types.is_string(arrow_type)
    for where, batch in batches(dataset, [name], _KEYS_PER_BATCH if is_text else _CONVERSATIONS_PER_BATCH):
        if is_text:
            encoded = batch[name].combine_chunks().dictionary_encode()
            distinct = [digest(value) for value in encoded.dictionary.to_pylist()]
            digests.set(where, [*distinct, None], pc.fill_null(encoded.indices, -1).to_numpy())
        else:
            digests.set(where, [digest(value) for value in batch[name].to_pylist()])
    return digests.to_arrow()


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
