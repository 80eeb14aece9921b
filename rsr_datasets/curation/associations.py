"""Correlations over all rows, within and between groups, with bootstrap intervals clustered by group; pure numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import stats

from ..metrics.trajectory import FloatArray, IntArray
from ..tables.groups import runs
from ..teachers.dataset_rsr import bootstrap

MAX_BLOCKS = 2_000

_RESAMPLES = 2_000
_FEWEST = 6  # blocks: of fewer, all can agree by chance
_STEEPEST = 1 - 1e-9  # a perfect correlation has no place on Fisher's scale


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval; NaN where the number or the interval is not defined.

    Attributes:
        value: The number.
        low: Lower end of the 95% interval.
        high: Upper end of the interval.
        count: Rows, or groups, that the number is made from.
    """

    value: float
    low: float
    high: float
    count: int

    def within(self, least: float, most: float) -> "Estimate":
        """The estimate with an interval that ends where the number can be at all."""
        return replace(self, low=max(self.low, least), high=min(self.high, most))

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "-"
        return f"{self.value:.2f}" + ("" if math.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]")


@dataclass(frozen=True)
class Statistic:
    """A number that is, or whose error is, a ratio of sums over independent blocks of groups.

    ``upper`` and ``lower`` have the shape ``(blocks,)``. For a ``linearised`` number they give the error on Fisher's
    scale: the influences of the rows, and their number.
    """

    value: float
    count: int
    upper: FloatArray
    lower: FloatArray
    linearised: bool = False


class Blocks:
    """Rows in independent blocks: a group each, or, where there are more than 2,000 groups, random groups together.

    A row without a group is a group of its own; so is each row where there are fewer than two groups.
    """

    def __init__(self, groups: IntArray, seed: int) -> None:
        alone = groups < 0
        if groups.max(initial=-1) < 1:
            alone[:] = True
        units = np.where(alone, groups.max(initial=-1) + np.cumsum(alone), groups)
        found = int(units.max(initial=-1)) + 1
        self.count = min(found, MAX_BLOCKS)
        place = np.arange(found)
        if found > MAX_BLOCKS:
            place = np.random.default_rng(seed).permutation(found) % MAX_BLOCKS
        self.of_rows: IntArray = place[units]
        self._groups, self._seed = groups, seed

    def of_groups(self, count: int) -> IntArray:
        """The block of each of ``count`` groups."""
        found = np.zeros(count, dtype=np.int64)
        found[self._groups[self._groups >= 0]] = self.of_rows[self._groups >= 0]
        return found

    def sums(self, blocks: IntArray, values: FloatArray | None = None) -> FloatArray:
        """Sums of values, or their number, in each block."""
        return np.bincount(blocks, weights=values, minlength=self.count).astype(float)

    def ratio(self, blocks: IntArray, upper: FloatArray, lower: FloatArray | None = None) -> Statistic:
        """The statistic sum of ``upper`` / sum of ``lower``, by default the mean of ``upper``."""
        below = float(blocks.size if lower is None else lower.sum())
        value = float(upper.sum()) / below if below else math.nan
        return Statistic(value, blocks.size, self.sums(blocks, upper), self.sums(blocks, lower))

    def estimate(self, statistics: Sequence[Statistic], confidence: float = 0.95) -> list[Estimate]:
        """Gives all statistics an interval from the same resamples of blocks.

        Percentiles of 2,000 resamples are widened for few blocks as Student's t is against the normal distribution;
        fewer than six blocks give no interval. A linearised correlation is resampled through its influences, which are
        sums over blocks, on Fisher's scale.
        """
        if not statistics:
            return []
        upper, lower = (np.stack([getattr(s, part) for s in statistics], axis=1) for part in ("upper", "lower"))
        draws = bootstrap(upper, lower, _RESAMPLES, self._seed)
        return [self._interval(s, draws[:, i], confidence) for i, s in enumerate(statistics)]

    def _interval(self, statistic: Statistic, draws: FloatArray, confidence: float) -> Estimate:
        value, units = statistic.value, int(np.count_nonzero(statistic.lower))
        draws = draws[np.isfinite(draws)]
        if units < _FEWEST or not draws.size or math.isnan(value):
            return Estimate(value, math.nan, math.nan, statistic.count)
        tail = (1 - confidence) / 2
        widened = stats.t.isf(tail, units - 1) / stats.norm.isf(tail) * math.sqrt(units / (units - 1))
        errors = draws if statistic.linearised else draws - value
        ends = widened * np.quantile(errors, [tail, 1 - tail])
        if statistic.linearised:
            ends = np.tanh(math.atanh(min(max(value, -_STEEPEST), _STEEPEST)) + ends)
        else:
            ends = value + ends
        return Estimate(value, min(value, float(ends[0])), max(value, float(ends[1])), statistic.count)


class Ranked:
    """Values and their midranks, among all and within groups; ``groups`` are numbered from 0, -1 for none."""

    def __init__(self, values: FloatArray, groups: IntArray) -> None:
        self.values, self.groups = values, groups
        self._order = np.argsort(values)
        start, end = runs(values[self._order])
        self.start, self.end = (np.empty(values.size, dtype=np.int64) for _ in range(2))
        self.start[self._order], self.end[self._order] = start, end

    @property
    def is_constant(self) -> bool:
        """Whether all values are the same, or there is none."""
        return not self.values.size or bool(self.end[0] - self.start[0] == self.values.size)

    @cached_property
    def centred(self) -> FloatArray:
        """Midranks among all values as shares of their number, less their mean."""
        return ((self.start + self.end) / self.values.size - 1) / 2

    def above(self, weights: FloatArray) -> FloatArray:
        """For each value the sum of the weights of greater values, ties half, over the number of values."""
        suffix = np.append(np.cumsum(weights[self._order][::-1])[::-1], 0.0)
        return (suffix[self.start] + suffix[self.end]) / (2 * self.values.size)

    @cached_property
    def within(self) -> FloatArray:
        """Midranks among the values of the same group, less their mean; 0 without a group."""
        centred = np.zeros(self.values.size)
        rows = np.flatnonzero(self.groups >= 0)
        keys = self.groups[rows] * (self.values.size + 1) + self.start[rows]
        order = np.argsort(keys)
        start, end = runs(keys[order])
        first, last = runs(self.groups[rows][order])
        centred[rows[order]] = (start + end - first - last) / 2
        return centred


def spearman(x: Ranked, y: Ranked, blocks: Blocks, of_rows: IntArray) -> Statistic:
    """Spearman correlation over all values, linearised; ``of_rows`` are the blocks of the values."""
    u, v = x.centred, y.centred
    if x.is_constant or y.is_constant:
        return _undefined(blocks, u.size)
    uv, uu, vv = float(np.mean(u * v)), float(np.mean(u * u)), float(np.mean(v * v))
    value = min(1.0, max(-1.0, uv / math.sqrt(uu * vv)))
    influence = (u * v + x.above(v) + y.above(u) - 3 * uv) / math.sqrt(uu * vv)
    influence -= value / 2 * ((u * u + 2 * x.above(u)) / uu + (v * v + 2 * y.above(v)) / vv - 6)
    slope = 1 - min(abs(value), _STEEPEST) ** 2
    return Statistic(value, u.size, blocks.sums(of_rows, influence / slope), blocks.sums(of_rows), linearised=True)


def spearman_within(x: Ranked, y: Ranked, blocks: Blocks, count: int) -> Statistic:
    """The mean over groups of the Spearman correlation in the group; groups in which one side is constant are out."""
    grouped = x.groups >= 0
    codes, a, b = x.groups[grouped], x.within[grouped], y.within[grouped]
    products, left, right = (np.bincount(codes, weights=w, minlength=count) for w in (a * b, a * a, b * b))
    has_both = (left > 0) & (right > 0)
    of_groups = products[has_both] / np.sqrt(left[has_both] * right[has_both])
    return blocks.ratio(blocks.of_groups(count)[has_both], of_groups)


def spearman_between(x: Ranked, y: Ranked, blocks: Blocks, count: int) -> Statistic:
    """Spearman correlation of the means of the groups, linearised."""
    grouped = x.groups >= 0
    sizes = np.bincount(x.groups[grouped], minlength=count)
    there = sizes > 0
    nowhere = np.full(int(there.sum()), -1)
    means = [np.bincount(x.groups[grouped], side.values[grouped], minlength=count)[there] for side in (x, y)]
    ranked = [Ranked(mean / sizes[there], nowhere) for mean in means]
    return spearman(ranked[0], ranked[1], blocks, blocks.of_groups(count)[there])


def auc_within(x: Ranked, is_correct: FloatArray, blocks: Blocks, count: int) -> Statistic:
    """The mean over groups of the share of pairs in which the correct one has the lower value, ties half."""
    grouped = x.groups >= 0
    codes, correct = x.groups[grouped], is_correct[grouped] > 0
    right, size = (np.bincount(some, minlength=count) for some in (codes[correct], codes))
    pairs = right * (size - right)
    has_both = pairs > 0
    ranks = np.bincount(codes[correct], x.within[grouped][correct], minlength=count)
    return blocks.ratio(blocks.of_groups(count)[has_both], 0.5 - ranks[has_both] / pairs[has_both])


def _undefined(blocks: Blocks, count: int) -> Statistic:
    nothing = np.zeros(blocks.count)
    return Statistic(math.nan, count, nothing, nothing)
