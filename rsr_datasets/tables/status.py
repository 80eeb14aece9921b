"""Which rows of a scored dataset have a score, and why the others have none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from .arrays import read_categories
from .columns import STATUSES_WITH_SCORE, TRUNCATED, ScoreColumns

NO_VALUE = "no_value"
"""In place of a status: the status column says scored, and the value is null, NaN or infinite."""


@dataclass(frozen=True)
class RowStatus:
    """The outcome of scoring rows; the arrays have the shape ``(rows,)``."""

    scored: npt.NDArray[np.bool_]  # on the whole response or, where truncated, on a part
    truncated: npt.NDArray[np.bool_]
    unscored: dict[str, int]  # how many rows have no score, by status; NO_VALUE where the status promises a score


def read_status(dataset: Dataset, columns: ScoreColumns, values: npt.NDArray[np.float64] | None = None) -> RowStatus:
    """Reads the status column, if there is one. A row also needs a finite value, where ``values`` are given."""
    scored = np.ones(len(dataset), dtype=bool) if values is None else np.isfinite(values)
    if columns.status not in dataset.column_names:
        missing = int((~scored).sum())
        return RowStatus(scored, np.zeros(len(dataset), dtype=bool), {NO_VALUE: missing} if missing else {})
    status = read_categories(dataset, columns.status)
    scored = scored & status.among(STATUSES_WITH_SCORE)
    unscored: dict[str, int] = {}
    for value, count in status.counts(~scored).items():
        name = NO_VALUE if value is None or value in STATUSES_WITH_SCORE else str(value)
        unscored[name] = unscored.get(name, 0) + count
    return RowStatus(scored, status.among([TRUNCATED]), unscored)
