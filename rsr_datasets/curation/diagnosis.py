"""Does a score say more than the length of a trajectory? Correlations, overlaps and stability in one diagnosis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from ..metrics.trajectory import FloatArray, IntArray
from ..reading.messages import Turns
from ..tables import arrays
from ..tables.columns import DEFAULT_TEACHER_COLUMN
from ..tables.splits import require_dataset
from .associations import Blocks, Ranked, Statistic, auc_within, spearman, spearman_between, spearman_within
from .findings import (
    ALL_LENGTHS,
    CORRECTNESS,
    LENGTH,
    LONGEST,
    OTHER_TEACHERS,
    RANDOM,
    SHORTEST,
    TURNS,
    Association,
    Diagnosis,
    Overlap,
    TeacherShare,
    UnscoredTeacher,
)
from .pool import Pool, SelectionOptions
from .prompts import group_problems
from .stability import TeacherSums, ranking_stability
from .traits import count_turns, read_correctness, read_trait, response_lengths

_SURPRISAL, _RANK = "average surprisal", "average rank"
_QUARTERS = ("shortest quarter", "second quarter", "third quarter", "longest quarter")
_MAX_TEACHERS = 50


def diagnose(
    scored: Dataset,
    group_by: str | Sequence[str] | None = None,
    metric: str = "rsr",
    correct: str | None = None,
    teacher_column: str | None = None,
    *,
    also: Sequence[str] | None = None,
    largest: bool | None = None,
    allow_mixed_settings: bool = False,
    seed: int = 0,
    column_prefix: str = "rsr",
    turns: Turns = "all",
    columns: Mapping[str, str] | None = None,
) -> Diagnosis:
    """Says what a metric goes along with: length, surprisal, rank, turns, correctness, teachers, and missing scores.

    Each correlation is Spearman's: over all rows, within groups (the mean over groups of the correlation in the group:
    with few candidates it is nearer 0 than with many), and between groups (of their means). Intervals are 95%
    bootstrap intervals clustered by group. So that they are quick for millions of rows, groups are resampled as sums:
    of the correlations of groups, or of the linearised errors of rows (their influence on the rank correlation, on
    Fisher's scale); more than 2,000 groups are resampled as 2,000 random blocks of groups.

    The picks are the rows with the best value of their group, among rows with a complete score. Where several rows are
    equal, each counts by its part.

    Args:
        scored: Scored rows.
        group_by: The column that tells problems apart, or several, as in :func:`select_trajectories`; ``None`` where
            there is none.
        metric: The name of a metric whose column the scorer added, or any numeric column.
        correct: Column of true and false that says which candidates are correct; null is unknown and left out.
        teacher_column: Column with the teacher; ``None`` for ``"teacher"`` where there is one.
        also: Further numeric or boolean columns to correlate the metric with.
        largest: Whether more is better; ``None`` is what the direction of a known metric says, and the lowest for any
            other column.
        allow_mixed_settings: Compare scores of several students or settings.
        seed: Seed of the bootstrap, the halves and the samples.
        column_prefix: The ``column_prefix`` given to the scorer.
        turns: For ``group_by="prompt"`` without such a column: which assistant turns were scored.
        columns: Names of input columns, standard name first, as given to the scorer.

    Returns:
        The tables, and sentences that read them. A number that the rows do not define is NaN, and a sentence says why.

    Raises:
        ValueError: If a column is missing or of the wrong type, or the rows were scored with different settings.
        TypeError: If ``scored`` is not a ``Dataset``.
    """
    require_dataset(scored, "scored")
    asked = [also] if isinstance(also, str) else also or ()
    names = scored.column_names
    teacher = teacher_column or (DEFAULT_TEACHER_COLUMN if DEFAULT_TEACHER_COLUMN in names else None)
    options = SelectionOptions(
        metric=None if metric == "rsr" else metric,
        largest=largest,
        allow_mixed_settings=allow_mixed_settings,
        column_prefix=column_prefix,
    )
    pool = Pool(scored, options, [name for name in (correct, teacher, *asked) if name is not None])
    pool.drop_by_score()
    rows = np.flatnonzero(pool.open)
    keys = "" if group_by is None else ", ".join([group_by] if isinstance(group_by, str) else group_by)
    codes = np.full(len(scored), -1) if group_by is None else group_problems(scored, group_by, turns, columns)[0].codes
    comparison = _Comparison(pool, rows, codes, seed)
    teachers = None if teacher is None else arrays.read_categories(scored, teacher)
    is_own_ratio = pool.metric == pool.columns.rsr
    parts = (pool.columns.avg_surprisal, pool.columns.avg_rank)
    own = {
        LENGTH: pool.columns.num_tokens,
        _SURPRISAL: pool.columns.avg_surprisal,
        _RANK: pool.columns.avg_rank,
    }
    values = {name: read_trait(scored, column) for name, column in own.items() if column in names}
    if (counted := count_turns(scored, columns)) is not None:
        values[TURNS] = counted
    if correct:
        values[CORRECTNESS] = read_correctness(scored, correct)
    reserved = {*own, TURNS, CORRECTNESS}
    values |= {f"column {name}" if name in reserved else name: read_trait(scored, name) for name in asked}
    for name, value in values.items():
        if (column := own.get(name, name)) != pool.metric:
            comparison.add_trait(name, value[rows], is_part=is_own_ratio and column in parts)
    if correct and group_by is not None:
        comparison.add_correctness(values[CORRECTNESS][rows])
    if group_by is not None:
        comparison.add_overlaps(values.get(LENGTH), values.get(_SURPRISAL))
    associations, correctness, overlaps = comparison.results()
    return Diagnosis(
        metric="RSR" if is_own_ratio else pool.metric,
        group_by=keys or None,
        rows=len(scored),
        compared=rows.size,
        truncated=pool.dropped.get("truncated", 0),
        unscored=pool.status.unscored,
        ungrouped=0 if group_by is None else int((comparison.codes < 0).sum()),
        groups=int((comparison.sizes > 0).sum()),
        groups_with_choice=int((comparison.sizes > 1).sum()),
        is_constant=bool(rows.size) and comparison.metric.is_constant,
        associations=associations,
        correctness=correctness,
        overlaps=overlaps,
        teachers=() if teachers is None else _teacher_shares(comparison, teachers, values.get(LENGTH)),
        stability=() if teachers is None else ranking_stability(TeacherSums(pool, teachers, codes, seed)),
        unscored_teachers=() if teachers is None else _unscored_teachers(pool, teachers, codes, seed),
        unscored_lengths=response_lengths(scored, ~pool.status.scored, turns, columns, seed),
    )


class _Comparison:
    """The compared rows; statistics are collected, and all get their intervals from the same resamples."""

    def __init__(self, pool: Pool, rows: IntArray, codes: IntArray, seed: int) -> None:
        self.pool, self.rows, self.codes = pool, rows, codes[rows]
        self.count = int(codes.max(initial=-1)) + 1
        self.sizes = np.bincount(self.codes[self.codes >= 0], minlength=self.count)
        self.blocks = Blocks(self.codes, seed)
        scores = pool.scores[rows]
        self.metric = Ranked(-scores if pool.largest else scores, self.codes)
        self._statistics: list[Statistic] = []
        self._traits: list[dict[str, Any]] = []
        self._has_correctness = False
        self._overlaps: list[tuple[str, float]] = []

    def add_trait(self, name: str, values: FloatArray, is_part: bool) -> None:
        """Adds the three correlations with a trait, over the rows that have a finite value."""
        valid = np.isfinite(values)
        of_rows, metric = self.blocks.of_rows, self.metric
        if not valid.all():
            metric, values, of_rows = Ranked(metric.values[valid], self.codes[valid]), values[valid], of_rows[valid]
        trait = Ranked(values, metric.groups)
        self._statistics += [
            spearman(metric, trait, self.blocks, of_rows),
            spearman_within(metric, trait, self.blocks, self.count),
            spearman_between(metric, trait, self.blocks, self.count),
        ]
        about = {"missing": int((~valid).sum()), "is_part": is_part, "is_constant": trait.is_constant}
        self._traits.append({"trait": name, **about})

    def add_correctness(self, is_correct: FloatArray) -> None:
        """Adds the AUC within groups, over the rows whose correctness is known."""
        known = np.isfinite(is_correct)
        scores = Ranked(self.pool.scores[self.rows][known], self.codes[known])
        self._statistics.append(auc_within(scores, is_correct[known], self.blocks, self.count))
        self._has_correctness = True

    def add_overlaps(self, lengths: FloatArray | None, surprisals: FloatArray | None) -> None:
        """Adds how often the pick of a group is also the pick of another rule, and how often by chance."""
        rules = {SHORTEST: (lengths, 1), LONGEST: (lengths, -1), f"lowest {_SURPRISAL}": (surprisals, 1)}
        has_choice = self.sizes > 1
        if not has_choice.any():
            return
        blocks, parts = self.blocks.of_groups(self.count), self.pick_parts()
        for rule, (values, sign) in rules.items():
            if values is None:
                continue
            known = np.isfinite(values[self.rows])
            extreme = self._is_lowest(np.where(known, sign * values[self.rows], np.inf))
            shared, all_extreme = (self._by_group(weights) for weights in (parts * extreme, extreme))
            compared = (self._by_group(~known) == 0) & (all_extreme < self.sizes)
            if compared.any():
                chance = all_extreme[compared] / self.sizes[compared]
                self._add_overlap(rule, blocks[compared], shared[compared], chance)
        by_chance = 1 / self.sizes[has_choice]
        self._add_overlap(RANDOM, blocks[has_choice], by_chance, by_chance)

    def _add_overlap(self, rule: str, blocks: IntArray, shared: FloatArray, chance: FloatArray) -> None:
        self._statistics += [
            self.blocks.ratio(blocks, shared),
            self.blocks.ratio(blocks, shared - chance, 1 - chance),
        ]
        self._overlaps.append((rule, float(chance.mean())))

    def pick_parts(self) -> FloatArray:
        """How much of the pick of its group each row is: all of it, none, or its part where the best are equal."""
        best = self._is_lowest(self.pool.scores[self.rows])
        return best / np.append(np.maximum(self._by_group(best), 1), 1)[self.codes]

    def _by_group(self, values: FloatArray) -> FloatArray:
        grouped = self.codes >= 0
        return np.bincount(self.codes[grouped], weights=values[grouped], minlength=self.count).astype(float)

    def _is_lowest(self, values: FloatArray) -> FloatArray:
        """1 where a row has the lowest value of its group, else 0."""
        lowest = np.full(self.count + 1, np.inf)
        np.minimum.at(lowest, self.codes, values)
        return ((self.codes >= 0) & (values == lowest[self.codes])).astype(float)

    def results(self) -> tuple[tuple[Association, ...], Any, tuple[Overlap, ...]]:
        """The correlations, the AUC if there is one, and the overlaps."""
        estimates = iter(self.blocks.estimate(self._statistics))
        associations = []
        for about in self._traits:
            overall, within, between = next(estimates), next(estimates), next(estimates)
            associations.append(Association(overall=overall, within=within, between=between, **about))
        correctness = next(estimates) if self._has_correctness else None
        overlaps = [
            Overlap(rule, next(estimates).within(0, 1), chance, next(estimates)) for rule, chance in self._overlaps
        ]
        return tuple(associations), correctness, tuple(overlaps)


def _teacher_shares(
    comparison: _Comparison, teachers: arrays.Categories, lengths: FloatArray | None
) -> tuple[TeacherShare, ...]:
    """Shares of teachers, of all lengths and each quarter of lengths; those with the fewest rows may be together."""
    grouped = comparison.codes >= 0
    picked, of = comparison.pick_parts()[grouped], teachers.codes[comparison.rows[grouped]] + 1
    quarters: dict[str, Any] = {ALL_LENGTHS: slice(None)}
    own = np.empty(0) if lengths is None else lengths[comparison.rows[grouped]]
    if own.size and np.isfinite(own).all():
        quarter = np.searchsorted(np.quantile(own, [0.25, 0.5, 0.75]), own)
        quarters |= {name: quarter == i for i, name in enumerate(_QUARTERS) if (quarter == i).any()}
    names = ["(none)", *map(str, teachers.values), OTHER_TEACHERS]
    most = np.argsort(-np.bincount(of, minlength=len(names)), kind="stable")[:_MAX_TEACHERS].tolist()
    of[~np.isin(of, most)] = len(names) - 1
    shares = []
    for length, some in quarters.items():
        candidates, chosen = (np.bincount(of[some], weights=w, minlength=len(names)) for w in (None, picked[some]))
        totals = max(candidates.sum(), 1), chosen.sum() or math.nan
        shares += [
            TeacherShare(names[i], length, float(candidates[i] / totals[0]), float(chosen[i] / totals[1]))
            for i in dict.fromkeys([*most, len(names) - 1])
            if candidates[i]
        ]
    return tuple(shares) if not math.isnan(picked.sum() or math.nan) else ()


def _unscored_teachers(
    pool: Pool, teachers: arrays.Categories, codes: IntArray, seed: int
) -> tuple[UnscoredTeacher, ...]:
    """The share of rows without a score of each teacher that has some; tested for all teachers together."""
    missing = ~pool.status.scored
    if not missing.any():
        return ()
    blocks = Blocks(codes, seed)
    of, names = teachers.codes + 1, ["(none)", *map(str, teachers.values)]
    most = np.argsort(-np.bincount(of[missing], minlength=len(names)), kind="stable")[:_MAX_TEACHERS]
    chosen = [i for i in most if (missing & (of == i)).any()]
    shares = [blocks.ratio(blocks.of_rows[of == i], missing[of == i].astype(float)) for i in chosen]
    strict = blocks.estimate(shares, 1 - 0.05 / len(shares))
    total = float(missing.mean())
    return tuple(
        UnscoredTeacher(names[i], estimate, bool(bound.low > 1.2 * total))
        for i, estimate, bound in zip(chosen, blocks.estimate(shares), strict, strict=True)
    )
