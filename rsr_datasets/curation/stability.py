"""How far the ranking of teachers stays: under halves of the data, other rank clips, and truncated rows."""

import math

import numpy as np
import pyarrow.compute as pc
from scipy import stats

from ..metrics.trajectory import FloatArray, IntArray
from ..tables import arrays
from ..tables.groups import runs
from .associations import Blocks
from .findings import Stability
from .pool import Pool

_SPLITS = 200
_RANK_CLIPS = (50, 100, 200, 500)
_ROWS_PER_TEACHER = 200
_MOST_ROWS = 4_000


class TeacherSums:
    """The scores of teachers, whose values are ratios of sums of ``upper`` and ``lower``, shape ``(rows,)``."""

    def __init__(self, pool: Pool, teachers: arrays.Categories, groups: IntArray, seed: int) -> None:
        self.pool, self.teachers, self.groups, self.seed = pool, teachers, groups, seed
        names = (pool.columns.avg_rank, pool.columns.avg_surprisal)
        self.is_ratio = pool.metric == pool.columns.rsr and set(names) <= set(pool.dataset.column_names)
        if self.is_ratio:
            self.upper, self.lower = (arrays.read_numbers(pool.dataset, name) for name in names)
        else:
            self.upper, self.lower = pool.scores, np.ones(len(pool.dataset))
        known = np.isfinite(self.upper) & np.isfinite(self.lower) & pool.status.scored & (teachers.codes >= 0)
        self.known, self.complete = known, known & ~pool.status.truncated

    def by_block(self, rows: IntArray, of_rows: IntArray, blocks: int) -> list[FloatArray]:
        """Sums of ``upper`` and of ``lower`` of some rows, shape ``(blocks, teachers)``."""
        count = len(self.teachers.values)
        cells = of_rows * count + self.teachers.codes[rows]
        parts = self.upper[rows], self.lower[rows]
        return [_sums(cells, part, blocks * count).reshape(blocks, count) for part in parts]

    def values(self, rows: IntArray, upper: FloatArray | None = None) -> FloatArray:
        """The value of each teacher over some rows, NaN without rows; another ``upper`` of these rows may be given."""
        codes, count = self.teachers.codes[rows].astype(np.int64), len(self.teachers.values)
        above = self.upper[rows] if upper is None else upper
        return _ratio(_sums(codes, above, count), _sums(codes, self.lower[rows], count))


def ranking_stability(sums: TeacherSums) -> tuple[Stability, ...]:
    """Compares the ranking of teachers under each change; nothing for fewer than two teachers with a score."""
    rows = np.flatnonzero(sums.complete)
    if np.unique(sums.teachers.codes[rows]).size < 2:
        return ()
    found = [_halves(sums, rows)]
    if (sums.known & ~sums.complete).any():
        found.append(_compared("truncated rows", sums.values(rows), sums.values(np.flatnonzero(sums.known))))
    if sums.is_ratio and sums.pool.columns.token_ranks in sums.pool.dataset.column_names:
        found += _rank_clips(sums, rows)
    return tuple(each for each in found if each is not None)


def _halves(sums: TeacherSums, rows: IntArray) -> Stability | None:
    blocks = Blocks(sums.groups[rows], sums.seed)
    if blocks.count < 2:
        return None
    upper, lower = sums.by_block(rows, blocks.of_rows, blocks.count)
    random = np.random.default_rng(sums.seed)
    halves = random.permuted(np.tile(np.arange(blocks.count) % 2, (_SPLITS, 1)), axis=1).astype(float)
    first = _ratio(halves @ upper, halves @ lower)
    second = _ratio((1 - halves) @ upper, (1 - halves) @ lower)
    return _compared("halves of the data", first, second)


def _rank_clips(sums: TeacherSums, rows: IntArray) -> list[Stability | None]:
    """The ranking from a sample of at most 200 rows of each teacher, as the paper takes, at several rank clips."""
    shuffled = np.random.default_rng(sums.seed).permutation(rows)
    shuffled = shuffled[np.argsort(sums.teachers.codes[shuffled], kind="stable")]
    codes = sums.teachers.codes[shuffled]
    size = max(1, min(_ROWS_PER_TEACHER, _MOST_ROWS // np.unique(codes).size))
    drawn = np.sort(shuffled[np.arange(codes.size) - runs(codes)[0] < size])
    name = sums.pool.columns.token_ranks
    ranks = sums.pool.dataset.select(drawn).with_format("arrow")[:][name].combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(ranks), 0).to_numpy(zero_copy_only=False)
    drawn = drawn[lengths > 0]
    if not drawn.size:
        return []
    flat = ranks.flatten().to_numpy(zero_copy_only=False)
    lengths = lengths[lengths > 0]
    starts = np.cumsum(lengths) - lengths
    before = sums.values(drawn)
    means = {clip: np.add.reduceat(np.minimum(flat, clip), starts) / lengths for clip in _RANK_CLIPS}
    return [_compared(f"rank_clip={clip}", before, sums.values(drawn, mean)) for clip, mean in means.items()]


def _compared(change: str, before: FloatArray, after: FloatArray) -> Stability | None:
    """Mean Spearman correlation of rows of values, over the teachers that have a value in all of them."""
    before, after = np.atleast_2d(before), np.atleast_2d(after)
    everywhere = np.isfinite(before).all(axis=0) & np.isfinite(after).all(axis=0)
    before, after = before[:, everywhere], after[:, everywhere]
    if before.shape[1] < 2:
        return None
    same = float((before.argmin(axis=1) == after.argmin(axis=1)).mean())
    a, b = (stats.rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (before, after))
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    defined = scale > 0
    if before.shape[1] < 3 or not defined.any():
        return Stability(change, math.nan, same)
    return Stability(change, float(((a * b).sum(axis=1)[defined] / scale[defined]).mean()), same)


def _sums(codes: IntArray, values: FloatArray, count: int) -> FloatArray:
    return np.bincount(codes, weights=values, minlength=count).astype(float)


def _ratio(upper: FloatArray, lower: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return upper / lower
