"""Scores from token columns, without a student."""

from collections.abc import Sequence

import pyarrow as pa
from datasets import Dataset, DatasetDict, Value

from ..metrics import DEFAULT_RANK_CLIP, Metric, available_metrics, find_metrics, is_built_in
from ..tables.arrays import read_categories
from ..tables.columns import STATUSES_WITH_SCORE, ScoreColumns
from ..tables.splits import map_splits
from .columns import ScoredRow, append_columns, make_columns
from .settings import check_whole_number

_OF_ANSWER_CONFIDENCE = ("confidence_gain", "ascending_share")


def rescore(
    dataset: Dataset | DatasetDict,
    rank_clip: int = DEFAULT_RANK_CLIP,
    column_prefix: str = "rsr",
    metrics: Sequence[str | Metric] | None = None,
) -> Dataset | DatasetDict:
    """Recomputes the row columns from the token columns, without a student.

    Args:
        dataset: Scored with ``token_columns=True``.
        rank_clip: ``r_max`` of the new scores; the old one gives the same bits again.
        column_prefix: The prefix of the columns.
        metrics: Metrics to add a column for, as in :class:`RSRScorer`. Columns of known metrics are recomputed too.
            Built-in metrics of a second pass of the student do not depend on the clip; their columns stay.

    Returns:
        The dataset with the same columns and those of ``metrics``; ``rsr_settings`` says the new rank clip.

    Raises:
        ValueError: If ``rank_clip`` is not positive, a column is missing, a metric needs the student, or the clip
            changes and the dataset has a column of a metric that is not known.
        TypeError: For a streamed dataset; score it again instead.
    """
    check_whole_number("rank_clip", rank_clip)
    return map_splits(dataset, lambda split: _rescore_split(split, rank_clip, column_prefix, metrics))


def _rescore_split(
    dataset: Dataset, rank_clip: int, column_prefix: str, metrics: Sequence[str | Metric] | None
) -> Dataset:
    columns = ScoreColumns(column_prefix)
    needed = [*columns.token_types, columns.status, columns.settings]
    if missing := [name for name in needed if name not in dataset.column_names]:
        raise ValueError(
            f"rescore needs the columns {missing}; found {dataset.column_names}. "
            f"Score with RSRScorer(..., token_columns=True, column_prefix={column_prefix!r}) first"
        )
    asked = find_metrics(metrics)
    known = {"entropies"} if columns.token_entropies in dataset.column_names else set()
    for metric in asked:
        if lacking := sorted(set(metric.needs) - known):
            advice = f"score with RSRScorer(..., metrics=[{metric.name!r}], token_columns=True)"
            raise ValueError(f"metric {metric.name!r} needs {lacking}, which the token columns do not hold: {advice}")
    there = [m for name, m in available_metrics().items() if columns.metric(name) in dataset.column_names]
    again = tuple({m.name: m for m in (*find_metrics(m for m in there if set(m.needs) <= known), *asked)}.values())
    unclipped = [m.name for m in there if is_built_in(m) and "entropies" not in m.needs]  # these need a second pass
    right = {columns.metric(name) for name in (*_OF_ANSWER_CONFIDENCE, *unclipped, *(m.name for m in again))}
    floats = [name for name, kind in dataset.features.items() if kind == Value("float64")]
    others = [name for name in floats if name.startswith(f"{column_prefix}_")]
    stale = [name for name in others if name not in right | {*columns.row_types}]
    before = read_categories(dataset, columns.settings).values if stale else []
    if any(not settings.endswith(f"-{rank_clip}") for settings in before):
        reason = "their metrics cannot be computed here, so that they would keep the old clip"
        raise ValueError(f"columns {stale}: {reason}; register or pass the metrics (metrics=), or remove the columns")
    given = {"rank_clip": rank_clip, "prefix": column_prefix, "metrics": again}
    arrow = dataset.with_format("arrow")
    rescored: Dataset = arrow.map(_rescore_table, batched=True, fn_kwargs=given, desc="Rescoring")
    return rescored.with_format(**dataset.format)


def _rescore_table(table: pa.Table, rank_clip: int, prefix: str, metrics: Sequence[Metric]) -> pa.Table:
    columns = ScoreColumns(prefix)
    statuses = table[columns.status].to_pylist()
    for i, status in enumerate(statuses):
        if status in STATUSES_WITH_SCORE and not table[columns.token_ranks][i].is_valid:
            raise ValueError(
                f"column {columns.token_ranks!r}: null in a row with status {status!r} (row {i} of a batch): "
                "rows scored without token_columns=True cannot be rescored; drop them or score them again"
            )
    names = [name for name in (*columns.token_types, columns.token_entropies) if name in table.column_names]
    lists = (table[name] for name in names)
    arrays = [[one.values.to_numpy(zero_copy_only=False) if one.is_valid else None for one in each] for each in lists]
    outcomes = [ScoredRow(*values) for values in zip(statuses, *arrays, strict=True)]
    scored = make_columns(outcomes, columns, rank_clip, "", token_columns=False, metrics=metrics)
    settings = [text and f"{text.rpartition('-')[0]}-{rank_clip}" for text in table[columns.settings].to_pylist()]
    scored[columns.settings] = pa.array(settings, pa.string())
    order = dict.fromkeys([*table.column_names, *scored])
    return append_columns(table, scored).select(list(order))
