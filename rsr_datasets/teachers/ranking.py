"""Which teacher suits the student best: dataset-level RSR, rankings from samples, and the paper's correlations."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
from datasets import Dataset, DatasetDict, concatenate_datasets
from scipy import stats

from ..metrics import DEFAULT_METRICS, RSR, Metric, available_metrics, find_metric, ratio_of_means
from ..tables import arrays
from ..tables.columns import STATUSES_WITH_SCORE, TRUNCATED, ScoreColumns
from ..tables.groups import group_by_columns
from ..utils.html import table

logger = logging.getLogger(__name__)

DEFAULT_SAMPLE = 200
DEFAULT_RESAMPLES = 2000

# Adaptive sampling looks at the data after so many trajectories of each teacher, then after each growth by this.
_FIRST_LOOK = 20
_GROWTH = 1.4
_MAX_UNITS = 10_000
_CELLS_PER_CHUNK = 4_000_000

Stopped = Literal["certain", "budget"]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class DatasetRSR:
    """Rank-Surprisal Ratio of a set of trajectories (Eq. 9), or another metric of it, and how sure it is.

    Attributes:
        rsr: The ratio of means; for another metric its own aggregate. NaN without a scored trajectory.
        low: Lower end of the bootstrap interval; NaN for fewer than two trajectories.
        high: Upper end of the same.
        confidence: Coverage of the interval.
        num_trajectories: Trajectories with a score, truncated ones included.
        num_truncated: Those of them that were scored on a part of their response.
        num_unscored: Rows without a score, which do not count; for another metric those where it is not defined too.
        num_tokens: Scored tokens of all trajectories.
        metric: Name of the metric.
    """

    rsr: float
    low: float
    high: float
    confidence: float
    num_trajectories: int
    num_truncated: int
    num_unscored: int
    num_tokens: int
    metric: str = RSR

    @property
    def value(self) -> float:
        """The metric's value, whichever it is."""
        return self.rsr

    @property
    def label(self) -> str:
        """What the value is called where it is shown."""
        return "RSR" if self.metric == RSR else self.metric

    def to_dict(self) -> dict[str, Any]:
        """The result as a JSON object; null for NaN."""
        return _jsonable(asdict(self))

    def __str__(self) -> str:
        interval = f"[{self.low:.3f}, {self.high:.3f}]"
        return f"{self.label} {self.rsr:.3f} {interval} over {self.num_trajectories:,} trajectories"

    def _repr_html_(self) -> str:
        rows = {
            self.label: f"{self.rsr:.3f}",
            f"{self.confidence:.0%} interval": f"{self.low:.3f} – {self.high:.3f}",
            "trajectories": f"{self.num_trajectories:,}",
            "of them truncated": f"{self.num_truncated:,}",
            "rows without a score": f"{self.num_unscored:,}",
            "scored tokens": f"{self.num_tokens:,}",
        }
        caption = "Rank-Surprisal Ratio (lower is better)" if self.metric == RSR else self.metric
        return table(rows.items(), caption=caption)


@dataclass(frozen=True)
class RankedTeacher:
    """One teacher of a ranking.

    Attributes:
        teacher: Its name.
        score: Its RSR over the trajectories that were scored.
        dropped: Whether adaptive sampling ended early for it, because it could not be the best any more.
    """

    teacher: str
    score: DatasetRSR
    dropped: bool


@dataclass(frozen=True)
class TeacherRanking:
    """Teachers in order, the most suitable (lowest RSR, or the best in another metric) first.

    Attributes:
        teachers: The teachers in order; those dropped come after the others.
        order_confidence: For each teacher but the last, the share of bootstrap resamples in which its RSR is below
            that of the next one (its value better, for another metric): near 1 the order is sure, near 0.5 it is a
            coin flip.
        stopped: For adaptive sampling ``"certain"`` (the leader is within the tolerance of the best) or ``"budget"``
            (the sample was used up before that); ``None`` for a fixed sample.
        trajectories_scored: Trajectories that were looked at, those that turned out to have no score included.
        tokens_scored: Their scored tokens.
        fixed_trajectories: What the fixed sample takes.
        fixed_tokens: An estimate of its scored tokens, from the mean length of what was scored.
    """

    teachers: tuple[RankedTeacher, ...]
    order_confidence: tuple[float, ...]
    stopped: Stopped | None
    trajectories_scored: int
    tokens_scored: int
    fixed_trajectories: int
    fixed_tokens: int

    @property
    def best(self) -> str:
        """Name of the teacher in first place."""
        return self.teachers[0].teacher

    def to_dict(self) -> dict[str, Any]:
        """The ranking as a JSON object; null for NaN."""
        return _jsonable(asdict(self))

    def __str__(self) -> str:
        width = max(len(ranked.teacher) for ranked in self.teachers)
        lines = []
        for place, ranked in enumerate(self.teachers, 1):
            sure = f"  before the next: {self.order_confidence[place - 1]:.1%}" if place < len(self.teachers) else ""
            dropped = "  (dropped early)" if ranked.dropped else ""
            lines.append(f"{place:>3}  {ranked.teacher:<{width}}  {ranked.score}{sure}{dropped}")
        lines.append(
            f"scored {self.trajectories_scored:,} trajectories and {self.tokens_scored:,} tokens; "
            f"the fixed sample takes {self.fixed_trajectories:,} and about {self.fixed_tokens:,}"
        )
        if self.stopped:
            lines.append(f"stopped: {self.stopped}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for place, ranked in enumerate(self.teachers, 1):
            score = ranked.score
            sure = f"{self.order_confidence[place - 1]:.1%}" if place < len(self.teachers) else ""
            name = f"{ranked.teacher} (dropped early)" if ranked.dropped else ranked.teacher
            interval = f"{score.low:.3f} – {score.high:.3f}"
            rows.append((place, name, f"{score.rsr:.3f}", interval, f"{score.num_trajectories:,}", sure))
        stopped = f"; stopped: {self.stopped}" if self.stopped else ""
        caption = f"{self.trajectories_scored:,} trajectories and {self.tokens_scored:,} tokens scored{stopped}"
        head = ("", "teacher", self.teachers[0].score.label, "interval", "trajectories", "before the next")
        return table(rows, head=head, caption=caption)


@dataclass(frozen=True)
class Correlation:
    """Correlation of a metric with performance across teachers, for each student.

    Attributes:
        spearman: Student to signed Spearman coefficient.
        pearson: Student to signed Pearson coefficient.
    """

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
        averages = {"average_spearman": self.average_spearman, "average_pearson": self.average_pearson}
        return asdict(self) | averages

    def __str__(self) -> str:
        width = max(len("average"), *(len(student) for student in self.spearman))
        lines = [f"{'':<{width}}  Spearman  Pearson"]
        lines += [f"{s:<{width}}  {self.spearman[s]:>8.3f}  {self.pearson[s]:>7.3f}" for s in self.spearman]
        return "\n".join(
            [*lines, f"{'average':<{width}}  {self.average_spearman:>8.3f}  {self.average_pearson:>7.3f}"]
        )


@overload
def dataset_rsr(
    dataset: Dataset,
    by: None = None,
    *,
    metric: str | Metric = ...,
    confidence: float = ...,
    resamples: int = ...,
    seed: int = ...,
    allow_mixed_settings: bool = ...,
    column_prefix: str = ...,
) -> DatasetRSR: ...
@overload
def dataset_rsr(
    dataset: Dataset,
    by: str,
    *,
    metric: str | Metric = ...,
    confidence: float = ...,
    resamples: int = ...,
    seed: int = ...,
    allow_mixed_settings: bool = ...,
    column_prefix: str = ...,
) -> dict[Any, DatasetRSR]: ...
def dataset_rsr(
    dataset: Dataset,
    by: str | None = None,
    *,
    metric: str | Metric = RSR,
    confidence: float = 0.95,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    allow_mixed_settings: bool = False,
    column_prefix: str = "rsr",
) -> DatasetRSR | dict[Any, DatasetRSR]:
    """Rank-Surprisal Ratio of a data set, or of each of its groups (Eq. 9), with a bootstrap interval.

    The interval is the percentile interval over resampled trajectories. More than 10,000 trajectories are first put
    at random into 10,000 blocks of like size, which are then resampled: as wide, and the work stays the same.

    Args:
        dataset: Scored rows. Rows without a score are counted and left out; truncated ones are counted and stay in.
        by: Column of the groups, such as ``"teacher"``; ``None`` for the whole data set.
        metric: What to aggregate: the name of a metric whose column the scorer added. A ratio is aggregated as a ratio
            of means, any other metric as a mean.
        confidence: Coverage of the interval, in (0, 1).
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.
        allow_mixed_settings: Average over scores of several students or settings.
        column_prefix: The scorer's ``column_prefix``.

    Returns:
        A :class:`DatasetRSR`, or with ``by`` a dict of group to :class:`DatasetRSR` in order of first appearance.

    Raises:
        ValueError: If a column is missing, an argument is out of range, or the rows were scored with different
            settings.
        TypeError: If ``dataset`` is not a ``Dataset``.
    """
    _require_dataset(dataset)
    _require_confidence(confidence)
    columns = ScoreColumns(column_prefix)
    arrays.require_columns(dataset, [by] if by else [], columns)
    metric = find_metric(metric)
    scores, settings = _read_scores(dataset, columns, metric)
    if not allow_mixed_settings:
        arrays.require_one_setting(columns, settings)
    if by is None:
        return _summarize(scores, confidence, resamples, seed, metric)
    groups = arrays.read_categories(dataset, by)
    names = [*groups.values, *([None] if (groups.codes < 0).any() else [])]
    codes = np.where(groups.codes < 0, len(groups.values), groups.codes)
    return {
        name: _summarize(scores.take(codes == code), confidence, resamples, seed, metric)
        for code, name in enumerate(names)
    }


def summarize_metrics(dataset: Dataset, columns: ScoreColumns) -> list[dict[str, Any]]:
    """The known metrics beside the default ones that have a column, each aggregated in its own way.

    Args:
        dataset: Rows that were scored with one student and settings.
        columns: Their score columns.

    Returns:
        For each metric its ``column``, ``formula``, ``direction``, ``value`` over the rows where it is defined
        (``None`` where there are none), and the number of ``defined`` rows.
    """
    rows = []
    for name, metric in available_metrics().items():
        if name not in DEFAULT_METRICS and columns.metric(name) in dataset.column_names:
            scored = _read_scores(dataset, columns, metric)[0].scored
            value = ratio_of_means(scored.upper, scored.lower)
            rows.append(
                {
                    "column": columns.metric(name),
                    "formula": metric.formula,
                    "direction": metric.direction,
                    "value": value if math.isfinite(value) else None,
                    "defined": int(scored.upper.size),
                }
            )
    return rows


def rank_teachers(
    dataset_or_datasets: Dataset | Mapping[str, Dataset],
    *,
    teacher_column: str = "teacher",
    problem_column: str | None = None,
    metric: str = RSR,
    sample: int | None = DEFAULT_SAMPLE,
    seed: int = 0,
    scorer: Callable[..., Any] | None = None,
    adaptive: bool = False,
    confidence: float = 0.95,
    tolerance: float = 0.01,
    resamples: int = DEFAULT_RESAMPLES,
    allow_mixed_settings: bool = False,
    column_prefix: str = "rsr",
) -> TeacherRanking:
    """Ranks teachers by their dataset-level RSR over a sample of each one's trajectories (paper, section 5.2).

    With ``problem_column`` problems are drawn, the same for all teachers, those that most teachers answered first,
    and one trajectory of each; a further one of a problem only when all problems are in. The bootstrap then resamples
    problems, so that what a hard problem does to all teachers alike does not count as doubt about their order.

    ``adaptive=True`` scores in growing samples. A teacher is dropped once it is surely worse than the leader, and
    sampling ends once the leader's RSR over all its trajectories is surely within ``tolerance`` of the best. "Surely"
    holds at all looks together: the sizes at which it looks are fixed beforehand, and the error probability
    ``1 - confidence`` is divided evenly among those looks and the opponents of the best teacher (a union bound, valid
    however the looks depend on each other). Each bound is a one-sided t bound on the difference of two log ratios,
    whose variance is the linearised one of a ratio of means, clustered by problem, and shrunk for sampling without
    replacement; so it is exact when everything is scored, and before that relies on the central limit theorem, which
    clipped ranks, free of extreme outliers, serve well.

    Args:
        dataset_or_datasets: Rows of all teachers, or a mapping of teacher to its rows. They are scored already, or
            ``scorer`` scores what is sampled.
        teacher_column: Column with the teacher, for a single data set.
        problem_column: Column with the problem, alike in all data sets; ``None`` to sample rows independently.
        metric: What to rank by: the name of a metric whose column the scorer added or adds. Its direction decides
            which teacher is first. ``adaptive`` needs one of which lower values are better and positive.
        sample: Trajectories per teacher, with ``adaptive`` the most that are taken; ``None`` for all.
        seed: Seed of sampling and bootstrap.
        scorer: Scores rows inside ``map``, such as :class:`RSRScorer`; called on the sample alone.
        adaptive: Stop as soon as the best teacher is known well enough.
        confidence: Coverage of the intervals, and of the statement with which adaptive sampling stops, in (0, 1).
        tolerance: Relative difference in RSR from the best teacher that is accepted, at least 0.
        resamples: Bootstrap resamples.
        allow_mixed_settings: Compare scores of several students or settings.
        column_prefix: The ``column_prefix`` of the scores; that of ``scorer`` itself where it has one.

    Returns:
        The teachers in order. A teacher of which no trajectory could be scored is last, with NaN, and logged.

    Raises:
        ValueError: If a column is missing, an argument is out of range, there is no teacher, or the rows were scored
            with different settings.
        TypeError: If the first argument is neither a ``Dataset`` nor a plain mapping of them.
    """
    _require_confidence(confidence)
    if sample is not None and sample < 1:
        raise ValueError(f"sample={sample}: must be a positive number, or None for all")
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance}: must be at least 0")
    ranked_by = find_metric(metric)
    if adaptive and ranked_by.direction != "lower":
        raise ValueError(f"adaptive=True compares values of which lower is better; of {metric!r} higher is")
    columns = getattr(scorer, "score_columns", None) or ScoreColumns(column_prefix)
    score = _scoring_step(scorer, columns)
    sources = _read_sources(dataset_or_datasets, teacher_column, [problem_column] if problem_column else [])
    units = _units_of(sources, problem_column)
    orders = _sampling_orders(units, np.random.default_rng(seed))
    contestants = [
        _Contestant(
            name, dataset, rows[order], unit[order], min(sample or rows.size, rows.size), columns, score, ranked_by
        )
        for (name, dataset, rows), unit, order in zip(sources, units, orders, strict=True)
    ]
    budget = max(contestant.budget for contestant in contestants)
    stopped: Stopped | None = None
    if adaptive:
        stopped = _sample_adaptively(contestants, budget, confidence, tolerance, columns, allow_mixed_settings)
    else:
        _extend(contestants, budget, columns, allow_mixed_settings)
    return _ranking(contestants, stopped, confidence, resamples, seed, ranked_by)


def correlation(
    metric: Mapping[str, Sequence[float] | Mapping[str, float]] | Sequence[float],
    performance: Mapping[str, Sequence[float] | Mapping[str, float]],
) -> Correlation:
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
    spearman, pearson = {}, {}
    for student, outcome in performance.items():
        x, y = _aligned(by_student[student], outcome, student)
        spearman[student] = float(stats.spearmanr(x, y).statistic)
        pearson[student] = float(stats.pearsonr(x, y).statistic)
    return Correlation(spearman, pearson)


@dataclass(frozen=True)
class _Scores:
    """Scores of the rows of one data set; ``has_score`` tells which of them count.

    The metric's value over several rows is the mean of ``upper`` over the mean of ``lower``.
    """

    has_score: BoolArray
    truncated: BoolArray
    upper: FloatArray
    lower: FloatArray
    num_tokens: FloatArray

    @property
    def scored(self) -> _Scores:
        return _Scores(*(array[self.has_score] for array in self._arrays()))

    def take(self, rows: BoolArray | IntArray) -> _Scores:
        return _Scores(*(array[rows] for array in self._arrays()))

    def join(self, other: _Scores) -> _Scores:
        pairs = zip(self._arrays(), other._arrays(), strict=True)
        return _Scores(*(np.concatenate(pair) for pair in pairs))

    def _arrays(self) -> tuple[npt.NDArray[Any], ...]:
        return self.has_score, self.truncated, self.upper, self.lower, self.num_tokens


class _Contestant:
    """A teacher whose trajectories are scored as far as they are needed, in a fixed order."""

    def __init__(
        self,
        teacher: str,
        dataset: Dataset,
        rows: IntArray,
        units: IntArray,
        budget: int,
        columns: ScoreColumns,
        score: Callable[[Dataset], Dataset],
        metric: Metric,
    ) -> None:
        self.teacher = teacher
        self.budget = budget
        self.total = rows.size
        self.dropped = False
        self.taken = 0
        self._dataset = dataset
        self._rows = rows
        self._units = units
        self._columns = columns
        self._score = score
        self._metric = metric
        self.scores = _Scores(*np.empty((2, 0), dtype=bool), *np.empty((3, 0)))
        self.settings: set[str] = set()

    def extend(self, size: int) -> None:
        """Scores on until ``size`` trajectories or the budget."""
        end = min(size, self.budget)
        if end > self.taken:
            sample = self._dataset.select(self._rows[self.taken : end])
            scores, settings = _read_scores(self._score(sample), self._columns, self._metric)
            self.scores = self.scores.join(scores)
            self.settings.update(settings)
            self.taken = end

    @property
    def scored_units(self) -> IntArray:
        """Sampling unit of each trajectory with a score."""
        return self._units[: self.taken][self.scores.has_score]

    @property
    def rsr(self) -> float:
        return ratio_of_means(self.scores.scored.upper, self.scores.scored.lower)

    @property
    def influence(self) -> FloatArray:
        """What each trajectory with a score adds to the error of the log ratio."""
        scored = self.scores.scored
        return (scored.upper - self.rsr * scored.lower) / scored.upper.sum()


def _sample_adaptively(
    contestants: Sequence[_Contestant],
    budget: int,
    confidence: float,
    tolerance: float,
    columns: ScoreColumns,
    allow_mixed_settings: bool,
) -> Stopped:
    looks = _looks(budget)
    bounds_needed = max(1, len(looks) * (len(contestants) - 1))
    error = (1 - confidence) / bounds_needed
    alive = list(contestants)
    for size in looks:
        _extend(alive, size, columns, allow_mixed_settings)
        rivals = sorted((c for c in alive if math.isfinite(c.rsr)), key=lambda c: c.rsr)
        if not rivals:
            continue
        if rivals[0].rsr <= 0:
            raise ValueError(
                f"adaptive=True compares logarithms, and teacher {rivals[0].teacher!r} has the value "
                f"{rivals[0].rsr:.3g}; rank by a metric of positive values, or without adaptive"
            )
        leader = rivals.pop(0)
        bounds = {c.teacher: _log_ratio_bound(leader, c, error) for c in rivals}
        for contestant in rivals:
            contestant.dropped = bounds[contestant.teacher] < 0
        alive = [c for c in alive if not c.dropped]
        unsure = [c for c in rivals if not c.dropped and bounds[c.teacher] > math.log1p(tolerance)]
        logger.info("after %d trajectories: %s leads, %d may still be better", size, leader.teacher, len(unsure))
        unknown = [c for c in alive if c is not leader and c not in rivals and c.taken < c.budget]
        if not unsure and not unknown:
            return "certain"
    return "budget"


def _looks(budget: int) -> list[int]:
    sizes = [min(_FIRST_LOOK, budget)]
    while sizes[-1] < budget:
        sizes.append(min(budget, math.ceil(sizes[-1] * _GROWTH)))
    return sizes


def _log_ratio_bound(leader: _Contestant, rival: _Contestant, error: float) -> float:
    """Upper bound of ln(RSR of the leader / RSR of the rival) over all their trajectories, one-sided."""
    if min(leader.scored_units.size, rival.scored_units.size) < 2:
        return math.inf
    units, index = np.unique(np.concatenate([leader.scored_units, rival.scored_units]), return_inverse=True)
    sums = np.bincount(index, weights=np.concatenate([leader.influence, -rival.influence]))
    unseen = 1 - min(leader.taken / leader.total, rival.taken / rival.total)
    variance = float(np.sum(sums**2)) * units.size / (units.size - 1) * unseen
    difference = math.log(leader.rsr) - math.log(rival.rsr)
    return difference + float(stats.t.isf(error, units.size - 1)) * math.sqrt(variance)


def _extend(contestants: Sequence[_Contestant], size: int, columns: ScoreColumns, allow_mixed_settings: bool) -> None:
    for contestant in contestants:
        contestant.extend(size)
    if not allow_mixed_settings:
        arrays.require_one_setting(columns, sorted(set().union(*(c.settings for c in contestants))))


def _ranking(
    contestants: Sequence[_Contestant],
    stopped: Stopped | None,
    confidence: float,
    resamples: int,
    seed: int,
    metric: Metric,
) -> TeacherRanking:
    ratios = {c.teacher: c.rsr for c in contestants}
    unscored = [name for name, ratio in ratios.items() if not math.isfinite(ratio)]
    if unscored:
        logger.warning("no sampled trajectory of %s could be scored", ", ".join(unscored))
    sign = 1 if metric.direction == "lower" else -1
    ordered = sorted(
        contestants, key=lambda c: (not math.isfinite(ratios[c.teacher]), c.dropped, sign * ratios[c.teacher])
    )
    all_units = np.unique(np.concatenate([c.scored_units for c in ordered]))
    shape = (all_units.size, len(ordered))
    ranks, surprisals = np.zeros(shape), np.zeros(shape)
    for i, contestant in enumerate(ordered):
        index = np.searchsorted(all_units, contestant.scored_units)
        np.add.at(ranks[:, i], index, contestant.scores.scored.upper)
        np.add.at(surprisals[:, i], index, contestant.scores.scored.lower)
    draws = _bootstrap_ratios(ranks, surprisals, resamples, seed)
    losses = sign * draws
    teachers = tuple(
        RankedTeacher(c.teacher, _result(c.scores, draws[:, i], confidence, metric), c.dropped)
        for i, c in enumerate(ordered)
    )
    fixed_tokens = [r.score.num_tokens * c.budget / max(1, c.taken) for c, r in zip(ordered, teachers, strict=True)]
    return TeacherRanking(
        teachers=teachers,
        order_confidence=tuple(_share_below(losses[:, i], losses[:, i + 1]) for i in range(len(ordered) - 1)),
        stopped=stopped,
        trajectories_scored=sum(c.taken for c in contestants),
        tokens_scored=sum(ranked.score.num_tokens for ranked in teachers),
        fixed_trajectories=sum(c.budget for c in contestants),
        fixed_tokens=round(sum(fixed_tokens)),
    )


def _share_below(first: FloatArray, second: FloatArray) -> float:
    defined = np.isfinite(first) & np.isfinite(second)
    return float((first < second)[defined].mean()) if defined.any() else math.nan


def _scoring_step(scorer: Callable[..., Any] | None, columns: ScoreColumns) -> Callable[[Dataset], Dataset]:
    if scorer is None:
        return lambda dataset: dataset

    def score(dataset: Dataset) -> Dataset:
        old = [name for name in dataset.column_names if columns.is_score(name)]
        fresh = dataset.with_format(None).remove_columns(old)
        return fresh.map(scorer, batched=True, batch_size=1000, desc="Scoring the sample")

    return score


def _read_sources(
    dataset_or_datasets: Dataset | Mapping[str, Dataset], teacher_column: str, needed: Sequence[str]
) -> list[tuple[str, Dataset, IntArray]]:
    """Each teacher with the data set and the rows of it that are its own."""
    if isinstance(dataset_or_datasets, Mapping) and not isinstance(dataset_or_datasets, DatasetDict):
        sources = []
        for name, dataset in dataset_or_datasets.items():
            _require_dataset(dataset)
            sources.append((str(name), dataset, np.arange(len(dataset))))
    else:
        dataset = dataset_or_datasets
        _require_dataset(dataset)
        arrays.require_columns(dataset, [teacher_column], ScoreColumns())
        teachers = arrays.read_categories(dataset, teacher_column)
        if missing := int((teachers.codes < 0).sum()):
            logger.warning("column %r is null in %d rows, which belong to no teacher", teacher_column, missing)
        by_teacher = [np.flatnonzero(teachers.codes == code) for code in range(len(teachers.values))]
        sources = [(str(name), dataset, rows) for name, rows in zip(teachers.values, by_teacher, strict=True)]
    if not sources:
        raise ValueError("there is no teacher to rank: no rows")
    for name, dataset, rows in sources:
        if not rows.size:
            raise ValueError(f"teacher {name!r} has no rows")
        arrays.require_columns(dataset, needed, ScoreColumns())
    return sources


def _units_of(sources: Sequence[tuple[str, Dataset, IntArray]], problem_column: str | None) -> list[IntArray]:
    """Sampling unit of each teacher's rows: its problem, or the row itself where the problem is not known."""
    if problem_column is None:
        codes = np.full(sum(rows.size for _, _, rows in sources), -1)
    elif all(dataset is sources[0][1] for _, dataset, _ in sources):
        of_dataset = group_by_columns(sources[0][1], [problem_column]).codes
        codes = np.concatenate([of_dataset[rows] for _, _, rows in sources])
    else:
        keys = concatenate_datasets([dataset.select_columns([problem_column]) for _, dataset, _ in sources])
        codes = group_by_columns(keys, [problem_column]).codes
    alone = codes < 0
    codes[alone] = codes.max(initial=-1) + 1 + np.arange(alone.sum())
    return np.split(codes, np.cumsum([rows.size for _, _, rows in sources])[:-1])


def _sampling_orders(units_of_teachers: Sequence[IntArray], rng: np.random.Generator) -> list[IntArray]:
    """For each teacher the order in which its rows are taken: one of each problem, then a second one, and so on."""
    num_units = 1 + max(int(units.max()) for units in units_of_teachers)
    teachers_per_unit = np.zeros(num_units, dtype=np.int64)
    for units in units_of_teachers:
        teachers_per_unit[np.unique(units)] += 1
    place = np.empty(num_units, dtype=np.int64)
    place[np.lexsort((rng.random(num_units), -teachers_per_unit))] = np.arange(num_units)
    orders = []
    for units in units_of_teachers:
        shuffled = rng.permutation(units.size)
        by_unit = shuffled[np.argsort(units[shuffled], kind="stable")]
        starts = np.flatnonzero(np.diff(units[by_unit], prepend=-1))
        turn = np.arange(units.size) - np.repeat(starts, np.diff(np.append(starts, units.size)))
        orders.append(by_unit[np.lexsort((place[units[by_unit]], turn))])
    return orders


def _read_scores(dataset: Dataset, columns: ScoreColumns, metric: Metric) -> tuple[_Scores, list[str]]:
    """Scores of all rows, and the distinct settings that gave them."""
    needed = [columns.avg_rank, columns.avg_surprisal, columns.num_tokens]
    arrays.require_columns(dataset, needed, columns)
    avg_rank, avg_surprisal, num_tokens = (arrays.read_numbers(dataset, name) for name in needed)
    values = avg_rank
    if metric.name != RSR:
        values = arrays.read_numbers(dataset, arrays.metric_column(dataset, metric.name, columns))
    upper, lower = metric.parts(values, avg_rank, avg_surprisal)
    has_score = np.isfinite(avg_rank) & np.isfinite(avg_surprisal) & np.isfinite(upper) & np.isfinite(lower)
    truncated = np.zeros(len(dataset), dtype=bool)
    if columns.status in dataset.column_names:
        status = arrays.read_categories(dataset, columns.status)
        has_score &= status.among(STATUSES_WITH_SCORE)
        truncated = status.among([TRUNCATED])
    settings: list[str] = []
    if columns.settings in dataset.column_names:
        settings = arrays.read_categories(dataset, columns.settings).present(has_score)
    return _Scores(has_score, truncated, upper, lower, np.nan_to_num(num_tokens)), settings


def _summarize(scores: _Scores, confidence: float, resamples: int, seed: int, metric: Metric) -> DatasetRSR:
    scored = scores.scored
    draws = _bootstrap_ratios(scored.upper[:, None], scored.lower[:, None], resamples, seed)
    return _result(scores, draws[:, 0], confidence, metric)


def _result(scores: _Scores, draws: FloatArray, confidence: float, metric: Metric) -> DatasetRSR:
    scored = scores.scored
    low = high = math.nan
    if scored.upper.size > 1:
        low, high = (float(np.nanquantile(draws, q)) for q in ((1 - confidence) / 2, (1 + confidence) / 2))
    return DatasetRSR(
        rsr=ratio_of_means(scored.upper, scored.lower),
        low=low,
        high=high,
        confidence=confidence,
        num_trajectories=scored.upper.size,
        num_truncated=int(scored.truncated.sum()),
        num_unscored=int((~scores.has_score).sum()),
        num_tokens=int(scored.num_tokens.sum()),
        metric=metric.name,
    )


def _bootstrap_ratios(ranks: FloatArray, surprisals: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Ratios of sums over resampled units; both inputs ``(units, sets)``, the result ``(resamples, sets)``."""
    rng = np.random.default_rng(seed)
    units, sets = ranks.shape
    if not units:
        return np.full((resamples, sets), np.nan)
    sums = np.concatenate([ranks, surprisals], axis=1)
    if units > _MAX_UNITS:
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


def _aligned(
    metric: Sequence[float] | Mapping[str, float], performance: Sequence[float] | Mapping[str, float], student: str
) -> tuple[FloatArray, FloatArray]:
    if isinstance(metric, Mapping) and isinstance(performance, Mapping):
        if set(metric) != set(performance):
            raise ValueError(
                f"student {student!r}: metric has the teachers {sorted(metric)}, performance {sorted(performance)}"
            )
        metric = [metric[teacher] for teacher in performance]
    x, y = (np.asarray(list(v.values()) if isinstance(v, Mapping) else v, dtype=float) for v in (metric, performance))
    if x.shape != y.shape or x.size < 3:
        raise ValueError(
            f"student {student!r}: {x.size} metric values, {y.size} performances; needs three or more pairs"
        )
    for name, values in (("metric", x), ("performance", y)):
        if not np.isfinite(values).all() or np.ptp(values) == 0:
            raise ValueError(
                f"student {student!r}: the {name} values are all the same or not finite: {values.tolist()}"
            )
    return x, y


def _require_dataset(dataset: Any) -> None:
    if isinstance(dataset, DatasetDict):
        raise TypeError(
            "expected a Dataset, found a DatasetDict; choose a split, or pass dict(...) of it to rank splits"
        )
    if not isinstance(dataset, Dataset):
        raise TypeError(f"expected a Dataset, found {type(dataset).__name__}")


def _require_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must be between 0 and 1")


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
