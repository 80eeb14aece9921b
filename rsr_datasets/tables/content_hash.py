"""A hash of what columns hold, whatever their layout in memory."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

_ROWS_AT_ONCE = 1_000


def content_hash(table: pa.Table) -> str:
    """A 128-bit hash of what a table holds, in hexadecimal.

    The same for equal values, however they are cut into chunks, sliced, or laid out in memory.

    Args:
        table: Columns of any types; their names and order count.
    """
    digest = xxhash.xxh3_128()
    for name in table.column_names:
        digest.update(f"{name}\n".encode())
        for start in range(0, table.num_rows, _ROWS_AT_ONCE):
            piece = table[name].slice(start, _ROWS_AT_ONCE)
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
