"""Columns: name, type and meaning of each."""

import re
from typing import Any

from ...metrics import available_metrics
from ...tables.columns import ScoreColumns
from ..markdown import code
from ..provenance import Facts, score_prefixes


def columns(facts: Facts) -> dict[str, Any]:
    """The columns of the first split; a meaning is a metric's formula or a name for which the template has a text."""
    part = next(iter(facts.splits.values()))
    meanings = {facts.teacher_column: "teacher"}
    meanings |= dict.fromkeys((name for row_format in facts.row_formats for name in row_format.names), "trajectory")
    for prefix in score_prefixes(part):
        names = ScoreColumns(prefix)
        for name, metric in available_metrics().items():
            meanings[names.metric(name)] = f"{code(metric.formula)}; {metric.direction} is better"
        own = (*names.row_types, names.tokens_read, *names.token_types, names.token_entropies)
        meanings |= {name: name.removeprefix(f"{prefix}_") for name in own} | {names.rsr: "rsr"}
    rows = [
        (name, re.sub(r"Value\('(\w+)'\)", r"\1", str(feature)), meanings.get(name, "source"))
        for name, feature in part.features.items()
    ]
    return {"columns": rows}
