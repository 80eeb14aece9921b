"""Correlation of a metric with post-training performance across teachers (paper, Table 4)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from ..metrics.trajectory import FloatArray

Values = Sequence[float] | Mapping[str, float]


@dataclass(frozen=True)
class Correlation:
    """Signed ``spearman`` and ``pearson`` coefficients of a metric with performance across teachers, by student."""

    spearman: dict[str, float]
    pearson: dict[str, float]

    @property
    def average_spearman(self) -> float:
        """Absolute value of the mean of the signed Spearman coefficients, as the paper averages."""
        return abs(float(np.mean(list(self.spearman.values()))))

    @property
    def average_pearson(self) -> float:
        """Absolute value of the mean of the signed Pearson coefficients, as the paper averages."""
        return abs(float(np.mean(list(self.pearson.values()))))

    def to_dict(self) -> dict[str, Any]:
        """Coefficients and averages as a JSON object."""
        return asdict(self) | {name: getattr(self, name) for name in ("average_spearman", "average_pearson")}

    def __str__(self) -> str:
        rows = [(student, spearman, self.pearson[student]) for student, spearman in self.spearman.items()]
        rows.append(("average", self.average_spearman, self.average_pearson))
        width = max(len(name) for name, *_ in rows)
        lines = [f"{name:<{width}}  {spearman:>8.3f}  {pearson:>7.3f}" for name, spearman, pearson in rows]
        return "\n".join([f"{'':<{width}}  Spearman  Pearson", *lines])


def correlation(metric: Mapping[str, Values] | Sequence[float], performance: Mapping[str, Values]) -> Correlation:
    """Correlates a metric with post-training performance across teachers, student by student (paper, Table 4).

    Args:
        metric: Student to the metric's value for each teacher, in one same order, or by teacher's name. A plain
            sequence is a metric that is the same for every student.
        performance: Student to the performance after training on each teacher, likewise.

    Returns:
        Signed coefficients per student; their averages are absolute values of signed means.

    Raises:
        ValueError: If students or teachers do not match, there are fewer than three teachers, or values are all the
            same or not finite.
    """
    by_student = metric if isinstance(metric, Mapping) else dict.fromkeys(performance, metric)
    if not performance or set(by_student) != set(performance):
        raise ValueError(f"metric has the students {sorted(by_student)}, performance {sorted(performance)}")
    pairs = {student: _aligned(by_student[student], outcome, student) for student, outcome in performance.items()}
    return Correlation(
        {student: float(stats.spearmanr(x, y).statistic) for student, (x, y) in pairs.items()},
        {student: float(stats.pearsonr(x, y).statistic) for student, (x, y) in pairs.items()},
    )


def _aligned(metric: Values, performance: Values, student: str) -> tuple[FloatArray, FloatArray]:
    if isinstance(metric, Mapping) and isinstance(performance, Mapping):
        if set(metric) != set(performance):
            found = f"metric has the teachers {sorted(metric)}, performance {sorted(performance)}"
            raise ValueError(f"student {student!r}: {found}")
        metric = [metric[teacher] for teacher in performance]
    x, y = (np.asarray(list(v.values()) if isinstance(v, Mapping) else v, dtype=float) for v in (metric, performance))
    if x.shape != y.shape or x.size < 3:
        counts = f"{x.size} metric values, {y.size} performances"
        raise ValueError(f"student {student!r}: {counts}; needs three or more pairs")
    for name, values in (("metric", x), ("performance", y)):
        if not np.isfinite(values).all() or np.ptp(values) == 0:
            found = f"the {name} values are all the same or not finite: {values.tolist()}"
            raise ValueError(f"student {student!r}: {found}")
    return x, y
