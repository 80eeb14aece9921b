"""The rule by which a selection stops reading candidates, and its calibration on problems that are read whole.

Successive halving over beginnings: a stage reads the first tokens of each candidate that is left, and a share of the
candidates, those with the lowest RSR so far, goes on. Everything here is arithmetic on arrays; ``stages.py`` reads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from ..tables.groups import runs
from .pool import BoolArray, IntArray

FloatArray = npt.NDArray[np.float64]

LENGTHS = (0.05, 0.2)
"""The stages' lengths, as shares of the mean length of a problem's candidates."""

LAST_SHARES = (0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.22, 0.2, 0.18, 0.16, 0.14, 0.12, 0.1, 0.07, 0.05)
RULES = tuple((min(1.0, 4 * share), share) for share in LAST_SHARES)
"""The shares of a problem's candidates that go on after each stage, the most careful rule first."""

LEAST_PROBLEMS = 20
"""Problems from which a rule is found; the bound of a mean over fewer ones does not hold at its confidence."""


@dataclass(frozen=True)
class Sample:
    """Candidates that were read whole, of ``count`` problems numbered from 0 in ``problems``.

    Attributes:
        problems: Each candidate's problem, shape ``(rows,)``.
        rsr: The ratio, shape ``(rows,)``.
        tokens: Scored tokens, shape ``(rows,)``.
        prefix_rsr: The ratio of each stage's beginning, shape ``(rows, stages)``.
        prefix_tokens: Scored tokens of each stage's beginning, shape ``(rows, stages)``.
        keep: How many candidates of a problem are chosen.
    """

    problems: IntArray
    rsr: FloatArray
    tokens: IntArray
    prefix_rsr: FloatArray
    prefix_tokens: IntArray
    keep: int

    @property
    def best(self) -> FloatArray:
        """The summed ratios of what is chosen from everything, shape ``(problems,)``."""
        return self._chosen(np.ones(self.rsr.size, dtype=bool))

    def simulate(self, rule: Sequence[float], prefix_rsr: FloatArray) -> tuple[FloatArray, int]:
        """The summed ratios of what a rule chooses in each problem, and the tokens that it reads in all."""
        alive, read = np.ones(self.rsr.size, dtype=bool), 0
        sizes = np.bincount(self.problems)
        for stage, share in enumerate(rule):
            read += int(self.prefix_tokens[alive, stage].sum())
            places = quota(sizes, share, self.keep)
            alive[alive] = lowest(prefix_rsr[alive, stage], self.problems[alive], places)
        return self._chosen(alive), read + int(self.tokens[alive].sum())

    def _chosen(self, alive: BoolArray) -> FloatArray:
        problems, rsr = self.problems[alive], self.rsr[alive]
        kept = lowest(rsr, problems, np.full(problems.max() + 1, self.keep))
        return np.bincount(problems[kept], weights=rsr[kept]).astype(np.float64)


def quota(sizes: IntArray, share: float, keep: int) -> IntArray:
    """How many of each problem's candidates go on: a share of them rounded up, and more than ``keep``.

    A beginning says nothing of a trajectory that degenerates later: the last choice needs a whole one to compare with.
    """
    return np.maximum(np.ceil(share * sizes - 1e-9).astype(np.int64), keep + 1)


def lowest(scores: FloatArray, problems: IntArray, places: IntArray) -> BoolArray:
    """Whether a row is among the ``places[problem]`` lowest of its problem; ties go to the earlier row."""
    order = np.lexsort((scores, problems))
    place = np.arange(order.size) - runs(problems[order])[0]
    chosen = np.empty(order.size, dtype=bool)
    chosen[order] = place < places[problems[order]]
    return chosen


def choose_rule(
    sample: Sample, rest: int, regret: float, confidence: float, random: np.random.Generator
) -> tuple[float, ...] | None:
    """The boldest rule that keeps the promise for a dataset of which ``rest`` problems are not in the sample.

    Rules are tested from the most careful one on, until one fails: so the confidence holds for all tests together.
    ``None`` where the sample is too small, or reading everything at once is cheaper than any rule that keeps it.
    """
    if np.unique(sample.problems).size < LEAST_PROBLEMS:
        return None
    best = sample.best
    blind = random.random(sample.prefix_rsr.shape)
    found, least = None, int(sample.tokens.sum())
    for rule in RULES:
        chosen, read = sample.simulate(rule, sample.prefix_rsr)
        by_chance, _ = sample.simulate(rule, blind)
        if not keeps_promise(chosen, best, by_chance, rest, regret, confidence):
            break
        if read < least:
            found, least = rule, read
    return found


def keeps_promise(
    chosen: FloatArray, best: FloatArray, by_chance: FloatArray, rest: int, regret: float, confidence: float
) -> bool:
    """Whether the mean ratio of what is chosen surely lies within ``regret`` of choosing from everything.

    A one-sided t bound for the ``rest`` of a finite population; in the sample itself nothing is lost. Losses are rare
    and large, so a small sample may show none: one more problem counts in the mean, in which the rule chooses by
    chance.

    Args:
        chosen: Summed ratios of what the rule chooses, shape ``(problems,)``.
        best: The same of what is chosen from everything.
        by_chance: The same of what the rule chooses from prefixes that say nothing.
        rest: Problems that are not in the sample.
        regret: Share of the mean ratio that may be lost.
        confidence: Probability, over samples, with which the promise must hold.
    """
    excess = chosen - (1 + regret) * best
    by_chance_excess = by_chance.mean() - (1 + regret) * best.mean()
    mean = float(excess.sum() + by_chance_excess) / (best.size + 1)
    error = float(excess.std(ddof=1)) * math.sqrt(1 / (best.size + 1) + 1 / rest)
    bound = mean + float(stats.t.isf(1 - confidence, best.size)) * error
    return rest * bound <= regret * float(best.sum())
