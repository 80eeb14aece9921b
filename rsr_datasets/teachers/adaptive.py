"""Adaptive sampling: scoring ends once the best teacher is known well enough."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from ..metrics.trajectory import FloatArray, IntArray
from .dataset_rsr import ROW, value_of

logger = logging.getLogger(__name__)

_FIRST_LOOK = 20  # trajectories of each teacher
_GROWTH = 1.4

Stopped = Literal["certain", "budget"]


@dataclass(eq=False)
class Contestant:
    """A teacher whose ``rows`` of a dataset are scored in this order, as far as they are needed."""

    teacher: str
    dataset: Dataset
    rows: IntArray
    row_units: IntArray  # the sampling unit (the problem) of each row
    budget: int  # the most rows to score
    read: Callable[[Dataset], npt.NDArray[Any]]  # the scores of some rows
    scores: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0, ROW))
    dropped: bool = False

    def extend(self, size: int) -> None:
        """Scores on until ``size`` trajectories or the budget."""
        rows = self.rows[self.scores.size : min(size, self.budget)]
        if rows.size:
            self.scores = np.append(self.scores, self.read(self.dataset.select(rows)))

    @property
    def scored(self) -> npt.NDArray[Any]:
        """The trajectories with a score."""
        return self.scores[self.scores["scored"]]

    @property
    def units(self) -> IntArray:
        """Sampling unit of each trajectory with a score."""
        return self.row_units[: self.scores.size][self.scores["scored"]]

    @property
    def value(self) -> float:
        """The metric over all trajectories so far."""
        return value_of(self.scores)

    @property
    def influence(self) -> FloatArray:
        """How much each trajectory with a score adds to the error of the log ratio."""
        upper, lower = self.scored["upper"], self.scored["lower"]
        return (upper - self.value * lower) / upper.sum()


def sample_adaptively(contestants: Sequence[Contestant], confidence: float, tolerance: float) -> Stopped:
    """Scores in growing samples until the leader is surely within ``tolerance`` of the best, or the budget is used up.

    The error probability ``1 - confidence`` is divided evenly among the looks and the rivals: a union bound.
    """
    budget = max(contestant.budget for contestant in contestants)
    looks = [min(_FIRST_LOOK, budget)]
    while looks[-1] < budget:
        looks.append(min(budget, math.ceil(looks[-1] * _GROWTH)))
    error = (1 - confidence) / max(1, len(looks) * (len(contestants) - 1))
    alive = list(contestants)
    for size in looks:
        for contestant in alive:
            contestant.extend(size)
        rivals = sorted((c for c in alive if math.isfinite(c.value)), key=lambda c: c.value)
        if not rivals:
            continue
        leader = rivals.pop(0)
        if leader.value <= 0:
            found = f"teacher {leader.teacher!r} has the value {leader.value:.3g}"
            advice = "rank by a metric of positive values, or without adaptive"
            raise ValueError(f"adaptive=True compares logarithms, and {found}; {advice}")
        bounds = [_log_ratio_bound(leader, rival, error) for rival in rivals]
        for rival, bound in zip(rivals, bounds, strict=True):
            rival.dropped = bound < 0
        alive = [c for c in alive if not c.dropped]
        unsure = sum(bound > math.log1p(tolerance) for bound in bounds)
        logger.info("after %d trajectories: %s leads, %d may still be better", size, leader.teacher, unsure)
        if not unsure and all(math.isfinite(c.value) or c.scores.size == c.budget for c in alive):
            return "certain"
    return "budget"


def _log_ratio_bound(leader: Contestant, rival: Contestant, error: float) -> float:
    """One-sided t bound of the log ratio of two values: linearised, clustered by problem, for a finite population."""
    if min(leader.units.size, rival.units.size) < 2:
        return math.inf
    units, index = np.unique(np.concatenate([leader.units, rival.units]), return_inverse=True)
    sums = np.bincount(index, weights=np.concatenate([leader.influence, -rival.influence]))
    unseen = 1 - min(c.scores.size / c.rows.size for c in (leader, rival))
    variance = float(np.sum(sums**2)) * units.size / (units.size - 1) * unseen
    from scipy import stats  # takes long to import, and only early stopping needs it

    difference = math.log(leader.value) - math.log(rival.value)
    return difference + float(stats.t.isf(error, units.size - 1)) * math.sqrt(variance)
