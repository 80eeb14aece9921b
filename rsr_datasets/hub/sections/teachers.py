"""The teachers: rows, shares and dataset-level RSR before and after the selections, as a table and a figure."""

import io
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from ...figures.plots import plot_teachers
from ...tables import arrays
from ...teachers.dataset_rsr import DatasetRSR, dataset_rsr
from ..markdown import finite
from ..provenance import Facts, as_mapping, score_prefixes

logger = logging.getLogger(__name__)

_MAX_TEACHERS = 50


def teachers(facts: Facts) -> dict[str, Any]:
    """The teachers of the largest split; ``None`` where no column names them."""
    split, part = max(facts.splits.items(), key=lambda item: len(item[1]))
    if facts.teacher_column not in part.column_names:
        return {"teachers": None}
    rows = {str(name): n for name, n in arrays.read_categories(part, facts.teacher_column).counts().items()}
    reports = [r for where, record in facts.steps if where == split and (r := as_mapping(record.get("report")))]
    before = _said(reports if facts.parallel else reports[:1], "teacher_rsr_before")
    share_before = {} if facts.parallel else _said(reports[:1], "teacher_share_before")
    after = _ratios(facts, part, reports)
    names = sorted(dict.fromkeys([*rows, *share_before, *before]), key=lambda name: -rows.get(name, 0))
    shown = {
        "split": split,
        "names": names[:_MAX_TEACHERS],
        "left_out": len(names[_MAX_TEACHERS:]),
        "rows": rows,
        "share_before": share_before,
        "before": before,
        "after": {name: result.value if isinstance(result, DatasetRSR) else result for name, result in after.items()},
        "figure": _draw(names[:40], before, after),
    }
    return {"teachers": shown}


def _draw(names: Sequence[str], *by_teacher: Mapping[str, DatasetRSR | float]) -> bytes | None:
    """The figure as PNG; ``None`` without any ratio, or without matplotlib."""
    drawn = [{name: ratios[name] for name in names if name in ratios} for ratios in by_teacher]
    if not any(drawn):
        return None
    try:
        figure = plot_teachers(*filter(None, drawn))
    except ImportError:
        logger.warning("the card has no figure, which needs matplotlib: pip install 'rsr_datasets[report]'")
        return None
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()


def _ratios(facts: Facts, part: Dataset, reports: Sequence[Mapping[str, Any]]) -> Mapping[str, DatasetRSR | float]:
    """The finite ratios of teachers now: from the scores that were selected by, or as the last report says."""
    present = score_prefixes(part)
    prefix = next((prefix for prefix in (*facts.said_by_rules("column_prefix"), *present) if prefix in present), None)
    if prefix is None:
        return _said(reports[-1:], "teacher_rsr_after")
    try:
        results = dataset_rsr(part, facts.teacher_column, column_prefix=prefix)
    except ValueError as error:
        logger.warning("the card has no ratio of each teacher: %s", error)
        return {}
    return {str(name): result for name, result in results.items() if finite(result.value) is not None}


def _said(reports: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """Numbers by teacher, of the teachers that only one report knows: parallel reports may contradict each other."""
    said = [(str(teacher), value) for report in reports for teacher, value in as_mapping(report.get(name)).items()]
    times = Counter(teacher for teacher, _ in said)
    return {teacher: value for teacher, value in said if times[teacher] == 1 and finite(value) is not None}
