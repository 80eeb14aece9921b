"""Outcomes of rows to Arrow columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset, Features

from ..metrics import Metric, TrajectoryTokens, metric_values, trajectory_scores
from ..tables.columns import STATUSES_WITH_SCORE, ScoreColumns


@dataclass(frozen=True)
class ScoredRow:
    """One row's outcome: its status and arrays of shape ``(tokens,)``, which are ``None`` without a score."""

    status: str
    token_ids: npt.NDArray[np.int64] | None = None
    ranks: npt.NDArray[np.int32] | None = None  # exact
    surprisals: npt.NDArray[np.float32] | None = None  # in nats, as all that follow
    entropies: npt.NDArray[np.float32] | None = None  # this one and the next two where a metric needs them
    local_surprisals: npt.NDArray[np.float32] | None = None  # given few steps of context
    surprisals_without_prompt: npt.NDArray[np.float32] | None = None


def make_columns(
    outcomes: Sequence[ScoredRow],
    names: ScoreColumns,
    rank_clip: int,
    settings: str,
    token_columns: bool,
    metrics: Sequence[Metric],
) -> dict[str, pa.Array]:
    """Computes the scores of rows: column name to array, with the types of ``names.types(token_columns, metrics)``."""
    unscored = np.array([row.status not in STATUSES_WITH_SCORE for row in outcomes], dtype=bool)
    fields = {"token_ids": np.int32, "ranks": np.int32, "surprisals": np.float32, "entropies": np.float32}
    ids, ranks, surprisals, entropies = (
        np.concatenate([np.zeros(0, dtype), *(a for row in outcomes if (a := getattr(row, field)) is not None)])
        for field, dtype in fields.items()
    )
    lengths = [0 if row.ranks is None else row.ranks.size for row in outcomes]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    scores = trajectory_scores(ranks, surprisals, offsets, rank_clip)
    columns = {
        names.rsr: pa.array(scores.rsr, mask=unscored),
        names.avg_rank: pa.array(scores.avg_rank, mask=unscored),
        names.avg_surprisal: pa.array(scores.avg_surprisal, mask=unscored),
        names.num_tokens: pa.array(scores.num_tokens, pa.int32()),
        names.settings: pa.array([settings] * len(outcomes), pa.string()),
        names.status: pa.array([row.status for row in outcomes], pa.string()),
    }
    tokens = [_metric_tokens(row, rank_clip) for row in outcomes] if metrics else []
    for metric in metrics:
        values = metric_values(metric, tokens)
        columns[names.metric(metric.name)] = pa.array(values, pa.float64(), mask=np.isnan(values))
    lists = dict(zip((*names.token_types, names.token_entropies), (ids, ranks, surprisals, entropies), strict=True))
    for name, kind in names.types(token_columns, metrics).items():
        if name in lists:
            values = pa.array(lists[name], kind.value_type)
            mask = pa.array(unscored)
            columns[name] = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=kind, mask=mask)
    return columns


def _metric_tokens(row: ScoredRow, rank_clip: int) -> TrajectoryTokens | None:
    if row.ranks is None or row.surprisals is None:
        return None
    further = (row.entropies, row.local_surprisals, row.surprisals_without_prompt)
    floats = [None if values is None else values.astype(np.float64) for values in further]
    return TrajectoryTokens(row.ranks, row.surprisals.astype(np.float64), rank_clip, *floats)


def append_columns(table: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
    """Appends columns to a table, in place of those of the same names."""
    scored = table.drop_columns([name for name in columns if name in table.column_names])
    for name, column in columns.items():
        scored = scored.append_column(name, column)
    metadata = table.schema.metadata or {}
    if b"huggingface" in metadata:  # the types of the columns, which must not leave out the new ones
        types = {name: column.type for name, column in columns.items()}
        features = add_features(Features.from_arrow_schema(table.schema), types)
        scored = scored.replace_schema_metadata({**metadata, **features.arrow_schema.metadata})
    return scored


def add_features(features: Features, types: Mapping[str, pa.DataType]) -> Features:
    """Features of a dataset with further columns; those of the same names are replaced."""
    added = Features.from_arrow_schema(pa.schema(list(types.items())))
    return Features({name: kind for name, kind in features.items() if name not in added} | added)


def empty_dataset(features: Features) -> Dataset:
    """A dataset without rows: `datasets` 5.2 joins no columns to one."""
    return Dataset.from_dict({name: [] for name in features}, features)
