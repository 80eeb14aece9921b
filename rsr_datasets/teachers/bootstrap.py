"""The bootstrap of a ratio of means."""

from __future__ import annotations

import numpy as np

from ..metrics.trajectory import FloatArray

DEFAULT_RESAMPLES = 2000

_MAX_UNITS = 10_000
_CELLS_PER_CHUNK = 4_000_000


def bootstrap_ratios(upper: FloatArray, lower: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Ratios of the sums of ``upper`` and ``lower`` over resampled units; NaN without units.

    Both inputs have the shape ``(units, sets)``, the result ``(resamples, sets)``. More than 10,000 units are first
    put at random into 10,000 blocks of like size, which are then resampled: the interval is as wide for less work.
    """
    rng = np.random.default_rng(seed)
    units, sets = upper.shape
    if not units:
        return np.full((resamples, sets), np.nan)
    sums = np.concatenate([upper, lower], axis=1)
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
