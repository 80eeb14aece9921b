"""Weights for training on all candidates of a problem, the more suitable ones more (a softmax over their scores)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
from datasets import Dataset, DatasetDict

from ..metrics import find_metric
from ..reading.messages import Turns
from ..tables import arrays
from ..tables.columns import STATUSES_WITH_SCORE, ScoreColumns
from ..tables.records import append_record
from .prompts import group_rows, groups_by_conversation

logger = logging.getLogger(__name__)


def mixture_weights(
    dataset: Dataset | DatasetDict,
    group_by: str | Sequence[str],
    temperature: float = 1.0,
    *,
    metric: str = "rsr",
    weight_column: str = "mixture_weight",
    allow_mixed_settings: bool = False,
    column_prefix: str = "rsr",
    turns: Turns = "all",
    columns: Mapping[str, str] | None = None,
) -> Dataset | DatasetDict:
    """Adds a weight to each row: a softmax over the negative RSR of the candidates of its problem.

    The weights of a problem sum to 1. A row without a score, or without a key, has the weight 0, which weighted
    training can take as it is; a problem of which no row has a score has no weight at all, and is logged.

    Args:
        dataset: Scored rows; each split of a ``DatasetDict`` is treated by itself.
        group_by: The column that tells problems apart, or several. ``"prompt"`` is the column of that name, or, where
            there is none, the conversation before the first scored turn.
        temperature: Positive; scores are divided by it. Towards 0 the best candidate takes all the weight, towards
            infinity all candidates share it.
        metric: What to weigh by: the name of a metric whose column the scorer added. Its direction decides the sign.
        weight_column: The column to add, float64; one of that name is replaced.
        allow_mixed_settings: Compare scores of several students or settings.
        column_prefix: The scorer's ``column_prefix``.
        turns: For ``group_by="prompt"`` without such a column: which assistant turns were scored.
        columns: For the same: standard column name to actual name, as given to the scorer.

    Returns:
        The same rows with the column, the rule added to the provenance records.

    Raises:
        ValueError: If a column is missing or of the wrong type, ``temperature`` is not positive, or the rows were
            scored with different settings.
        TypeError: If ``dataset`` is neither a ``Dataset`` nor a ``DatasetDict``.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature={temperature}: must be a positive number")
    keys = [group_by] if isinstance(group_by, str) else list(group_by)
    if not keys:
        raise ValueError("group_by=[]: name at least one column")
    names = ScoreColumns(column_prefix)
    chosen = find_metric(metric)
    if weight_column in keys or names.is_score(weight_column):
        raise ValueError(f"weight_column={weight_column!r}: the column is read; give another name")

    def weigh(split: Dataset) -> Dataset:
        column = arrays.metric_column(split, chosen.name, names)
        arrays.require_columns(split, [] if groups_by_conversation(split, keys) else keys, names)
        groups = group_rows(split, keys, turns, columns)
        values = arrays.read_numbers(split, column)
        counts = np.isfinite(values) & (groups.codes >= 0)
        if names.status in split.column_names:
            counts &= arrays.read_categories(split, names.status).among(STATUSES_WITH_SCORE)
        if names.settings in split.column_names and not allow_mixed_settings:
            arrays.require_one_setting(names, arrays.read_categories(split, names.settings).present(counts))
        rows = np.flatnonzero(counts)
        codes = groups.codes[rows]
        sign = -1.0 if chosen.direction == "lower" else 1.0
        scores = sign * values[rows] / temperature
        best = np.full(groups.count, -np.inf)
        np.maximum.at(best, codes, scores)
        shares = np.exp(scores - best[codes])
        totals = np.bincount(codes, weights=shares, minlength=groups.count)
        if without := int((totals == 0).sum()):
            logger.warning("%d of %d groups have no scored row: no weight is in them", without, groups.count)
        weights = np.zeros(len(split))
        weights[rows] = shares / totals[codes]
        kept = split.remove_columns(weight_column) if weight_column in split.column_names else split
        weighed = kept.add_column(weight_column, weights)
        rule = {
            "group_by": group_by if isinstance(group_by, str) else keys,
            "temperature": temperature,
            "metric": chosen.name,
            "weight_column": weight_column,
            "column_prefix": names.prefix,
            "turns": turns,
            "columns": dict(columns) if columns else None,
        }
        return append_record(weighed, {"step": "mixture_weights", "rule": rule})

    if isinstance(dataset, DatasetDict):
        return DatasetDict({name: weigh(split) for name, split in dataset.items()})
    if not isinstance(dataset, Dataset):
        raise TypeError(f"expected a Dataset or DatasetDict, found {type(dataset).__name__}")
    return weigh(dataset)
