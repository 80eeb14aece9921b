"""Weights for training on all candidates of a problem, the more suitable ones more (a softmax over their scores)."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Value

from ..metrics import find_metric
from ..reading.messages import Turns
from ..tables.arrays import metric_column, replace_column
from ..tables.columns import ScoreColumns
from ..tables.records import append_record
from ..tables.splits import map_splits
from .pool import Pool, SelectionOptions
from .prompts import group_problems

logger = logging.getLogger(__name__)


def mixture_weights(
    dataset: Dataset | DatasetDict,
    group_by: str | Sequence[str],
    temperature: float = 1.0,
    *,
    metric: str = "rsr",
    weight_column: str = "mixture_weight",
    keep_truncated: bool = False,
    allow_mixed_settings: bool = False,
    column_prefix: str = "rsr",
    turns: Turns = "all",
    columns: Mapping[str, str] | None = None,
) -> Any:
    """Adds a weight to each row: a softmax over the negative RSR of the candidates of its problem.

    The weights of a problem sum to 1. A row without a score, a truncated one, or one without a key has the weight 0;
    problems in which no row counts are logged.

    Args:
        dataset: Scored rows; each split of a ``DatasetDict`` is treated by itself.
        group_by: The column that tells problems apart, or several. ``"prompt"`` is the column of that name, or, where
            there is none, the conversation before the first scored turn.
        temperature: Positive; divides scores. Near 0 the best candidate has all the weight; high ones level weights.
        metric: Name of a metric whose column the scorer added. Its direction decides the sign.
        weight_column: The column to add, float64. A float64 column of that name is replaced, no other.
        keep_truncated: Weigh rows too that were scored on a part of their response alone.
        allow_mixed_settings: Compare scores of several students or settings.
        column_prefix: The scorer's ``column_prefix``.
        turns: For ``group_by="prompt"`` without such a column: which assistant turns were scored.
        columns: For the same: names of input columns, standard name first, as given to the scorer.

    Returns:
        The same rows with the column, the rule added to the provenance records.

    Raises:
        ValueError: If a column is missing or of the wrong type, ``temperature`` is not positive, ``weight_column``
            is a column of something else, or the rows were scored with different settings.
        TypeError: If ``dataset`` is neither a ``Dataset`` nor a ``DatasetDict``.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature={temperature}: must be a positive number")
    names, chosen = ScoreColumns(column_prefix), find_metric(metric)
    shared: dict[str, Any] = {"keep_truncated": keep_truncated, "allow_mixed_settings": allow_mixed_settings}
    keys = [group_by] if isinstance(group_by, str) else list(group_by)
    rule = {
        "group_by": group_by if isinstance(group_by, str) else keys,
        "temperature": temperature,
        "metric": chosen.name,
        "weight_column": weight_column,
        "keep_truncated": keep_truncated,
        "column_prefix": names.prefix,
        "turns": turns,
        "columns": dict(columns) if columns else None,
    }

    def weigh(split: Dataset) -> Dataset:
        present = split.features.get(weight_column, Value("float64"))
        if weight_column in keys or names.is_score(weight_column) or present != Value("float64"):
            raise ValueError(f"weight_column={weight_column!r}: a column of something else; give another name")
        compared = metric_column(split, chosen.name, names)
        pool = Pool(split, SelectionOptions(metric=compared, column_prefix=column_prefix, **shared))
        groups, _ = group_problems(split, group_by, turns, columns)
        pool.drop(groups.codes < 0, "no_group")
        pool.drop_by_score()
        rows = np.flatnonzero(pool.open)
        codes = groups.codes[rows]
        logits = -pool.scores[rows] / temperature
        best = np.full(groups.count, -np.inf)
        np.maximum.at(best, codes, logits)
        shares = np.exp(logits - best[codes])
        totals = np.bincount(codes, weights=shares, minlength=groups.count)
        if without := int((totals == 0).sum()):
            logger.warning("%d of %d groups have no scored row that counts: no weight", without, groups.count)
        weights = np.zeros(len(split))
        weights[rows] = shares / totals[codes]
        weighed = replace_column(split, weight_column, weights)
        return append_record(weighed, {"step": "mixture_weights", "rule": rule})

    return map_splits(dataset, weigh)
