"""After training: did a lower dataset-level RSR go with a better score, and which arms differ?"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from ..metrics.trajectory import FloatArray
from ..teachers.correlation import correlation
from ..teachers.dataset_rsr import DatasetRSR, to_json
from ..utils.texts import dashed

if TYPE_CHECKING:
    import pandas as pd

_INCONCLUSIVE = "inconclusive"
_NO_SCATTER = 1e-12  # equal differences hide how far seeds scatter


@dataclass(frozen=True)
class Interval:
    """A number with the ends of its interval, which are NaN where no interval exists."""

    value: float
    low: float
    high: float

    @property
    def is_conclusive(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.value:+.3f}" + ("" if math.isnan(self.low) else f" [{self.low:+.3f}, {self.high:+.3f}]")


@dataclass(frozen=True)
class ArmOutcome:
    """An arm or a teacher: its dataset-level RSR (NaN where not given), the mean score, and the score of each seed."""

    arm: str
    rsr: float
    mean: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Difference:
    """The mean of ``first`` less ``second`` over the seeds that both have; joint interval of all pairs."""

    first: str
    second: str
    seeds: int
    difference: Interval


@dataclass(frozen=True)
class Outcomes:
    """Scores after training against dataset-level RSR.

    Attributes:
        arms: The arms, the best mean score first.
        correlation: Spearman correlation of RSR with the mean score over the arms: negative where lower RSR is better.
            ``None`` where fewer than three arms have a ratio, or ratios or scores are all the same.
        differences: The paired difference of each two arms.
        confidence: Coverage of the correlation's interval, and of all differences together.
    """

    arms: tuple[ArmOutcome, ...]
    correlation: Interval | None
    differences: tuple[Difference, ...]
    confidence: float

    @property
    def sentences(self) -> tuple[str, ...]:
        """The findings, each with its interval, or said to be inconclusive."""
        with_ratio = sum(math.isfinite(each.rsr) for each in self.arms)
        found = self.correlation
        if found is None:
            first = "RSR cannot be compared with scores: that needs three arms of different ratios and scores."
        elif not found.is_conclusive:
            first = f"RSR against score over {with_ratio} arms is {_INCONCLUSIVE}: Spearman {found}."
        else:
            better = "higher" if found.value < 0 else "lower"
            first = f"Lower RSR went with {better} scores over {with_ratio} arms: Spearman {found}."
        sure = [each for each in self.differences if each.difference.is_conclusive]
        unsure = len(self.differences) - len(sure)
        lines = [
            f"{d.first} is {'better' if d.difference.value > 0 else 'worse'} than {d.second}: {d.difference} over "
            f"{d.seeds} seeds."
            for d in sure
        ]
        if unsure:
            few = min(each.seeds for each in self.differences if not each.difference.is_conclusive)
            more = " One seed cannot tell: train with several." if few < 2 else ""
            if any(d.seeds > 1 and math.isnan(d.difference.low) for d in self.differences):
                more += " Seeds without scatter cannot tell either."
            lines.append(f"{unsure} of {len(self.differences)} differences between arms are {_INCONCLUSIVE}.{more}")
        return (first, *lines)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as a JSON object; null for NaN."""
        return {"sentences": [*self.sentences], **to_json(self)}

    def to_pandas(self) -> pd.DataFrame:
        """One row for each pair of arms: the difference, its interval, and whether it is conclusive."""
        import pandas as pd

        rows = [
            {"first": d.first, "second": d.second, "seeds": d.seeds, **vars(d.difference)}
            | {"finding": "differs" if d.difference.is_conclusive else _INCONCLUSIVE}
            for d in self.differences
        ]
        return pd.DataFrame(rows, columns=["first", "second", "seeds", "value", "low", "high", "finding"])

    def __str__(self) -> str:
        width = max((len(each.arm) for each in self.arms), default=0)
        lines = [*self.sentences, "", f"{'':<{width}}  {'RSR':>7}  {'score':>7}  by seed"]
        for each in self.arms:
            ratio = dashed(each.rsr, ".3f")
            scores = "  ".join(f"{score:.3f}" for score in each.scores.values())
            lines.append(f"{each.arm:<{width}}  {ratio:>7}  {each.mean:>7.3f}  {scores}")
        lines.append("")
        for d in self.differences:
            finding = "" if d.difference.is_conclusive else f"  {_INCONCLUSIVE}"
            lines.append(f"{d.first} - {d.second}: {d.difference}{finding}")
        return "\n".join(lines)


def compare_outcomes(
    results: Iterable[Mapping[str, Any]],
    rsr: Mapping[str, float | DatasetRSR] | None = None,
    *,
    confidence: float = 0.95,
) -> Outcomes:
    """Compares scores after training with dataset-level RSR, and arms with each other.

    The correlation's interval is Fisher's with the standard error of Bonett and Wright for Spearman's coefficient; a
    perfect correlation counts as half a swap of neighbours less. It tells of arms, which are few: five say little.
    Differences are paired by seed, with Student's t; the confidence holds for all pairs of arms together
    (Bonferroni). An interval that holds 0, or that does not exist, is inconclusive;
    differences that are equal on all seeds have none.

    Args:
        results: Rows with the keys ``arm`` or ``teacher``, ``score`` (higher is better), and ``seed`` where there are
            several runs of an arm: a list of dicts, or a ``Dataset``.
        rsr: Dataset-level RSR of each arm, as :func:`dataset_rsr` gives with ``group_by`` or a number; arms
            without a ratio count for the differences alone.
        confidence: Coverage of the intervals, in (0, 1).

    Returns:
        Arms, correlation, differences, and sentences that read them.

    Raises:
        ValueError: If a row lacks a key, a score is not finite, a pair of arm and seed comes twice, or an argument is
            out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must be between 0 and 1")
    by_arm: dict[str, dict[str, float]] = {}
    for i, row in enumerate(results):
        if not isinstance(row, Mapping):
            raise ValueError(
                f"results[{i}]: expected a dict, found {type(row).__name__}; see DataFrame.to_dict('records')"
            )
        arm, score = row.get("arm"), row.get("score")
        arm = row.get("teacher") if arm is None else arm
        if arm is None or score is None:
            raise ValueError(f"results[{i}]: has the keys {list(row)}; needs a value of arm or teacher, and of score")
        if not isinstance(score, numbers.Real) or not math.isfinite(score):
            raise ValueError(f"results[{i}]: the score of {arm!r} is {score!r}, no finite number; leave out such runs")
        seeds = by_arm.setdefault(str(arm), {})
        if (seed := str(row.get("seed", 0))) in seeds:
            raise ValueError(f"results[{i}]: a second score of {arm!r} with seed {seed}; give each run its own seed")
        seeds[seed] = float(score)
    if not by_arm:
        raise ValueError("results: no rows; give one for each training run")
    values = {str(arm): v.value if isinstance(v, DatasetRSR) else v for arm, v in (rsr or {}).items()}
    if wrong := [arm for arm, value in values.items() if not isinstance(value, numbers.Real)]:
        raise ValueError(f"rsr: the ratio of {wrong[0]!r} is {values[wrong[0]]!r}; expected a number")
    ratios = {arm: float(value) for arm, value in values.items()}
    if unknown := [name for name in ratios if name not in by_arm]:
        raise ValueError(f"rsr: no result of {unknown[0]!r}; there are results of {list(by_arm)}")
    arms = [
        ArmOutcome(arm, ratios.get(arm, math.nan), float(np.mean([*scores.values()])), scores)
        for arm, scores in by_arm.items()
    ]
    arms.sort(key=lambda each: -each.mean)
    pairs = list(combinations(arms, 2))
    joint = 1 - (1 - confidence) / max(1, len(pairs))
    return Outcomes(
        arms=tuple(arms),
        correlation=_correlation([each for each in arms if math.isfinite(each.rsr)], confidence),
        differences=tuple(_difference(first, second, joint) for first, second in pairs),
        confidence=confidence,
    )


def _correlation(arms: Sequence[ArmOutcome], confidence: float) -> Interval | None:
    try:
        found = correlation({"": [each.rsr for each in arms]}, {"": [each.mean for each in arms]})
    except ValueError:
        return None
    value, count = found.spearman[""], len(arms)
    if count < 4:
        return Interval(value, math.nan, math.nan)
    most = 1 - 6 / (count * (count**2 - 1))
    inside = min(most, max(-most, value))
    error = math.sqrt((1 + inside**2 / 2) / (count - 3)) * float(stats.norm.isf((1 - confidence) / 2))
    low, high = (math.tanh(math.atanh(inside) + side * error) for side in (-1, 1))
    return Interval(value, min(low, value), max(high, value))


def _difference(first: ArmOutcome, second: ArmOutcome, confidence: float) -> Difference:
    """The paired difference; arms without a common seed have none."""
    seeds = [seed for seed in first.scores if seed in second.scores]
    values: FloatArray = np.array([first.scores[seed] - second.scores[seed] for seed in seeds])
    mean = float(values.mean()) if seeds else math.nan
    if len(seeds) < 2 or float(np.ptp(values)) <= _NO_SCATTER:
        return Difference(first.arm, second.arm, len(seeds), Interval(mean, math.nan, math.nan))
    error = float(values.std(ddof=1)) / math.sqrt(len(seeds))
    error *= float(stats.t.isf((1 - confidence) / 2, len(seeds) - 1))
    return Difference(first.arm, second.arm, len(seeds), Interval(mean, mean - error, mean + error))
