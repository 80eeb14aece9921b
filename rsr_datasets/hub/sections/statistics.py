"""Statistics: scores, metrics and statuses of each split."""

from typing import Any

import numpy as np

from ...metrics import ratio_of_means
from ...tables import arrays
from ...tables.columns import STATUSES_WITH_SCORE, ScoreColumns
from ...teachers.dataset_rsr import summarize_metrics
from ..markdown import finite
from ..provenance import Facts, score_prefixes


def statistics(facts: Facts) -> dict[str, Any]:
    """For each split and prefix the scores and statuses, and aggregates where all rows have the same settings."""
    rows = []
    for split, part in facts.splits.items():
        for prefix in score_prefixes(part):
            columns = ScoreColumns(prefix)
            one_setting = len(arrays.read_categories(part, columns.settings).values) == 1
            statuses = arrays.read_categories(part, columns.status)
            scored = statuses.among(STATUSES_WITH_SCORE)
            names = (columns.rsr, columns.avg_rank, columns.avg_surprisal, columns.num_tokens)
            ratios, ranks, surprisals, tokens = (arrays.read_numbers(part, name)[scored] for name in names)
            ratios = ratios[np.isfinite(ratios)]
            rows.append(
                {
                    "split": split,
                    "prefix": prefix,
                    "rows": len(part),
                    "scored": int(scored.sum()),
                    "tokens": int(np.nansum(tokens)),
                    "mean_tokens": float(np.nanmean(tokens)) if tokens.size else None,
                    "rsr": finite(ratio_of_means(ranks, surprisals)) if one_setting else None,
                    "quantiles": [*np.quantile(ratios, [0.05, 0.5, 0.95])] if ratios.size else [None] * 3,
                    "metrics": summarize_metrics(part, columns) if one_setting else [],
                    "statuses": statuses.counts(),
                }
            )
    return {"statistics": rows}
