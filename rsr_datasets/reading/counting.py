"""How many images a data set shows, counted in Arrow."""

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from ..tables.arrays import ROWS_PER_BATCH, batches
from .formats import RowFormat
from .placeholders import IMAGE_BLOCKS


def count_images(dataset: Dataset, row_format: RowFormat) -> int:
    """Counts the blocks of images in messages or, where there is no such block, the images in the column ``images``.

    Blocks in messages that are JSON text are not counted.
    """
    column = row_format.columns.get("images")
    types = {name: dataset.data.table.schema.field(name).type for name in row_format.names if name != column}
    names = [name for name in types if pa.types.is_nested(types[name]) and (column or "image" in str(types[name]))]
    blocks = sum(_blocks(table[name]) for _, table in batches(dataset, names, ROWS_PER_BATCH) for name in names)
    if blocks or column is None:
        return blocks
    return sum(_values(table[column]) for _, table in batches(dataset, [column], ROWS_PER_BATCH))


def _blocks(array: pa.Array | pa.ChunkedArray) -> int:
    if isinstance(array, pa.ChunkedArray):
        return sum(map(_blocks, array.chunks))
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _blocks(array.flatten())
    if not pa.types.is_struct(array.type):
        return 0
    fields = dict(zip([field.name for field in array.type], array.flatten(), strict=True))
    kinds = fields.get("type")
    own = 0
    if kinds is not None and pa.types.is_string(kinds.type):
        own = pc.sum(pc.is_in(kinds, pa.array(IMAGE_BLOCKS))).as_py() or 0
    return own + sum(map(_blocks, fields.values()))


def _values(array: pa.ChunkedArray) -> int:
    is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    return int(pc.sum(pc.list_value_length(array)).as_py() or 0) if is_list else len(array) - array.null_count
