"""Traits of rows that a score is compared with: numeric columns, turns, lengths of responses."""

import contextlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from scipy import stats

from ..metrics.trajectory import FloatArray
from ..reading.formats import FORMATS, TOKENIZED, RowFormat, find_format
from ..reading.messages import ASSISTANT_ROLES, Turns
from ..reading.split import response_text
from ..tables.arrays import ROWS_PER_BATCH, batches, read_categories, read_flags, read_numbers, read_rows
from .pool import BoolArray

_WRITTEN_BY_ASSISTANT = pa.array(ASSISTANT_ROLES)
_SAMPLE = 1_000
_SURELY = 0.01


def read_trait(dataset: Dataset, column: str) -> FloatArray:
    """Reads a numeric or boolean column; NaN for null."""
    if not pa.types.is_boolean(dataset.data.table.schema.field(column).type):
        return read_numbers(dataset, column)
    flags = read_categories(dataset, column)
    return np.array([*map(float, flags.values), np.nan])[flags.codes]


def read_correctness(dataset: Dataset, column: str) -> FloatArray:
    """Reads a boolean column as 1 and 0; NaN for null. A column of another type is a ``ValueError``."""
    read_flags(dataset, column)
    return read_trait(dataset, column)


def count_turns(dataset: Dataset, columns: Mapping[str, str] | None) -> FloatArray | None:
    """The assistant's messages of each row, NaN without any list of them; ``None`` where no column lists messages."""
    row_format = _format(dataset, columns)
    name = row_format.columns[FORMATS[row_format.kind][-1]] if row_format else ""
    kind = dataset.data.table.schema.field(name).type if name else pa.null()
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    fields = [f.name for f in kind.value_type] if is_list and pa.types.is_struct(kind.value_type) else []
    role = next((field for field in ("role", "from") if field in fields), None)
    if role is None:
        return None
    counts = np.zeros(len(dataset))
    for where, batch in batches(dataset, [name], 10 * ROWS_PER_BATCH):
        found = []
        for chunk in batch[name].chunks:
            roles = pc.utf8_lower(pc.struct_field(chunk.flatten(), role).cast(pa.string()))
            own = pc.fill_null(pc.is_in(roles, value_set=_WRITTEN_BY_ASSISTANT), False)
            sizes = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False)
            owners = np.repeat(np.arange(len(chunk)), sizes)
            turns = np.bincount(owners, own.to_numpy(zero_copy_only=False), minlength=len(chunk))
            found.append(np.where(chunk.is_null(), np.nan, turns))
        counts[where] = np.concatenate(found)
    return counts


def response_lengths(
    dataset: Dataset, unscored: BoolArray, turns: Turns, columns: Mapping[str, str] | None, seed: int
) -> tuple[float, float, bool] | None:
    """Median characters of rows without a score and of others, and whether they differ; ``None`` without text."""
    row_format = _format(dataset, columns)
    if row_format is None or row_format.kind == TOKENIZED or unscored.all() or not unscored.any():
        return None
    random = np.random.default_rng(seed)
    lengths = []
    for rows in (np.flatnonzero(unscored), np.flatnonzero(~unscored)):
        drawn = np.sort(random.permutation(rows)[:_SAMPLE])
        table = dataset.select(drawn).select_columns(row_format.names).with_format("arrow")[:]
        texts = [response_text(row, row_format, turns) or "" for row in read_rows(table, dataset.features)]
        lengths.append(np.array([len(text) for text in texts]))
    differ = bool(stats.mannwhitneyu(*lengths).pvalue < _SURELY)
    return float(np.median(lengths[0])), float(np.median(lengths[1])), differ


def _format(dataset: Dataset, columns: Mapping[str, str] | None) -> RowFormat | None:
    with contextlib.nullcontext() if columns else contextlib.suppress(ValueError):
        return find_format(dataset.column_names, columns)
    return None
