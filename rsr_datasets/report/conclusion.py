"""The conclusion of the report: a few plain sentences on teachers, rows, correctness and length."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from ..curation.associations import Blocks
from ..curation.findings import CORRECTNESS, LENGTH, Diagnosis
from ..figures.plotting import BoolArray, FloatArray, ScoredRows
from ..metrics import ratio_of_means
from ..tables import arrays
from ..teachers.dataset_rsr import DEFAULT_RESAMPLES, bootstrap
from ..teachers.ranking import FEW, too_few
from .rows import KeptRows, ReportRows, shown

_SURE, _LIKELY, _POSSIBLE = 0.975, 0.8, 0.05
_WHY_NOT_KEPT = {
    "worse": "had a worse score",
    "incorrect": "were not correct where another answer to the problem was",
    "correctness_unknown": "are not known to be correct where another answer to the problem is",
    "unscored": "have no score",
    "truncated": "were scored on a part of the response alone",
    "outside_token_limits": "were too long or too short",
    "no_group": "belong to no problem",
    "pruned": "were not read to the end",
}


def conclude(rows: ReportRows, kept: KeptRows | None, found: Diagnosis) -> list[str]:
    """The sentences; those on length, and on pairs of correct and incorrect rows, are the diagnosis' own."""
    if not rows.scores.has_score.any():
        return [f"None of {_count(len(rows.dataset), 'row')} has a score{_statuses(rows)}."]
    return [
        *_about_teachers(rows),
        *_about_rows(rows, kept),
        *_about_correctness(rows, kept),
        *found.sentences_about(CORRECTNESS),
        *found.sentences_about(LENGTH),
    ]


def _about_teachers(rows: ReportRows) -> Iterator[str]:
    student, scores = rows.student or "the student", rows.scores
    codes = np.unique(rows.teacher_codes[scores.has_score]).tolist()
    teachers = [code for code in codes if rows.teacher_column and rows.teacher_names[code] is not None]
    values = {code: _rsr(scores, rows.teacher_codes == code) for code in teachers}
    names = {code: shown(rows.teacher_names[code], 60) for code in teachers}
    if len(teachers) < 2:
        whose = f" of {names[teachers[0]]}" if teachers else ""
        yield f"The trajectories{whose} have an RSR of {_rsr(scores):.2f} for {student}; lower suits a student better."
        return
    chances = dict(zip(teachers, _chances_to_be_lowest(rows, teachers), strict=True))
    best, *others = sorted(teachers, key=lambda code: values[code])
    fewest = min(int((scores.has_score & (rows.teacher_codes == code)).sum()) for code in (best, others[0]))
    rivals = [code for code in others if chances[code] >= _POSSIBLE] or others[:1]
    listed = [f"{names[code]} ({values[code]:.2f})" for code in rivals]
    listed = [*listed[:3], *([f"{len(listed) - 3} more"] if len(listed) > 3 else [])]
    lowest = f"the lowest RSR of {len(teachers)} teachers, {values[best]:.2f}"
    resamples = f"{chances[best]:.0%} of the resamples of {'rows' if rows.problem_column is None else 'problems'}"
    if fewest < FEW:
        yield f"{names[best]} has {lowest}, for {student}; next is {names[others[0]]} ({values[others[0]]:.2f})."
        yield too_few(fewest)
    elif chances[best] >= _LIKELY:
        surely = "" if chances[best] >= _SURE else "probably "
        yield (
            f"{names[best]} {surely}suits {student} best: it has {lowest}, and keeps this place in {resamples}; "
            f"next is {_listed(listed)}."
        )
    else:
        as_good = f"{_listed(listed)} may suit it as well"
        yield f"{names[best]} has {lowest}, for {student}, but only in {resamples}: {as_good}."


def _chances_to_be_lowest(rows: ReportRows, teachers: Sequence[int]) -> list[float]:
    """For each teacher the share of resamples of problems, or of rows, in which its RSR is the lowest."""
    scores = rows.scores
    scored = np.flatnonzero(scores.has_score & np.isin(rows.teacher_codes, teachers))
    blocks = Blocks(
        np.full(scored.size, -1) if rows.problem_column is None else rows.problems.codes[scored], rows.seed
    )
    cells = blocks.of_rows * len(teachers) + np.searchsorted(teachers, rows.teacher_codes[scored])
    upper, lower = (
        np.bincount(cells, values[scored], blocks.count * len(teachers)).astype(float).reshape(blocks.count, -1)
        for values in (scores.avg_rank, scores.avg_surprisal)
    )
    draws = np.nan_to_num(bootstrap(upper, lower, DEFAULT_RESAMPLES, rows.seed), nan=np.inf)
    shares: FloatArray = np.bincount(draws.argmin(axis=1), minlength=len(teachers)) / len(draws)
    return shares.tolist()


def _about_rows(rows: ReportRows, kept: KeptRows | None) -> Iterator[str]:
    total = len(rows.dataset)
    if kept is None:
        scored = int(rows.scores.has_score.sum())
        has = f"All {_count(total, 'row')}" if scored == total else f"{scored:,} of {_count(total, 'row')}"
        yield f"{has} {'has' if scored == 1 else 'have'} a score{_statuses(rows)}."
        return
    change = ", none of which has a score"
    if kept.scores.has_score.any():
        before, after = (f"{_rsr(scores):.2f}" for scores in (rows.scores, kept.scores))
        lowers = _rsr(kept.scores) < _rsr(rows.scores)
        change = f" and {'lowers' if lowers else 'raises'} RSR from {before} to {after}"
        if before == after:
            change = f" with an RSR of {after}, as all rows together have"
    yield f"The selection keeps {len(kept.dataset):,} of {_count(total, 'row')}{change}."
    dropped: Counter[str] = Counter()
    for report in kept.reports:
        dropped.update(report.get("dropped") or {})
    if dropped and dropped.total() == total - len(kept.dataset):
        reasons = [f"{count:,} {_WHY_NOT_KEPT.get(reason, reason)}" for reason, count in dropped.most_common()]
        yield f"The others: {_listed(reasons)}{_statuses(rows) if dropped['unscored'] else ''}."


def _about_correctness(rows: ReportRows, kept: KeptRows | None) -> Iterator[str]:
    known = np.isfinite(rows.correct)
    fit = "RSR tells how well a trajectory suits the student, not whether it is right"
    whose = "" if known.all() else " whose correctness is known"
    if not known.any():
        yield f"{fit}; nothing in the data tells that."
        return
    of_all = f"{(rows.correct[known] > 0).mean():.0%} of all"
    if kept is not None and (chosen := kept.marks & known).any():
        right, such = (rows.correct[chosen] > 0).mean(), " such" if whose else ""
        yield f"{right:.0%} of the selected rows{whose} are correct, and {of_all}{such} rows: {fit}."
    else:
        yield f"{of_all} rows{whose} are correct: {fit}."


def _statuses(rows: ReportRows) -> str:
    """The statuses of the rows without a score, in brackets; nothing where all have one."""
    missing = arrays.read_categories(rows.dataset, rows.columns.status).counts(~rows.scores.has_score)
    found = [f"{count:,} {shown(status)}" for status, count in sorted(missing.items(), key=lambda item: -item[1])]
    return f" ({', '.join(found[:8])})" if found else ""


def _rsr(scores: ScoredRows, rows: BoolArray | None = None) -> float:
    """The ratio of some rows (Eq. 9), of those that have a score."""
    chosen = scores.has_score if rows is None else scores.has_score & rows
    return ratio_of_means(scores.avg_rank[chosen], scores.avg_surprisal[chosen])


def _listed(texts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def _count(number: int, noun: str, nouns: str = "") -> str:
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"
