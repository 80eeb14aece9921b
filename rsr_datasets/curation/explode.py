"""One row per candidate, from one row per problem."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, LargeList, List

from ..reading.formats import FORMATS, find_format
from ..tables.arrays import require_columns
from ..tables.columns import ScoreColumns
from ..tables.splits import map_splits


def explode_candidates(dataset: Dataset | DatasetDict, column: str | Sequence[str]) -> Any:
    """Makes one row per candidate from a column that lists the candidates of a problem.

    Args:
        dataset: One row per problem; each split of a ``DatasetDict`` is treated by itself.
        column: The list column, or several that run in parallel, such as ``["generations", "is_correct"]``.

    Returns:
        One row per candidate in order, in which ``column`` holds the candidate and every other column is repeated.
        A problem whose list is empty or null keeps one row with a null candidate, which scoring marks as a bad row.

    Raises:
        ValueError: If a column is missing or no list, parallel lists of one row differ in length, or the rows keep
            columns that would be scored in place of the candidates.
        TypeError: If ``dataset`` is neither a ``Dataset`` nor a ``DatasetDict``.
    """
    names = [column] if isinstance(column, str) else list(column)
    if not names:
        raise ValueError("column=[]: name at least one list column")

    def explode(split: Dataset) -> Dataset:
        require_columns(split, names, ScoreColumns())
        features = split.features.copy()
        for name in names:
            if not isinstance(features[name], List | LargeList):
                raise ValueError(f"column {name!r} is {features[name]}; expected a list of candidates")
            features[name] = features[name].feature
        _refuse_other_responses(split.column_names, names)
        given: dict[str, Any] = {"with_indices": True, "fn_kwargs": {"names": names}, "features": features}
        exploded = split.with_format("arrow").map(
            _explode_batch, batched=True, batch_size=100, desc="Exploding candidates", **given
        )
        return exploded.with_format(**split.format)

    return map_splits(dataset, explode)


def _refuse_other_responses(column_names: Sequence[str], names: Sequence[str]) -> None:
    """A row that keeps one response, such as a column of messages, would have this scored for each candidate."""
    try:
        row_format = find_format(column_names)
    except ValueError:
        return
    if not {*names} & {*row_format.names}:
        response = row_format.columns[FORMATS[row_format.kind][-1]]
        raise ValueError(
            f"column {names[0]!r}: the rows keep the column {response!r}, which would be scored in place of the "
            f"candidates; explode dataset.remove_columns({response!r})"
        )


def _explode_batch(batch: pa.Table, indices: list[int], names: list[str]) -> pa.Table:
    lists = {name: batch[name].combine_chunks() for name in names}
    lengths = {name: np.asarray(array.value_lengths().fill_null(0)) for name, array in lists.items()}
    first = lengths[names[0]]
    for name in names[1:]:
        if (differing := np.flatnonzero(lengths[name] != first)).size:
            i = differing[0]
            raise ValueError(
                f"row {indices[i]}: column {name!r} lists {lengths[name][i]} candidates, {names[0]!r} {first[i]}"
            )
    rows_per_problem = np.maximum(first, 1)
    has_candidate = np.repeat(first > 0, rows_per_problem)
    children = pa.array(np.cumsum(has_candidate) - 1, mask=~has_candidate)
    repeated = batch.drop_columns(names).take(np.repeat(np.arange(len(batch)), rows_per_problem))
    columns = {name: array.flatten().take(children) for name, array in lists.items()}
    return pa.table({name: columns[name] if name in lists else repeated[name] for name in batch.column_names})
