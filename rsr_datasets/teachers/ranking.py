"""Teachers in the order in which they suit the student, from samples of their trajectories (paper, section 5.2)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset, DatasetDict, concatenate_datasets

from ..metrics import DEFAULT_METRICS, RSR, Metric, find_metric
from ..metrics.trajectory import IntArray
from ..tables import arrays
from ..tables.columns import DEFAULT_TEACHER_COLUMN, ScoreColumns
from ..tables.groups import group_by_columns
from ..tables.splits import require_dataset
from ..utils.texts import dashed, interval, text_table
from .adaptive import Contestant, Stopped, sample_adaptively
from .dataset_rsr import DEFAULT_RESAMPLES, DatasetRSR, aggregate, bootstrap, read_scores, require_confidence, to_json

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

DEFAULT_SAMPLE = 200
FEW = 20  # trajectories: the place of a teacher with fewer is not sure
_REASONS: dict[Stopped, str] = {
    "certain": "the first teacher is surely the best, or within the tolerance",
    "budget": "the sample is used up",
}


@dataclass(frozen=True)
class RankedTeacher:
    """A teacher, its result, and whether adaptive sampling dropped it because it could not be the best any more."""

    teacher: str
    score: DatasetRSR
    dropped: bool


@dataclass(frozen=True)
class TeacherRanking:
    """Teachers in order, the most suitable (lowest RSR, or the best in another metric) first.

    Attributes:
        teachers: The teachers in order; dropped ones come after the others.
        order_confidence: For each teacher but the last, the share of bootstrap resamples in which its value is better
            than the next teacher's. Near 1 the order is sure, near 0.5 it is a coin flip.
        stopped: For adaptive sampling ``"certain"`` (the leader is within the tolerance of the best) or ``"budget"``
            (the sample was used up before that); ``None`` for a fixed sample.
        trajectories_scored: Trajectories that were looked at, including any that turned out to have no score.
        tokens_scored: Scored tokens of these trajectories.
        fixed_trajectories: Trajectories that a fixed sample takes.
        fixed_tokens: About the tokens of a fixed sample, from the mean length of the scored trajectories.
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
        return to_json(self)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each teacher, in order: its result, and how sure its place before the next one is."""
        import pandas as pd

        rows = [{"teacher": t.teacher, **vars(t.score), "dropped": t.dropped} for t in self.teachers]
        return pd.DataFrame(rows).assign(before_the_next=[*self.order_confidence, math.nan])

    def __str__(self) -> str:
        first = self.teachers[0].score
        head = ["     teacher", first.label, f"{first.confidence:.0%} interval", "trajectories", "without a score"]
        rows = [
            [
                f"{place:>3}  {t.teacher}{' (dropped early)' if t.dropped else ''}",
                dashed(t.score.value, ".3f"),
                interval(t.score.low, t.score.high, ".3f"),
                f"{t.score.num_trajectories:,}",
                f"{t.score.num_unscored:,}",
            ]
            for place, t in enumerate(self.teachers, 1)
        ]
        if not any(t.score.num_unscored for t in self.teachers):
            head, rows = head[:-1], [row[:-1] for row in rows]
        notes = [f"{find_metric(first.metric).direction.capitalize()} suits the student better."]
        if self.order_confidence:
            head.append("ahead of the next")
            rows = [[*row, share] for row, share in zip(rows, [*self._shares(), "-"], strict=True)]
            notes.append(
                '"Ahead of the next" is how often a teacher stays ahead of the one below when the trajectories are '
                "drawn again: 50% is a coin flip."
            )
            notes += self._how_sure(first.confidence)
        notes.append(f"Looked at {self.trajectories_scored:,} trajectories and {self.tokens_scored:,} tokens.")
        if self.stopped is not None:
            notes.append(
                f"Without early stopping: {self.fixed_trajectories:,} trajectories and about {self.fixed_tokens:,} "
                f"tokens. Stopped because {_REASONS[self.stopped]}."
            )
        return "\n".join([text_table(head, rows), *notes])

    def _how_sure(self, confidence: float) -> list[str]:
        """Sentences on how many neighbours have a sure order; none where no two teachers have scores."""
        pairs = [(share, size) for share, size in zip(self.order_confidence, self._sizes, strict=True) if share >= 0]
        if not pairs:
            return []
        sure = sum(share >= confidence and size >= FEW for share, size in pairs)
        fewest = min(size for _, size in pairs)
        few = "" if sure == len(pairs) else ": these trajectories are too few to tell the others apart"
        said = f"{sure} of {len(pairs)} neighbours are sure at {confidence:.0%}{few}."
        return [said, *([too_few(fewest)] if fewest < FEW else [])]

    def _shares(self) -> list[str]:
        """How often each teacher but the last stays ahead of the next; no number where one of them has few rows."""
        pairs = zip(self.order_confidence, self._sizes, strict=True)
        return ["too few" if share >= 0 and size < FEW else dashed(share, ".0%") for share, size in pairs]

    @property
    def _sizes(self) -> list[int]:
        """Of each teacher and the next, the trajectories of the one that has fewer."""
        return [min(pair) for pair in pairwise(t.score.num_trajectories for t in self.teachers)]


def too_few(trajectories: int) -> str:
    """The sentence on an order for which some teacher has fewer than ``FEW`` trajectories."""
    counted = f"{trajectories:,} {'trajectory' if trajectories == 1 else 'trajectories'}"
    return f"With as few as {counted} of a teacher the order is not sure: take at least {FEW}."


def rank_teachers(
    dataset_or_datasets: Dataset | Mapping[str, Dataset],
    *,
    teacher_column: str = DEFAULT_TEACHER_COLUMN,
    problem_column: str | None = None,
    metric: str = RSR,
    sample: int | None = None,
    seed: int = 0,
    scorer: Callable[..., Any] | None = None,
    adaptive: bool = False,
    confidence: float = 0.95,
    tolerance: float = 0.01,
    resamples: int = DEFAULT_RESAMPLES,
    allow_mixed_settings: bool = False,
    column_prefix: str = "rsr",
) -> TeacherRanking:
    """Ranks teachers by their dataset-level RSR (paper, section 5.2).

    With ``problem_column`` problems are drawn, the same for all teachers, starting with those that most teachers
    answered, and one trajectory of each; a further one of a problem only when all problems are in. The bootstrap then
    resamples problems: a problem that is hard for all teachers does not count as doubt about their order.

    ``adaptive=True`` scores in growing samples. A teacher is dropped once it is surely worse than the leader, and
    sampling ends once the leader's RSR over all its trajectories is surely within ``tolerance`` of the best: with the
    probability ``confidence``, at all looks together.

    Args:
        dataset_or_datasets: Rows of all teachers, or a mapping of teacher to its rows. They are scored already, or
            ``scorer`` scores the sample.
        teacher_column: Column with the teacher; a mapping needs none.
        problem_column: Column with the problem, alike in all datasets; ``None`` to sample rows independently.
        metric: The name of a metric whose column the scorer added or adds. Its direction decides which teacher is
            first. ``adaptive`` needs a metric with positive values of which lower is better.
        sample: Trajectories per teacher, with ``adaptive=True`` the most that are taken; ``None`` for all where rows
            are scored already, and for 200 with a ``scorer``. A teacher with fewer rows gives all: ``len(dataset)``
            takes all.
        seed: Seed of sampling and bootstrap.
        scorer: Scores rows inside ``map``, such as :class:`RSRScorer`; called on the sample alone.
        adaptive: Stop as soon as the best teacher is known well enough.
        confidence: Coverage of the intervals, and of the statement with which adaptive sampling stops, in (0, 1).
        tolerance: Relative difference in RSR from the best teacher that is accepted, at least 0.
        resamples: Bootstrap resamples.
        allow_mixed_settings: Compare scores of several students or settings.
        column_prefix: The ``column_prefix`` of the scores; with a ``scorer`` its own counts.

    Returns:
        The teachers in order. A teacher without any scored trajectory is last, with NaN, and logged.

    Raises:
        ValueError: If a column is missing, an argument is out of range, there is no teacher, ``scorer`` does not
            compute the metric, or the rows were scored with different settings.
        TypeError: If the first argument is neither a ``Dataset`` nor a plain mapping of them.
    """
    require_confidence(confidence)
    if sample is not None and sample < 1:
        raise ValueError(f"sample={sample}: must be a positive number; leave it out for the default")
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance}: must be at least 0")
    ranked_by = find_metric(metric)
    if adaptive and ranked_by.direction != "lower":
        raise ValueError(f"adaptive=True compares values of which lower is better; of {metric!r} higher is")
    computed = (*DEFAULT_METRICS, *(other.name for other in getattr(scorer, "metrics", [ranked_by])))
    if metric not in computed:
        raise ValueError(f"metric={metric!r}: the scorer lacks it; make it RSRScorer(..., metrics=[{metric!r}])")
    columns = getattr(scorer, "score_columns", None) or ScoreColumns(column_prefix)
    known_settings: set[str] = set()

    def read(rows: Dataset) -> npt.NDArray[Any]:
        if scorer is not None:
            old = [name for name in rows.column_names if columns.is_score(name)]
            fresh = rows.with_format(None).remove_columns(old)
            rows = fresh.map(scorer, batched=True, batch_size=1000, desc="Scoring the sample")
        scores, settings = read_scores(rows, columns, ranked_by)
        known_settings.update(settings)
        if not allow_mixed_settings:
            arrays.require_one_setting(columns, sorted(known_settings))
        return scores

    sources = _read_sources(dataset_or_datasets, teacher_column, problem_column)
    units = _units_of(sources, problem_column)
    limit = sample or (DEFAULT_SAMPLE if scorer else max(unit.size for unit in units))
    orders = _sampling_orders(units, np.random.default_rng(seed))
    contestants = [
        Contestant(name, dataset, rows[order], unit[order], min(limit, rows.size), read)
        for (name, dataset, rows), unit, order in zip(sources, units, orders, strict=True)
    ]
    stopped = sample_adaptively(contestants, confidence, tolerance) if adaptive else None
    if not adaptive:
        for contestant in contestants:
            contestant.extend(limit)
    return _ranking(contestants, stopped, ranked_by, confidence, resamples, seed)


def _ranking(
    teachers: list[Contestant], stopped: Stopped | None, metric: Metric, confidence: float, resamples: int, seed: int
) -> TeacherRanking:
    if unscored := [c.teacher for c in teachers if not math.isfinite(c.value)]:
        logger.warning("no sampled trajectory of %s could be scored", ", ".join(unscored))
    sign = 1 if metric.direction == "lower" else -1
    ordered = sorted(teachers, key=lambda c: (not math.isfinite(c.value), c.dropped, sign * c.value))
    all_units = np.unique(np.concatenate([c.units for c in ordered]))
    sums = np.zeros((2, all_units.size, len(ordered)))
    for i, contestant in enumerate(ordered):
        index = np.searchsorted(all_units, contestant.units)
        parts = (contestant.scored["upper"], contestant.scored["lower"])
        sums[:, :, i] = [np.bincount(index, weights=part, minlength=all_units.size) for part in parts]
    draws = bootstrap(sums[0], sums[1], resamples, seed).T
    defined = [(a < b)[np.isfinite(a) & np.isfinite(b)] for a, b in pairwise(sign * draws)]
    pairs = [(c, aggregate(c.scores, drawn, confidence, metric)) for c, drawn in zip(ordered, draws, strict=True)]
    return TeacherRanking(
        teachers=tuple(RankedTeacher(c.teacher, result, c.dropped) for c, result in pairs),
        order_confidence=tuple(float(is_below.mean()) if is_below.size else math.nan for is_below in defined),
        stopped=stopped,
        trajectories_scored=sum(c.scores.size for c in ordered),
        tokens_scored=sum(result.num_tokens for _, result in pairs),
        fixed_trajectories=sum(c.budget for c in ordered),
        fixed_tokens=round(sum(result.num_tokens * c.budget / max(1, c.scores.size) for c, result in pairs)),
    )


def _read_sources(
    dataset_or_datasets: Dataset | Mapping[str, Dataset], teacher_column: str, problem_column: str | None
) -> list[tuple[str, Dataset, IntArray]]:
    """Each teacher with a dataset and the teacher's rows in the dataset."""
    if isinstance(dataset_or_datasets, Mapping) and not isinstance(dataset_or_datasets, DatasetDict):
        sources = [(str(name), require_dataset(d), np.arange(len(d))) for name, d in dataset_or_datasets.items()]
    else:
        dataset = require_dataset(dataset_or_datasets)
        if teacher_column == DEFAULT_TEACHER_COLUMN and teacher_column not in dataset.column_names:
            raise ValueError(
                f"no column {teacher_column!r}: name the column that says who wrote each row, teacher_column=NAME, of "
                f"{dataset.column_names}; or, where each teacher has a file, score again with --teacher-from-file"
            )
        arrays.require_columns(dataset, [teacher_column], ScoreColumns())
        found = arrays.read_categories(dataset, teacher_column)
        if missing := int((found.codes < 0).sum()):
            logger.warning("column %r is null in %d rows, which belong to no teacher", teacher_column, missing)
        sources = [(str(name), dataset, np.flatnonzero(found.codes == i)) for i, name in enumerate(found.values)]
    if not sources:
        raise ValueError("there is no teacher to rank: no rows")
    for name, dataset, rows in sources:
        if not rows.size:
            raise ValueError(f"teacher {name!r} has no rows")
        arrays.require_columns(dataset, [problem_column] if problem_column else [], ScoreColumns())
    return sources


def _units_of(sources: Sequence[tuple[str, Dataset, IntArray]], problem_column: str | None) -> list[IntArray]:
    """Sampling unit of each teacher's rows: its problem, or the row itself where the problem is not known."""
    all_rows = np.concatenate([rows for _, _, rows in sources])
    if problem_column is None:
        codes = np.full(all_rows.size, -1)
    elif all(dataset is sources[0][1] for _, dataset, _ in sources):
        codes = group_by_columns(sources[0][1], [problem_column]).codes[all_rows]
    else:
        keys = concatenate_datasets([dataset.select_columns([problem_column]) for _, dataset, _ in sources])
        codes = group_by_columns(keys, [problem_column]).codes
    alone = codes < 0
    codes[alone] = codes.max(initial=-1) + 1 + np.arange(alone.sum())
    return np.split(codes, np.cumsum([rows.size for _, _, rows in sources])[:-1])


def _sampling_orders(units_of_teachers: Sequence[IntArray], rng: np.random.Generator) -> list[IntArray]:
    """For each teacher the order in which its rows are taken: one of each problem, then a second one, and so on."""
    teachers_per_unit = np.bincount(np.concatenate([np.unique(units) for units in units_of_teachers]))
    place = np.argsort(np.lexsort((rng.random(teachers_per_unit.size), -teachers_per_unit)))
    orders = []
    for units in units_of_teachers:
        shuffled = rng.permutation(units.size)
        by_unit = shuffled[np.argsort(units[shuffled], kind="stable")]
        starts = np.flatnonzero(np.diff(units[by_unit], prepend=-1))
        turn = np.arange(units.size) - np.repeat(starts, np.diff(np.append(starts, units.size)))
        orders.append(by_unit[np.lexsort((place[units[by_unit]], turn))])
    return orders
