"""Columns: name, type and meaning of each."""

from __future__ import annotations

import re
from typing import Any

from ...metrics import DEFAULT_METRICS, available_metrics
from ...tables.columns import ScoreColumns
from ..facts import Facts, score_prefixes
from ..markdown import code

_SCORE_MEANINGS = {
    "rsr": "Rank-Surprisal Ratio: sum of clipped ranks over sum of surprisals; lower is better",
    "avg_rank": "average rank of the scored tokens, each clipped",
    "avg_surprisal": "average surprisal, nats per token",
    "num_tokens": "tokens scored",
    "settings": "hash of the student and the settings, then the rank clip",
    "status": "`scored`, `truncated` (scored on what fitted), or why there is no score",
    "token_ids": "ids of the scored tokens",
    "token_ranks": "their ranks, exact",
    "token_surprisals": "their surprisals in nats",
    "token_entropies": "entropies of the student's distribution there, in nats",
}


def columns(facts: Facts) -> dict[str, Any]:
    """The columns of the first split."""
    part = next(iter(facts.splits.values()))
    meanings = {facts.teacher_column: "who wrote the trajectory"}
    if facts.row_format:
        meanings |= dict.fromkeys(facts.row_format.names, "the trajectory, as the student read it")
    for prefix in score_prefixes(part):
        names = ScoreColumns(prefix)
        meanings |= {getattr(names, attribute): meaning for attribute, meaning in _SCORE_MEANINGS.items()}
        meanings |= {
            names.metric(name): f"{code(metric.formula)}; {metric.direction} is better"
            for name, metric in available_metrics().items()
            if name not in DEFAULT_METRICS
        }
    rows = [
        (name, re.sub(r"Value\('(\w+)'\)", r"\1", str(feature)), meanings.get(name, "as in the source"))
        for name, feature in part.features.items()
    ]
    return {"columns": rows}
