"""Columns: name, type and meaning of each."""

from __future__ import annotations

import re
from typing import Any

from ...metrics import available_metrics
from ...tables.columns import ScoreColumns
from ..facts import Facts, score_prefixes
from ..markdown import code

_PER_ROW = ("rsr", "avg_rank", "avg_surprisal", "num_tokens", "settings", "status")
_PER_TOKEN = ("token_ids", "token_ranks", "token_surprisals", "token_entropies")


def columns(facts: Facts) -> dict[str, Any]:
    """The columns of the first split; a meaning is a metric's formula or a name for which the template has a text."""
    part = next(iter(facts.splits.values()))
    meanings = {facts.teacher_column: "teacher"}
    meanings |= dict.fromkeys(facts.row_format.names if facts.row_format else (), "trajectory")
    for prefix in score_prefixes(part):
        names = ScoreColumns(prefix)
        for name, metric in available_metrics().items():
            meanings[names.metric(name)] = f"{code(metric.formula)}; {metric.direction} is better"
        meanings |= {getattr(names, attribute): attribute for attribute in (*_PER_ROW, *_PER_TOKEN)}
    rows = [
        (name, re.sub(r"Value\('(\w+)'\)", r"\1", str(feature)), meanings.get(name, "source"))
        for name, feature in part.features.items()
    ]
    return {"columns": rows}
