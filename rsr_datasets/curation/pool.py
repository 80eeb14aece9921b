"""The rows of a dataset that a selection chooses from: which may be kept, and which are better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from ..metrics import available_metrics
from ..tables import arrays
from ..tables.columns import ScoreColumns, score_prefixes
from ..tables.groups import Groups
from ..tables.status import read_status

RANDOM = "random"

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


@dataclass(frozen=True)
class PoolRule:
    """The arguments that all selections share: the column to compare, and the rows that may be kept.

    Args:
        max_tokens: Longest trajectory to keep, in scored tokens.
        min_tokens: Shortest trajectory to keep, in scored tokens.
        metric: The column to compare; ``None`` for the ratio itself. Any numeric column will do, and the name of a
            metric whose column the scorer added. ``"random"``, where no column has that name, draws at random among
            the same rows.
        largest: Keep the greatest values of ``metric``, or the lowest; ``None`` is what the direction of a known
            metric says, and the lowest for any other column.
        seed: For ``metric="random"``.
        keep_unscored: Let rows without a score be kept too, behind all rows with one; ``max_rsr`` keeps all of them.
            Token limits do not apply to them, since their length is not known.
        keep_truncated: Let rows compete that were scored on a part of their response alone.
        sort: Order the kept rows by score, the best first, in place of the original order.
        allow_mixed_settings: Compare scores of several students or settings.
        column_prefix: The scorer's ``column_prefix``. Where ``metric`` is a score column of another prefix, that
            prefix counts.
        teacher_column: Column for the report's shares; ``None`` for ``"teacher"`` where there is one.
    """

    max_tokens: int | None = None
    min_tokens: int | None = None
    _: KW_ONLY
    metric: str | None = None
    largest: bool | None = None
    seed: int = 0
    keep_unscored: bool = False
    keep_truncated: bool = False
    sort: bool = False
    allow_mixed_settings: bool = False
    column_prefix: str = "rsr"
    teacher_column: str | None = None

    def __post_init__(self) -> None:
        for name in ("min_tokens", "max_tokens"):
            if (value := getattr(self, name)) is not None:
                positive_int(name, value)
        if self.min_tokens and self.max_tokens and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens={self.min_tokens} is more than max_tokens={self.max_tokens}")

    @property
    def limits_tokens(self) -> bool:
        """Whether the length of a trajectory matters."""
        return self.min_tokens is not None or self.max_tokens is not None


class Pool:
    """The rows of one dataset, and which of them may still be kept.

    Args:
        dataset: The rows.
        rule: What is compared, and which rows may be kept.
        needed: Other columns that the selection reads.

    Attributes:
        metric: The column that is compared.
        largest: Whether greater values of it are better.
        columns: The score columns that ``metric`` belongs to.
        scored: Which rows have a score, bool, shape ``(rows,)``.
        unscored: Rows without a score by status.
        scores: The score of each row, lower is better, infinite where there is none, shape ``(rows,)``.
        num_tokens: Scored tokens of each row, shape ``(rows,)``; ``None`` where there is no such column.
        open: Which rows may still be kept, bool, shape ``(rows,)``.
        dropped: Rows that may not, by reason.

    Raises:
        ValueError: If a column is missing or of the wrong type.
    """

    def __init__(self, dataset: Dataset, rule: PoolRule, needed: Sequence[str] = ()) -> None:
        present = set(dataset.column_names)
        self.dataset, self.rule = dataset, rule
        self.columns = ScoreColumns(_prefix_of(rule, present))
        self.metric = rule.metric or self.columns.rsr
        if self.metric not in present and self.metric in available_metrics():
            self.metric = arrays.metric_column(dataset, self.metric, self.columns)
        directions = {self.columns.metric(name): known.direction for name, known in available_metrics().items()}
        self.largest = directions.get(self.metric) == "higher" if rule.largest is None else rule.largest
        draws = self.metric == RANDOM and RANDOM not in present
        names = [None if draws else self.metric, self.columns.num_tokens if rule.limits_tokens else None]
        wanted = [*needed, *names, rule.teacher_column]
        arrays.require_columns(dataset, [name for name in wanted if name is not None], self.columns)

        random = np.random.default_rng(rule.seed)
        values = random.random(len(dataset)) if draws else arrays.read_numbers(dataset, self.metric)
        status = read_status(dataset, self.columns, values)
        self.scored, self.unscored, self._truncated = status.scored, status.unscored, status.truncated
        self.scores = np.where(self.scored, -values if self.largest else values, np.inf)
        settings, num_tokens = self.columns.settings, self.columns.num_tokens
        self._settings = arrays.read_categories(dataset, settings) if settings in present else None
        self.num_tokens = arrays.read_numbers(dataset, num_tokens) if num_tokens in present else None
        self.open: BoolArray = np.ones(len(dataset), dtype=bool)
        self.dropped: dict[str, int] = {}

    def settings(self, rows: BoolArray | IntArray) -> list[str]:
        """The distinct settings that some rows were scored with."""
        return self._settings.present(rows) if self._settings else []

    def drop(self, rows: BoolArray, reason: str) -> None:
        """Excludes rows.

        Args:
            rows: Bool, shape ``(rows,)``; those that were excluded before are not counted again.
            reason: One of :data:`REASONS`.
        """
        if count := int((rows & self.open).sum()):
            self.dropped[reason] = count
            self.open &= ~rows

    def drop_by_score(self) -> None:
        """Excludes the rows that the rule excludes, for want of a score, for their status or for their length.

        Raises:
            ValueError: If the rows to compare were scored with different settings.
        """
        if not self.rule.keep_unscored:
            self.drop(~self.scored, UNSCORED)
        if not self.rule.keep_truncated:
            self.drop(self._truncated & self.scored, TRUNCATED_ROW)
        if self.rule.limits_tokens and self.num_tokens is not None:
            low, high = self.rule.min_tokens or 0, self.rule.max_tokens or math.inf
            self.drop(self.scored & ((self.num_tokens < low) | (self.num_tokens > high)), OUTSIDE_TOKEN_LIMITS)
        compares_scores = self.columns.is_score(self.metric) or self.rule.limits_tokens
        if compares_scores and not self.rule.allow_mixed_settings:
            arrays.require_one_setting(self.columns, self.settings(self.open & self.scored))

    def order(self, codes: IntArray) -> tuple[IntArray, IntArray]:
        """Orders the rows that may be kept.

        Args:
            codes: Group of each row, int64, shape ``(rows,)``.

        Returns:
            The rows, group after group, the best first, equal ones in row order; and the place of each in its group,
            from 0.
        """
        rows = np.flatnonzero(self.open)
        order = rows[np.lexsort((self.scores[rows], codes[rows]))]
        starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
        sizes = np.diff(np.append(starts, order.size))
        return order, np.arange(order.size) - np.repeat(starts, sizes)


def groups_with(groups: Groups, rows: IntArray) -> BoolArray:
    """Tells which groups some rows belong to.

    Args:
        groups: The groups.
        rows: Rows that have a group each, by number.

    Returns:
        Bool, shape ``(groups,)``.
    """
    found = np.zeros(groups.count, dtype=bool)
    found[groups.codes[rows]] = True
    return found


def positive_int(name: str, value: Any) -> int:
    """Checks an argument.

    Raises:
        ValueError: If it is no positive whole number.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r}: must be a positive whole number")
    return int(value)


def _prefix_of(rule: PoolRule, present: set[str]) -> str:
    """The prefix whose score column ``metric`` is, so that the status beside it counts."""
    if rule.metric is None or ScoreColumns(rule.column_prefix).is_score(rule.metric):
        return rule.column_prefix
    owners = (prefix for prefix in score_prefixes(present) if ScoreColumns(prefix).is_score(rule.metric))
    return next(owners, rule.column_prefix)
