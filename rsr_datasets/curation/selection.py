"""Scores become decisions: the best trajectories per problem, the best share of a data set (paper, 5.1 and 7).

Only scores and keys are read; what is kept is returned through ``Dataset.select``, which copies no text.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, LargeList, List

from ..metrics import available_metrics, ratio_of_means
from ..reading.messages import Turns
from ..tables import arrays
from ..tables.columns import DEFAULT_TEACHER_COLUMN, STATUSES_WITH_SCORE, TRUNCATED, ScoreColumns
from ..tables.groups import Groups, group_by_columns
from ..tables.records import append_record
from ..utils.html import table
from .prompts import group_rows, groups_by_conversation

logger = logging.getLogger(__name__)

RANDOM = "random"
NO_VALUE = "no_value"

_EXAMPLES = 5
_MAX_TEACHERS = 100
_STATUS_SUFFIX = "_status"

# Why a row is not kept, in the order in which it is decided.
NO_GROUP = "no_group"
INCORRECT = "incorrect"
UNSCORED = "unscored"
TRUNCATED_ROW = "truncated"
OUTSIDE_TOKEN_LIMITS = "outside_token_limits"
WORSE = "worse"
REASONS = (NO_GROUP, INCORRECT, UNSCORED, TRUNCATED_ROW, OUTSIDE_TOKEN_LIMITS, WORSE)

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SelectionReport:
    """What a selection did. Every row that came in is in ``rows_out`` or, once, in ``dropped``.

    Attributes:
        rows_in: Rows before.
        rows_out: Rows kept.
        groups_in: Groups before: problems, or those of ``balance_by``; ``None`` where nothing was grouped.
        groups_out: Groups of which at least one row was kept.
        groups_without_score: Groups in which no row is scored.
        lost_groups: A few of the groups of which no row was kept, as text.
        dropped: Rows not kept by reason: ``no_group`` (the key is null or the prompt cannot be read), ``incorrect``,
            ``unscored``, ``truncated``, ``outside_token_limits``, ``worse`` (others had better scores).
        unscored: Rows that came in without a score, kept or not, by status; ``no_value`` for those whose status says
            scored and whose value is null, NaN or infinite.
        teacher_share: Share of each teacher among the kept rows (the paper's Table 17), the greatest first.
        mean_tokens_before: Mean number of scored tokens of the rows with a score; ``None`` where it is not defined.
        mean_tokens_after: The same of the kept rows.
        rsr_before: Rank-Surprisal Ratio of the rows with a score (Eq. 9); ``None`` where it is not defined or the
            rows were not all scored with the same settings.
        rsr_after: The same of the kept rows.
        teacher_share_before: Share of each teacher among the rows that came in, the greatest first. This and the next
            two leave out all but the hundred teachers with the most rows.
        teacher_rsr_before: The ratio of each teacher's rows with a score, as in ``rsr_before``, where it is defined.
        teacher_rsr_after: The same of the kept rows.
    """

    rows_in: int
    rows_out: int
    groups_in: int | None
    groups_out: int | None
    groups_without_score: int | None
    lost_groups: tuple[str, ...]
    dropped: dict[str, int]
    unscored: dict[str, int]
    teacher_share: dict[str, float]
    mean_tokens_before: float | None
    mean_tokens_after: float | None
    rsr_before: float | None
    rsr_after: float | None
    teacher_share_before: dict[str, float] = field(default_factory=dict)
    teacher_rsr_before: dict[str, float] = field(default_factory=dict)
    teacher_rsr_after: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return asdict(self) | {"lost_groups": list(self.lost_groups)}

    def __str__(self) -> str:
        lines = [f"rows    {self.rows_in:,} -> {self.rows_out:,}"]
        if self.groups_in is not None:
            lines.append(f"groups  {self.groups_in:,} -> {self.groups_out:,}")
            if self.groups_without_score:
                lines.append(f"  {self.groups_without_score:,} without a scored row")
            if self.lost_groups:
                lines.append(f"  lost, for example: {'; '.join(self.lost_groups)}")
        if self.dropped:
            lines.append("not kept")
            lines += [f"  {reason:<22}{count:>12,}" for reason, count in self.dropped.items()]
        if self.unscored:
            lines.append("came in without a score")
            lines += [f"  {status:<22}{count:>12,}" for status, count in self.unscored.items()]
        lines.append(
            f"tokens  {_number(self.mean_tokens_before, 1)} -> {_number(self.mean_tokens_after, 1)} on average"
        )
        lines.append(f"RSR     {_number(self.rsr_before, 3)} -> {_number(self.rsr_after, 3)}")
        if self.teacher_share:
            lines.append("share of the kept rows")
            lines += [f"  {teacher:<22}{share:>12.1%}" for teacher, share in self.teacher_share.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows: list[tuple[str, str, str]] = [("rows", f"{self.rows_in:,}", f"{self.rows_out:,}")]
        if self.groups_in is not None:
            rows.append(("groups", f"{self.groups_in:,}", f"{self.groups_out:,}"))
        before, after = self.mean_tokens_before, self.mean_tokens_after
        rows.append(("tokens on average", _number(before, 1), _number(after, 1)))
        rows.append(("RSR", _number(self.rsr_before, 3), _number(self.rsr_after, 3)))
        parts = [table(rows, head=("", "before", "after"), caption="Selection")]
        if self.lost_groups:
            parts.append(table([(group,) for group in self.lost_groups], caption="groups lost, for example"))
        for caption, counts in (("not kept", self.dropped), ("came in without a score", self.unscored)):
            if counts:
                parts.append(table([(name, f"{count:,}") for name, count in counts.items()], caption=caption))
        if self.teacher_share:
            shares = [(teacher, f"{share:.1%}") for teacher, share in self.teacher_share.items()]
            parts.append(table(shares, caption="share of the kept rows"))
        return "".join(parts)


def select_trajectories(
    dataset: Dataset | DatasetDict,
    group_by: str | Sequence[str],
    keep: int = 1,
    correct: str | None = None,
    max_tokens: int | None = None,
    min_tokens: int | None = None,
    *,
    by: str | None = None,
    largest: bool | None = None,
    seed: int = 0,
    keep_unscored: bool = False,
    keep_truncated: bool = False,
    sort: bool = False,
    allow_mixed_settings: bool = False,
    column_prefix: str = "rsr",
    teacher_column: str | None = None,
    turns: Turns = "all",
    columns: Mapping[str, str] | None = None,
    return_report: bool = False,
) -> Any:
    """Keeps the best trajectories of each problem: those with the lowest RSR (paper, section 5.1).

    Equal scores are decided by row order. Rows whose key is null belong to no problem and are not kept. A problem of
    which nothing can be kept is counted in the report, named there by example, and logged as a warning.

    Args:
        dataset: Scored rows; each split of a ``DatasetDict`` is selected by itself.
        group_by: The column that tells problems apart, or several. ``"prompt"`` is the column of that name, or,
            where there is none, the conversation before the first scored turn; both are compared by content.
        keep: Rows to keep per problem; a problem with fewer keeps them all.
        correct: Boolean column with each candidate's correctness. Of a problem with at least one correct candidate
            only correct ones are kept, even if none of them has a score; of a problem with none all may be kept
            (paper, section E.3.1). Null is unverified: it counts as not correct, no better and no worse than false.
        max_tokens: Longest trajectory to keep, in scored tokens.
        min_tokens: Shortest trajectory to keep, in scored tokens.
        by: The column to compare; ``None`` for the ratio itself. Any numeric column will do, and the name of a metric
            whose column the scorer added. ``"random"``, where no column has that name, draws at random among the same
            rows.
        largest: Keep the greatest values of ``by``, or the lowest; ``None`` is what the direction of a known metric
            says, and the lowest for any other column.
        seed: For ``by="random"``.
        keep_unscored: Let rows without a score compete too, behind all rows with one. Token limits do not apply to
            them, since their length is not known.
        keep_truncated: Let rows compete that were scored on a part of their response alone.
        sort: Order the kept rows by score, the best first, in place of the original order.
        allow_mixed_settings: Compare scores of several students or settings.
        column_prefix: The scorer's ``column_prefix``. Where ``by`` is a score column of another prefix, that counts.
        teacher_column: Column for the report's shares; ``None`` for ``"teacher"`` where there is one.
        turns: For ``group_by="prompt"`` without such a column: which assistant turns were scored.
        columns: For the same: standard column name to actual name, as given to the scorer.
        return_report: Return ``(dataset, report)``; for a ``DatasetDict`` the second is a dict of split to report.

    Returns:
        The kept rows in their original order, their rule and report added to the provenance records.

    Raises:
        ValueError: If a column is missing or of the wrong type, an argument is out of its range, or the compared
            rows were scored with different settings.
        TypeError: If ``dataset`` is neither a ``Dataset`` nor a ``DatasetDict``.
    """
    keep = _positive_int("keep", keep)
    keys = [group_by] if isinstance(group_by, str) else list(group_by)
    if not keys:
        raise ValueError("group_by=[]: name at least one column")
    rule = {
        "group_by": group_by if isinstance(group_by, str) else keys,
        "keep": keep,
        "correct": correct,
        "turns": turns,
        "columns": dict(columns) if columns else None,
    }
    pool = _PoolRule(
        by=by,
        largest=largest,
        seed=seed,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        keep_unscored=keep_unscored,
        keep_truncated=keep_truncated,
        allow_mixed_settings=allow_mixed_settings,
        column_prefix=column_prefix,
        teacher_column=teacher_column,
    )

    def select(split: Dataset) -> tuple[Dataset, SelectionReport]:
        from_conversation = groups_by_conversation(split, keys)
        rows = _Pool(split, pool, [] if from_conversation else keys, [correct] if correct else [])
        groups = group_rows(split, keys, turns, columns)
        if without_group := int((groups.codes < 0).sum()):
            logger.warning("%d rows have no key in %s: they belong to no group and are not kept", without_group, keys)
        rows.drop(groups.codes < 0, NO_GROUP)
        if correct:
            rows.drop(_gives_way(arrays.read_flags(split, correct), groups), INCORRECT)
        rows.drop_by_score()
        order = rows.order(groups.codes)
        kept = order[_position_in_group(groups.codes[order]) < keep]
        names = None if from_conversation else keys
        return rows.result(kept, sort, groups, names, "select_trajectories", rule)

    return _for_each_split(dataset, select, return_report)


def select_subset(
    dataset: Dataset | DatasetDict,
    fraction: float | None = None,
    *,
    n: int | None = None,
    max_rsr: float | None = None,
    balance_by: str | None = None,
    max_tokens: int | None = None,
    min_tokens: int | None = None,
    by: str | None = None,
    largest: bool | None = None,
    seed: int = 0,
    keep_unscored: bool = False,
    keep_truncated: bool = False,
    sort: bool = False,
    allow_mixed_settings: bool = False,
    column_prefix: str = "rsr",
    teacher_column: str | None = None,
    return_report: bool = False,
) -> Any:
    """Keeps the best rows across problems: those with the lowest RSR (paper, section 7).

    Exactly one of ``fraction``, ``n`` and ``max_rsr`` says how many. Equal scores are decided by row order.

    Args:
        dataset: Scored rows; each split of a ``DatasetDict`` is selected by itself.
        fraction: Share to keep, in (0, 1], of the rows that can be kept (those with a score, not truncated, within
            the token limits), rounded to the nearest number of rows and at least one.
        n: Rows to keep; all, with a warning, where fewer can be kept.
        max_rsr: Keep the rows whose ratio is at most this.
        balance_by: Column such as ``"teacher"``: with ``fraction`` take that share of each of its groups, with ``n``
            the same number from each, where a group with fewer rows leaves its places to the others.
        max_tokens: Longest trajectory to keep, in scored tokens.
        min_tokens: Shortest trajectory to keep, in scored tokens.
        by: The column to compare, for ``fraction`` and ``n``; ``None`` for the ratio itself. Any numeric column will
            do, and the name of a metric whose column the scorer added. ``"random"``, where no column has that name,
            draws at random among the same rows.
        largest: Keep the greatest values of ``by``, or the lowest; ``None`` is what the direction of a known metric
            says, and the lowest for any other column.
        seed: For ``by="random"``.
        keep_unscored: Let rows without a score be kept too: behind all others, or, with ``max_rsr``, all of them.
            Token limits do not apply to them, since their length is not known.
        keep_truncated: Let rows compete that were scored on a part of their response alone.
        sort: Order the kept rows by score, the best first, in place of the original order.
        allow_mixed_settings: Compare scores of several students or settings.
        column_prefix: The scorer's ``column_prefix``. Where ``by`` is a score column of another prefix, that counts.
        teacher_column: Column for the report's shares; ``None`` for ``"teacher"`` where there is one.
        return_report: Return ``(dataset, report)``; for a ``DatasetDict`` the second is a dict of split to report.

    Returns:
        The kept rows in their original order, their rule and report added to the provenance records.

    Raises:
        ValueError: If a column is missing or of the wrong type, an argument is out of its range, or the compared
            rows were scored with different settings.
        TypeError: If ``dataset`` is neither a ``Dataset`` nor a ``DatasetDict``.
    """
    given = {"fraction": fraction, "n": n, "max_rsr": max_rsr}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise ValueError(f"give exactly one of fraction, n and max_rsr; given: {chosen or 'none'}")
    if fraction is not None and not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction}: must be in (0, 1]")
    if n is not None:
        n = _positive_int("n", n)
    if max_rsr is not None:
        if not (math.isfinite(max_rsr) and max_rsr > 0):
            raise ValueError(f"max_rsr={max_rsr}: must be a positive number")
        if by is not None or largest or balance_by is not None:
            raise ValueError("max_rsr= compares the ratio itself; by=, largest= and balance_by= need fraction= or n=")
    rule = {"fraction": fraction, "n": n, "max_rsr": max_rsr, "balance_by": balance_by}
    pool = _PoolRule(
        by=by,
        largest=largest,
        seed=seed,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        keep_unscored=keep_unscored,
        keep_truncated=keep_truncated,
        allow_mixed_settings=allow_mixed_settings,
        column_prefix=column_prefix,
        teacher_column=teacher_column,
    )

    def select(split: Dataset) -> tuple[Dataset, SelectionReport]:
        keys = [balance_by] if balance_by else []
        rows = _Pool(split, pool, keys, [])
        groups = group_by_columns(split, keys) if keys else None
        codes = groups.codes if groups else np.zeros(len(split), dtype=np.int64)
        rows.drop(codes < 0, NO_GROUP)
        rows.drop_by_score()
        order = rows.order(codes)
        position = _position_in_group(codes[order])
        if fraction is not None:
            sizes = np.bincount(codes[order], minlength=1)
            quotas = np.maximum(1, np.floor(fraction * sizes + 0.5))
            kept = order[position < quotas[codes[order]]]
        elif n is not None:
            if n > order.size:
                logger.warning("n=%d: only %d of %d rows can be kept", n, order.size, len(split))
            kept = order[np.lexsort((order, rows.scores[order], position))[:n]]
        elif max_rsr is not None:
            kept = order[(rows.scores[order] <= max_rsr) | ~rows.scored[order]]
        return rows.result(kept, sort, groups, keys, "select_subset", rule)

    return _for_each_split(dataset, select, return_report)


def explode_candidates(dataset: Dataset | DatasetDict, column: str | Sequence[str]) -> Any:
    """Makes one row per candidate from a column that lists the candidates of a problem.

    Args:
        dataset: One row per problem; each split of a ``DatasetDict`` is treated by itself.
        column: The list column, such as ``"generations"``, or several that run in parallel, such as
            ``["generations", "is_correct"]``.

    Returns:
        One row per candidate in order, in which ``column`` holds the candidate and every other column is repeated.
        A problem whose list is empty or null keeps one row with a null candidate, which scoring marks as a bad row.

    Raises:
        ValueError: If a column is missing or no list, or parallel lists of one row differ in length.
        TypeError: If ``dataset`` is neither a ``Dataset`` nor a ``DatasetDict``.
    """
    names = [column] if isinstance(column, str) else list(column)
    if not names:
        raise ValueError("column=[]: name at least one list column")

    def explode(split: Dataset) -> Dataset:
        arrays.require_columns(split, names, ScoreColumns())
        features = split.features.copy()
        for name in names:
            if not isinstance(features[name], List | LargeList):
                raise ValueError(f"column {name!r} is {features[name]}; expected a list of candidates")
            features[name] = features[name].feature
        exploded = split.with_format("arrow").map(
            _explode_batch,
            batched=True,
            batch_size=100,
            with_indices=True,
            features=Features(features),
            fn_kwargs={"names": names},
            desc="Exploding candidates",
        )
        fmt = split.format
        kwargs = fmt["format_kwargs"]
        return exploded.with_format(fmt["type"], fmt["columns"], fmt["output_all_columns"], **kwargs)

    return _for_each_split(dataset, lambda split: (explode(split), None), return_report=False)


@dataclass(frozen=True)
class _PoolRule:
    """The part of a rule that every selection shares: what is compared, and which rows may be kept."""

    by: str | None
    largest: bool | None
    seed: int
    max_tokens: int | None
    min_tokens: int | None
    keep_unscored: bool
    keep_truncated: bool
    allow_mixed_settings: bool
    column_prefix: str
    teacher_column: str | None

    def __post_init__(self) -> None:
        for name in ("min_tokens", "max_tokens"):
            if (value := getattr(self, name)) is not None:
                _positive_int(name, value)
        if self.min_tokens and self.max_tokens and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens={self.min_tokens} is more than max_tokens={self.max_tokens}")

    @property
    def limits_tokens(self) -> bool:
        return self.min_tokens is not None or self.max_tokens is not None


class _Pool:
    """The rows of one data set and which of them may still be kept."""

    def __init__(self, dataset: Dataset, rule: _PoolRule, keys: Sequence[str], flags: Sequence[str]) -> None:
        self.dataset = dataset
        self.rule = rule
        present = set(dataset.column_names)
        prefix = _prefix_of(rule, present)
        self.columns = ScoreColumns(prefix)
        self.by = rule.by or self.columns.rsr
        if self.by not in present and self.by in available_metrics():
            self.by = arrays.metric_column(dataset, self.by, self.columns)
        directions = {self.columns.metric(name): metric.direction for name, metric in available_metrics().items()}
        self.largest = directions.get(self.by) == "higher" if rule.largest is None else rule.largest
        self.draws = self.by == RANDOM and RANDOM not in present
        needed = [*keys, *flags, *([] if self.draws else [self.by])]
        needed += [self.columns.num_tokens] if rule.limits_tokens else []
        needed += [rule.teacher_column] if rule.teacher_column else []
        arrays.require_columns(dataset, needed, self.columns)

        status = arrays.read_categories(dataset, self.columns.status) if self.columns.status in present else None
        values = (
            np.random.default_rng(rule.seed).random(len(dataset))
            if self.draws
            else arrays.read_numbers(dataset, self.by)
        )
        self.scored: BoolArray = np.isfinite(values)
        self.truncated: BoolArray = np.zeros(len(dataset), dtype=bool)
        self.unscored: dict[str, int] = {}
        if status:
            self.scored &= status.among(STATUSES_WITH_SCORE)
            self.truncated = status.among([TRUNCATED])
            self.unscored = _count_unscored(status, ~self.scored)
        elif not self.scored.all():
            self.unscored = {NO_VALUE: int((~self.scored).sum())}
        self.scores: FloatArray = np.where(self.scored, -values if self.largest else values, np.inf)
        self.settings = (
            arrays.read_categories(dataset, self.columns.settings) if self.columns.settings in present else None
        )
        self.num_tokens = (
            arrays.read_numbers(dataset, self.columns.num_tokens) if self.columns.num_tokens in present else None
        )
        self.open: BoolArray = np.ones(len(dataset), dtype=bool)
        self.dropped: dict[str, int] = {}

    def drop(self, rows: BoolArray, reason: str) -> None:
        count = int((rows & self.open).sum())
        if count:
            self.dropped[reason] = count
            self.open &= ~rows

    def drop_by_score(self) -> None:
        if not self.rule.keep_unscored:
            self.drop(~self.scored, UNSCORED)
        if not self.rule.keep_truncated:
            self.drop(self.truncated & self.scored, TRUNCATED_ROW)
        if self.rule.limits_tokens and self.num_tokens is not None:
            low, high = self.rule.min_tokens or 0, self.rule.max_tokens or math.inf
            self.drop(self.scored & ((self.num_tokens < low) | (self.num_tokens > high)), OUTSIDE_TOKEN_LIMITS)
        compares_scores = self.columns.is_score(self.by) or self.rule.limits_tokens
        if compares_scores and not self.rule.allow_mixed_settings:
            arrays.require_one_setting(self.columns, self._settings(self.open & self.scored))

    def order(self, codes: IntArray) -> IntArray:
        """Rows that may be kept, group after group, the best first, equal ones in row order."""
        rows = np.flatnonzero(self.open)
        return rows[np.lexsort((self.scores[rows], codes[rows]))]

    def result(
        self,
        kept: IntArray,
        sort: bool,
        groups: Groups | None,
        keys: Sequence[str] | None,
        step: str,
        rule: Mapping[str, Any],
    ) -> tuple[Dataset, SelectionReport]:
        rows = kept[np.lexsort((kept, self.scores[kept]))] if sort else np.sort(kept)
        worse = int(self.open.sum()) - rows.size
        if worse:
            self.dropped[WORSE] = worse
        report = self._report(rows, groups, keys)
        if report.groups_in is not None and report.groups_out is not None and report.groups_out < report.groups_in:
            logger.warning(
                "%d of %d groups keep no row (%d groups have no scored row), for example: %s",
                report.groups_in - report.groups_out,
                report.groups_in,
                report.groups_without_score,
                "; ".join(report.lost_groups),
            )
        resolved = {"by": self.by, "largest": self.largest, "column_prefix": self.columns.prefix}
        shared = asdict(self.rule) | resolved | {"sort": sort}
        record = {"step": step, "rule": {**rule, **shared}, "report": report.to_dict()}
        return append_record(self.dataset.select(rows), record), report

    def _settings(self, rows: BoolArray | IntArray) -> list[str]:
        return self.settings.present(rows) if self.settings else []

    def _report(self, kept: IntArray, groups: Groups | None, keys: Sequence[str] | None) -> SelectionReport:
        groups_out = groups_without_score = None
        lost: tuple[str, ...] = ()
        if groups:
            in_result = _groups_with(groups, kept)
            groups_out = int(in_result.sum())
            with_score = _groups_with(groups, np.flatnonzero(self.scored & (groups.codes >= 0)))
            groups_without_score = int((~with_score).sum())
            lost = tuple(self._describe(groups, keys, g) for g in np.flatnonzero(~in_result)[:_EXAMPLES])
        scored = np.flatnonzero(self.scored)
        scored_kept = kept[self.scored[kept]]
        rsr_before, rsr_after = self._rsr([scored, scored_kept])
        teachers = self._teachers()
        share_before = _shares(teachers, np.arange(len(self.dataset)))
        named = dict(list(share_before.items())[:_MAX_TEACHERS])
        return SelectionReport(
            rows_in=len(self.dataset),
            rows_out=kept.size,
            groups_in=groups.count if groups else None,
            groups_out=groups_out,
            groups_without_score=groups_without_score,
            lost_groups=lost,
            dropped={reason: self.dropped[reason] for reason in REASONS if reason in self.dropped},
            unscored=self.unscored,
            teacher_share=_shares(teachers, kept),
            mean_tokens_before=self._mean_tokens(scored),
            mean_tokens_after=self._mean_tokens(scored_kept),
            rsr_before=rsr_before,
            rsr_after=rsr_after,
            teacher_share_before=named,
            teacher_rsr_before=self._rsr_by_teacher(teachers, scored, named),
            teacher_rsr_after=self._rsr_by_teacher(teachers, scored_kept, named),
        )

    def _describe(self, groups: Groups, keys: Sequence[str] | None, group: int) -> str:
        row = int(np.argmax(groups.codes == group))
        if not keys:
            return f"the prompt of row {row}"
        values = self.dataset.select_columns(list(keys)).with_format(None)[row]
        return ", ".join(f"{key}={value!r:.60}" for key, value in values.items())

    def _teachers(self) -> arrays.Categories | None:
        column = self.rule.teacher_column or DEFAULT_TEACHER_COLUMN
        return arrays.read_categories(self.dataset, column) if column in self.dataset.column_names else None

    def _rsr_by_teacher(
        self, teachers: arrays.Categories | None, rows: IntArray, names: Collection[str]
    ) -> dict[str, float]:
        if teachers is None:
            return {}
        chosen = {str(value): code for code, value in _coded(teachers) if str(value) in names}
        by_teacher = [rows[teachers.codes[rows] == code] for code in chosen.values()]
        ratios = dict(zip(chosen, self._rsr(by_teacher), strict=True))
        return {name: ratio for name in names if (ratio := ratios.get(name)) is not None}

    def _mean_tokens(self, rows: IntArray) -> float | None:
        if self.num_tokens is None or not rows.size:
            return None
        mean = float(self.num_tokens[rows].mean())
        return mean if math.isfinite(mean) else None

    def _rsr(self, selections: Sequence[IntArray]) -> list[float | None]:
        names = (self.columns.avg_rank, self.columns.avg_surprisal)
        if not all(name in self.dataset.column_names for name in names):
            return [None] * len(selections)
        parts = [arrays.read_numbers(self.dataset, name) for name in names]
        ratios = [
            math.nan if len(self._settings(rows)) > 1 else ratio_of_means(*(part[rows] for part in parts))
            for rows in selections
        ]
        return [ratio if math.isfinite(ratio) else None for ratio in ratios]


def _coded(categories: arrays.Categories) -> list[tuple[int, Any]]:
    return list(enumerate([None, *categories.values], start=-1))


def _shares(teachers: arrays.Categories | None, rows: IntArray) -> dict[str, float]:
    if teachers is None or not rows.size:
        return {}
    counts = np.bincount(teachers.codes[rows] + 1, minlength=len(teachers.values) + 1)
    shares = {str(value): int(counts[code + 1]) / rows.size for code, value in _coded(teachers) if counts[code + 1]}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _explode_batch(batch: pa.Table, indices: list[int], names: list[str]) -> pa.Table:
    lists = {name: batch[name].combine_chunks() for name in names}
    lengths = {name: np.asarray(array.value_lengths().fill_null(0)) for name, array in lists.items()}
    first = lengths[names[0]]
    for name in names[1:]:
        if (differing := np.flatnonzero(lengths[name] != first)).size:
            i = differing[0]
            raise ValueError(
                f"row {indices[i]}: column {name!r} lists {lengths[name][i]} candidates, {names[0]!r} {first[i]}"
            )
    rows_per_problem = np.maximum(first, 1)
    parents = np.repeat(np.arange(len(batch)), rows_per_problem)
    has_candidate = np.repeat(first > 0, rows_per_problem)
    child = np.cumsum(has_candidate) - 1
    children = pa.array(child, mask=~has_candidate)
    repeated = batch.drop_columns(names).take(parents)
    columns = {name: repeated[name] for name in repeated.column_names}
    columns |= {name: array.flatten().take(children) for name, array in lists.items()}
    return pa.table({name: columns[name] for name in batch.column_names})


def _for_each_split(
    dataset: Dataset | DatasetDict, step: Callable[[Dataset], tuple[Dataset, Any]], return_report: bool
) -> Any:
    if isinstance(dataset, DatasetDict):
        results = {name: step(split) for name, split in dataset.items()}
        selected = DatasetDict({name: result for name, (result, _) in results.items()})
        return (selected, {name: report for name, (_, report) in results.items()}) if return_report else selected
    if not isinstance(dataset, Dataset):
        raise TypeError(f"expected a Dataset or DatasetDict, found {type(dataset).__name__}")
    result, report = step(dataset)
    return (result, report) if return_report else result


def _prefix_of(rule: _PoolRule, present: set[str]) -> str:
    """The prefix whose score column ``by`` is, so that the status beside it counts."""
    if rule.by is None or ScoreColumns(rule.column_prefix).is_score(rule.by):
        return rule.column_prefix
    prefixes = [name.removesuffix(_STATUS_SUFFIX) for name in present if name.endswith(_STATUS_SUFFIX)]
    owners = [
        p for p in sorted(prefixes) if (columns := ScoreColumns(p)).is_score(rule.by) and columns.settings in present
    ]
    return owners[0] if owners else rule.column_prefix


def _gives_way(correct: BoolArray, groups: Groups) -> BoolArray:
    has_correct = _groups_with(groups, np.flatnonzero(correct & (groups.codes >= 0)))
    return ~correct & has_correct[groups.codes] if groups.count else ~correct


def _groups_with(groups: Groups, rows: IntArray) -> BoolArray:
    found = np.zeros(groups.count, dtype=bool)
    found[groups.codes[rows]] = True
    return found


def _position_in_group(sorted_codes: IntArray) -> IntArray:
    starts = np.flatnonzero(np.diff(sorted_codes, prepend=-1))
    sizes = np.diff(np.append(starts, sorted_codes.size))
    return np.arange(sorted_codes.size) - np.repeat(starts, sizes)


def _count_unscored(status: arrays.Categories, unscored: BoolArray) -> dict[str, int]:
    counts = np.bincount(status.codes[unscored] + 1, minlength=len(status.values) + 1)
    found: dict[str, int] = {}
    for value, count in zip([None, *status.values], counts, strict=True):
        name = NO_VALUE if value is None or value in STATUSES_WITH_SCORE else str(value)
        if count:
            found[name] = found.get(name, 0) + int(count)
    return found


def _positive_int(name: str, value: Any) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r}: must be a positive whole number")
    return int(value)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
