"""A hash of what columns hold, whatever their layout in memory."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from .arrays import ROWS_PER_BATCH


def content_hash(table: pa.Table) -> str:
    """A 128-bit hash in hexadecimal; equal for equal names and values, however they are cut, sliced and laid out."""
    digest = xxhash.xxh3_128()
    for name in table.column_names:
        digest.update(f"{name}\n".encode())
        for start in range(0, table.num_rows, ROWS_PER_BATCH):
            _hash_array(pa.concat_arrays(table[name].slice(start, ROWS_PER_BATCH).chunks), digest)
    return digest.hexdigest()


def _hash_array(array: pa.Array, digest: xxhash.xxh3_128) -> None:
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    kind = array.type
    digest.update(f"{len(array)}:{len(array) - array.null_count}\n".encode())
    if array.null_count:
        digest.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        present = array.drop_null().cast(pa.large_binary())
        digest.update(pc.binary_length(present).to_numpy().tobytes())
        digest.update(b"".join(present.to_pylist()))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        digest.update(pc.list_value_length(array.drop_null()).to_numpy().tobytes())
        _hash_array(array.flatten(), digest)
    elif pa.types.is_struct(kind):
        for field, child in zip(kind, array.flatten(), strict=True):
            digest.update(f"{field.name}\n".encode())
            _hash_array(child, digest)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        digest.update(array.drop_null().to_numpy(zero_copy_only=False).tobytes())
    else:
        digest.update(repr(array.to_pylist()).encode())
