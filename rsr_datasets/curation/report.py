"""The end of a selection: the kept rows, their provenance record, and what the selection did in numbers."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from datasets import Dataset

from ..metrics import ratio_of_means
from ..tables import arrays
from ..tables.columns import DEFAULT_TEACHER_COLUMN
from ..tables.groups import Groups
from ..tables.records import append_record
from ..utils.texts import dashed
from .pool import IntArray, Pool

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelectionReport:
    """The account of a selection. Every row that came in is in ``rows_out`` or, once, in ``dropped``.

    Attributes:
        rows_in, rows_out: Rows before, and rows kept.
        groups_in: Groups before: problems, or those of ``balance_by``; ``None`` where nothing was grouped.
        groups_out, groups_without_score: Groups of which at least one row was kept; groups in which no row is scored.
        lost_groups: A few of the groups of which no row was kept, as text.
        dropped: Rows not kept by reason: ``no_group`` (the key is null or the prompt cannot be read), ``incorrect``
            and ``correctness_unknown`` (false and null, where the problem has a correct row), ``pruned`` (not read to
            the end), ``unscored``, ``truncated``, ``outside_token_limits``, ``worse`` (others had better scores).
        unscored: Rows that came in without a score, kept or not, by status; ``no_value`` for those whose status says
            scored and whose value is null, NaN or infinite.
        teacher_share: Share of each teacher among the kept rows (the paper's Table 17), the greatest first.
        mean_tokens_before, mean_tokens_after: Mean number of scored tokens of the rows with a score among all rows,
            and among the kept rows; ``None`` where it is not defined.
        rsr_before, rsr_after: Rank-Surprisal Ratio of the same (Eq. 9); ``None`` where it is not defined or the rows
            were not all scored with the same settings.
        teacher_share_before: Share of each teacher among the rows that came in, the greatest first. This and the next
            two hold only the hundred teachers with the most rows.
        teacher_rsr_before, teacher_rsr_after: As ``rsr_before`` and ``rsr_after`` of each teacher, where defined.
        kept_not_correct: With ``correct``: kept rows that are false or null there, whose problems have no correct row.
        pruning: Where candidates were read in stages: the promise (``regret``, ``confidence``), ``problems`` and how
            many of them were read whole (``calibration``), the stages' ``lengths`` (as shares of the mean length of a
            problem's candidates) and the ``shares`` of candidates that went on, none where everything was read;
            ``tokens`` of the candidates and ``tokens_read``, those that were read twice counted twice. Means and
            ratios before the selection are then not known.
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
    kept_not_correct: int | None = None
    pruning: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON object."""
        found = asdict(self) | {"lost_groups": list(self.lost_groups)}
        absent = {name for name in ("kept_not_correct", "pruning") if found[name] is None}
        return {name: value for name, value in found.items() if name not in absent}

    def __str__(self) -> str:
        lines = [f"rows    {self.rows_in:,} -> {self.rows_out:,}"]
        if self.groups_in is not None:
            lines.append(f"groups  {self.groups_in:,} -> {self.groups_out:,}")
            if self.groups_without_score:
                lines.append(f"  {self.groups_without_score:,} without a scored row")
            if self.lost_groups:
                lines.append(f"  lost, for example: {'; '.join(self.lost_groups)}")
        if (found := self.pruning) is not None:
            share = found["tokens_read"] / max(found["tokens"], 1)
            promise = f"RSR within {found['regret']:.1%} at confidence {found['confidence']:.0%}"
            lines.append(f"read    {found['tokens_read']:,} of {found['tokens']:,} tokens ({share:.0%}): {promise}")
        for title, counts in (("not kept", self.dropped), ("came in without a score", self.unscored)):
            if counts:
                lines += [title, *(f"  {reason:<22}{count:>12,}" for reason, count in counts.items())]
        if self.kept_not_correct is not None:
            lines.append(
                f"not known to be correct: {self.kept_not_correct:,} kept rows, of problems without a correct one"
            )
        lines.append(f"tokens  {_change(self.mean_tokens_before, self.mean_tokens_after, 1)} on average")
        lines.append(f"RSR     {_change(self.rsr_before, self.rsr_after, 3)}")
        if self.teacher_share:
            lines.append("share of the kept rows")
            lines += [f"  {teacher:<22}{share:>12.1%}" for teacher, share in self.teacher_share.items()]
        return "\n".join(lines)


def finish(
    pool: Pool,
    kept: IntArray,
    step: str,
    rule: Mapping[str, Any],
    groups: Groups | None = None,
    keys: Sequence[str] = (),
    pruning: Mapping[str, Any] | None = None,
) -> tuple[Dataset, SelectionReport]:
    """Takes the chosen rows, by number in any order; adds the provenance record with the ``rule``, and reports."""
    rows = kept[np.lexsort((kept, pool.scores[kept]))] if pool.options.sort else np.sort(kept)
    report = _make_report(pool, rows, groups, keys)
    if correct := rule.get("correct"):
        report = replace(report, kept_not_correct=int((~arrays.read_flags(pool.dataset, correct)[rows]).sum()))
    if pruning:  # the rows that were read to their end say nothing of all rows
        unknown: dict[str, Any] = {"mean_tokens_before": None, "rsr_before": None, "teacher_rsr_before": {}}
        report = replace(report, pruning=dict(pruning), **unknown)
    if report.lost_groups and groups:
        counts = groups.count - (report.groups_out or 0), groups.count, report.groups_without_score
        message = "%d of %d groups keep no row (%d groups have no scored row), for example: %s"
        logger.warning(message, *counts, "; ".join(report.lost_groups))
    shared = asdict(pool.options)
    del shared["return_report"]
    resolved = {"metric": pool.metric, "largest": pool.largest, "column_prefix": pool.columns.prefix}
    record = {"step": step, "rule": {**rule, **shared, **resolved}, "report": report.to_dict()}
    return append_record(pool.dataset.select(rows), record), report


def _make_report(pool: Pool, kept: IntArray, groups: Groups | None, keys: Sequence[str]) -> SelectionReport:
    dataset, scored = pool.dataset, np.flatnonzero(pool.status.scored)
    scored_kept = kept[pool.status.scored[kept]]
    column = pool.options.teacher_column or DEFAULT_TEACHER_COLUMN
    teachers = arrays.read_categories(dataset, column) if column in dataset.column_names else None
    codes = {str(value): code for code, value in enumerate([None, *teachers.values], start=-1)} if teachers else {}
    names = [name for name in (pool.columns.avg_rank, pool.columns.avg_surprisal) if name in dataset.column_names]
    parts = [arrays.read_numbers(dataset, name) for name in names]
    worse = int(pool.open.sum()) - kept.size

    def shares(rows: IntArray) -> dict[str, float]:
        counts = teachers.counts(rows) if teachers else {}
        found = {str(name): count / rows.size for name, count in counts.items()}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def ratio(rows: IntArray) -> float | None:
        if len(parts) < 2 or len(pool.settings(rows)) > 1:
            return None
        found = ratio_of_means(*(part[rows] for part in parts))
        return found if math.isfinite(found) else None

    def ratios(rows: IntArray) -> dict[str, float]:
        of = {} if teachers is None else {name: rows[teachers.codes[rows] == codes[name]] for name in share_before}
        return {name: found for name, some in of.items() if (found := ratio(some)) is not None}

    def mean_tokens(rows: IntArray) -> float | None:
        mean = float(pool.num_tokens[rows].mean()) if pool.num_tokens is not None and rows.size else math.nan
        return mean if math.isfinite(mean) else None

    has_kept, has_score = (groups.present(rows) if groups else np.array([], dtype=bool) for rows in (kept, scored))
    lost = np.flatnonzero(~has_kept)[:5]
    share_before = dict(list(shares(np.arange(len(dataset))).items())[:100])
    return SelectionReport(
        rows_in=len(dataset),
        rows_out=kept.size,
        groups_in=groups.count if groups else None,
        groups_out=int(has_kept.sum()) if groups else None,
        groups_without_score=int((~has_score).sum()) if groups else None,
        lost_groups=tuple(_describe(pool, groups, keys, group) for group in lost) if groups else (),
        dropped=pool.dropped | ({"worse": worse} if worse else {}),
        unscored=pool.status.unscored,
        teacher_share=shares(kept),
        mean_tokens_before=mean_tokens(scored),
        mean_tokens_after=mean_tokens(scored_kept),
        rsr_before=ratio(scored),
        rsr_after=ratio(scored_kept),
        teacher_share_before=share_before,
        teacher_rsr_before=ratios(scored),
        teacher_rsr_after=ratios(scored_kept),
    )


def _describe(pool: Pool, groups: Groups, keys: Sequence[str], group: int) -> str:
    row = int(np.argmax(groups.codes == group))
    if not keys:
        return f"the prompt of row {row}"
    values = pool.dataset.select_columns(list(keys)).with_format(None)[row]
    return ", ".join(f"{key}={value!r:.60}" for key, value in values.items())


def _change(before: float | None, after: float | None, digits: int) -> str:
    return " -> ".join(dashed(value, f",.{digits}f") for value in (before, after))
