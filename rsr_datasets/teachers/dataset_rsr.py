"""Rank-Surprisal Ratio of a dataset (arXiv:2601.14249, Eq. 9), or another metric of it, with a bootstrap interval."""

import json
import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from ..metrics import DEFAULT_METRICS, RSR, Metric, available_metrics, find_metric, ratio_of_means
from ..metrics.trajectory import FloatArray
from ..tables import arrays
from ..tables.columns import ScoreColumns
from ..tables.splits import require_dataset
from ..utils.deprecation import renamed_arguments
from ..utils.texts import dashed, interval

DEFAULT_RESAMPLES = 2000

_PARTS = [("upper", float), ("lower", float), ("tokens", float), ("scored", bool), ("truncated", bool)]
ROW = np.dtype(_PARTS, align=True)
_MAX_UNITS = 10_000
_CELLS_PER_CHUNK = 4_000_000


@dataclass(frozen=True)
class DatasetRSR:
    """Rank-Surprisal Ratio of a set of trajectories (Eq. 9), or another metric of it, and how sure it is.

    Attributes:
        value: The ratio of means; for another metric its own aggregate. NaN without a scored trajectory.
        low: Lower end of the bootstrap interval; NaN for fewer than two trajectories.
        high: Upper end of the interval.
        confidence: Coverage of the interval.
        num_trajectories: Trajectories with a score, truncated ones included.
        num_truncated: Trajectories that were scored on a part of their response.
        num_unscored: Rows without a score, which do not count; for another metric also rows where it is not defined.
        num_tokens: Scored tokens of all trajectories.
        metric: Name of the metric.
    """

    value: float
    low: float
    high: float
    confidence: float
    num_trajectories: int
    num_truncated: int
    num_unscored: int
    num_tokens: int
    metric: str = RSR

    @property
    def rsr(self) -> float:
        """Old name of ``value``."""
        warnings.warn("DatasetRSR.rsr is now called value", FutureWarning, stacklevel=2)
        return self.value

    @property
    def label(self) -> str:
        """The name of the value where it is shown."""
        return "RSR" if self.metric == RSR else self.metric

    def to_dict(self) -> dict[str, Any]:
        """The result as a JSON object; null for NaN."""
        return to_json(self)

    def __str__(self) -> str:
        found = f"{self.label} {dashed(self.value, '.3f')} {interval(self.low, self.high, '.3f')}"
        unscored = f", {self.num_unscored:,} rows without a score" if self.num_unscored else ""
        return f"{found} over {self.num_trajectories:,} trajectories{unscored}"


@renamed_arguments(by="group_by")
def dataset_rsr(
    dataset: Dataset,
    group_by: str | None = None,
    *,
    metric: str | Metric = RSR,
    confidence: float = 0.95,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    allow_mixed_settings: bool = False,
    column_prefix: str = "rsr",
) -> Any:
    """Rank-Surprisal Ratio of a dataset, or of each of its groups (Eq. 9), with a bootstrap interval.

    Args:
        dataset: Scored rows. Rows without a score are counted and left out; truncated ones are counted and stay in.
        group_by: Column of the groups, such as ``"teacher"``; ``None`` for the whole dataset.
        metric: The name of a metric whose column the scorer added. A ratio is aggregated as a ratio of means, any
            other metric as a mean.
        confidence: Coverage of the percentile interval over resampled trajectories, in (0, 1).
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.
        allow_mixed_settings: Average over scores of several students or settings.
        column_prefix: The scorer's ``column_prefix``.

    Returns:
        A :class:`DatasetRSR`; with ``group_by`` a dict of group to :class:`DatasetRSR` in order of first appearance.

    Raises:
        ValueError: If a column is missing, an argument is out of range, or the rows were scored with different
            settings.
        TypeError: If ``dataset`` is not a ``Dataset``.
    """
    require_dataset(dataset)
    require_confidence(confidence)
    columns = ScoreColumns(column_prefix)
    arrays.require_columns(dataset, [group_by] if group_by else [], columns)
    metric = find_metric(metric)
    scores, settings = read_scores(dataset, columns, metric)
    if not allow_mixed_settings:
        arrays.require_one_setting(columns, settings)

    def summarize(scores: npt.NDArray[Any]) -> DatasetRSR:
        scored = scores[scores["scored"]]
        draws = bootstrap(scored["upper"][:, None], scored["lower"][:, None], resamples, seed)
        return aggregate(scores, draws[:, 0], confidence, metric)

    if group_by is None:
        return summarize(scores)
    groups = arrays.read_categories(dataset, group_by)
    found = {name: scores[groups.codes == code] for code, name in [*enumerate(groups.values), (-1, None)]}
    return {name: summarize(rows) for name, rows in found.items() if rows.size}


def summarize_metrics(dataset: Dataset, columns: ScoreColumns) -> list[dict[str, Any]]:
    """The known further metrics that have a column, each aggregated in its own way over its ``defined`` rows."""
    rows = []
    for name, metric in available_metrics().items():
        column = columns.metric(name)
        if name not in DEFAULT_METRICS and column in dataset.column_names:
            scores, _ = read_scores(dataset, columns, metric)
            value, defined = value_of(scores), int(scores["scored"].sum())
            row = {"column": column, "formula": metric.formula, "direction": metric.direction}
            rows.append(row | {"value": value if math.isfinite(value) else None, "defined": defined})
    return rows


def read_scores(dataset: Dataset, columns: ScoreColumns, metric: Metric) -> tuple[npt.NDArray[Any], list[str]]:
    """Scores as an array of ``ROW`` (value: mean ``upper`` over mean ``lower``), and the distinct settings."""
    needed = [columns.avg_rank, columns.avg_surprisal, columns.num_tokens]
    arrays.require_columns(dataset, needed, columns)
    avg_rank, avg_surprisal, num_tokens = (arrays.read_numbers(dataset, name) for name in needed)
    values = avg_rank
    if metric.name != RSR:
        values = arrays.read_numbers(dataset, arrays.metric_column(dataset, metric.name, columns))
    scores = np.empty(len(dataset), ROW)
    scores["upper"], scores["lower"] = metric.parts(values, avg_rank, avg_surprisal)
    scores["tokens"] = np.nan_to_num(num_tokens)
    status = arrays.read_status(dataset, columns, avg_rank + avg_surprisal + scores["upper"] + scores["lower"])
    scores["scored"], scores["truncated"] = status.scored, status.truncated
    settings: list[str] = []
    if columns.settings in dataset.column_names:
        settings = arrays.read_categories(dataset, columns.settings).present(status.scored)
    return scores, settings


def bootstrap(upper: FloatArray, lower: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Ratios of sums over resampled units: ``(units, sets)`` to ``(resamples, sets)``; NaN without units."""
    rng = np.random.default_rng(seed)
    units, sets = upper.shape
    if not units:
        return np.full((resamples, sets), np.nan)
    sums = np.concatenate([upper, lower], axis=1)
    if units > _MAX_UNITS:  # random blocks of like size: the interval is as wide for less work
        block = rng.permutation(units) % _MAX_UNITS
        sums = np.stack([np.bincount(block, weights=column) for column in sums.T], axis=1)
        units = _MAX_UNITS
    step = max(1, _CELLS_PER_CHUNK // units)
    draws = []
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = rng.integers(units, size=(count, units)) + units * np.arange(count)[:, None]
        draws.append(np.bincount(drawn.ravel(), minlength=count * units).reshape(count, units) @ sums)
    totals = np.concatenate(draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        return totals[:, :sets] / totals[:, sets:]


def value_of(scores: npt.NDArray[Any]) -> float:
    """The metric's value over the rows that have a score."""
    scored = scores[scores["scored"]]
    return ratio_of_means(scored["upper"], scored["lower"])


def aggregate(scores: npt.NDArray[Any], draws: FloatArray, confidence: float, metric: Metric) -> DatasetRSR:
    """The result for some rows, with the interval of bootstrap draws, shape ``(resamples,)``."""
    scored = scores[scores["scored"]]
    low = high = math.nan
    if scored.size > 1:
        low, high = (float(np.nanquantile(draws, q)) for q in ((1 - confidence) / 2, (1 + confidence) / 2))
    counts = scored.size, int(scored["truncated"].sum()), scores.size - scored.size, int(scored["tokens"].sum())
    return DatasetRSR(value_of(scores), low, high, confidence, *counts, metric.name)


def require_confidence(confidence: float) -> None:
    """Checks that a coverage lies between 0 and 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must be between 0 and 1")


def to_json(result: Any) -> dict[str, Any]:
    """A result's fields as a JSON object; null for NaN and infinity."""
    return dict(json.loads(json.dumps(asdict(result)), parse_constant=lambda _: None))
