"""Statistics: scores, metrics and statuses of each split."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset

from ...metrics import ratio_of_means
from ...tables import arrays
from ...tables.columns import SCORED, STATUSES_WITH_SCORE, ScoreColumns
from ...teachers.dataset_rsr import summarize_metrics
from ..facts import Facts, score_prefixes
from ..markdown import finite


def statistics(facts: Facts) -> dict[str, Any]:
    """For each split and prefix the scores, the further metrics, and the statuses where rows have no score."""
    values: dict[str, Any] = {"statistics": [], "metrics": [], "statuses": []}
    for split, part in facts.splits.items():
        for prefix in score_prefixes(part):
            columns = ScoreColumns(prefix)
            where = {"split": split, "prefix": prefix}
            one_setting = len(arrays.read_categories(part, columns.settings).values) == 1
            values["statistics"].append(where | _scores(part, columns, one_setting))
            if one_setting:
                values["metrics"] += [where | row for row in summarize_metrics(part, columns)]
            counts = arrays.read_categories(part, columns.status).counts()
            if counts.keys() - {SCORED, None}:
                values["statuses"].append(where | {"counts": counts})
    return values


def _scores(part: Dataset, columns: ScoreColumns, one_setting: bool) -> dict[str, Any]:
    scored = arrays.read_categories(part, columns.status).among(STATUSES_WITH_SCORE)
    names = (columns.rsr, columns.avg_rank, columns.avg_surprisal, columns.num_tokens)
    ratios, ranks, surprisals, tokens = (arrays.read_numbers(part, name)[scored] for name in names)
    ratios = ratios[np.isfinite(ratios)]
    low, median, high = np.quantile(ratios, [0.05, 0.5, 0.95]) if ratios.size else [None] * 3
    return {
        "rows": len(part),
        "scored": int(scored.sum()),
        "tokens": int(np.nansum(tokens)),
        "mean_tokens": float(np.nanmean(tokens)) if tokens.size else None,
        "rsr": finite(ratio_of_means(ranks, surprisals)) if one_setting else None,
        "low": low,
        "median": median,
        "high": high,
    }
