"""A diagnosis: its tables, and the sentences that say in plain English how the tables read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..teachers.dataset_rsr import to_json
from ..utils.texts import dashed, text_table
from .associations import Estimate

if TYPE_CHECKING:
    import pandas as pd

LENGTH = "length"
CORRECTNESS = "correctness"
TURNS = "number of turns"
SHORTEST = "shortest"
LONGEST = "longest"
RANDOM = "random"
ALL_LENGTHS = "all"
OTHER_TEACHERS = "(other teachers)"

_NAMED = 0.3  # a correlation is named where its whole interval lies beyond, and denied where it lies within
_LARGELY = 0.6
_BEYOND_CHANCE, _SOME_BEYOND = 0.2, 0.05


@dataclass(frozen=True)
class Association:
    """The Spearman correlation of the metric with a trait of the rows.

    Attributes:
        trait: The trait: ``"length"``, ``"average surprisal"``, ``"average rank"``, ``"number of turns"``,
            ``"correctness"``, or the name of a column that was asked for.
        overall, within, between: The correlation over all rows, the mean of the correlations inside each group, and
            the correlation of the groups' means.
        missing: Compared rows without a finite value of the trait, which are left out.
        is_part: Whether the metric is made from the trait, as the ratio is from rank and surprisal.
        is_constant: Whether all rows have the same value, or none has one.
    """

    trait: str
    overall: Estimate
    within: Estimate
    between: Estimate
    missing: int
    is_part: bool = False
    is_constant: bool = False

    @property
    def main(self) -> tuple[Estimate, str]:
        """The correlation that a selection within problems meets, else the one over all rows; and where it is."""
        return (self.overall, "over all rows") if math.isnan(self.within.low) else (self.within, "within a problem")

    @property
    def is_named(self) -> bool:
        """Whether the metric surely goes along with the trait, within groups or, if that is not known, over all."""
        return _near(self.main[0]) >= _NAMED


@dataclass(frozen=True)
class Overlap:
    """The share of groups in which the metric picks a row that another rule would pick too.

    Attributes:
        rule: The other rule: ``"shortest"``, ``"longest"``, ``"lowest average surprisal"`` or ``"random"``.
        share: The share of groups in which the rule tells candidates apart; equal rows count by their parts.
        chance: The share that a random pick has.
        beyond_chance: (share - chance) / (1 - chance): 0 by chance, 1 where both rules are one.
    """

    rule: str
    share: Estimate
    chance: float
    beyond_chance: Estimate

    @property
    def is_named(self) -> bool:
        """Whether the overlap is surely more than chance gives, and not by little."""
        return self.beyond_chance.low >= _BEYOND_CHANCE


@dataclass(frozen=True)
class TeacherShare:
    """The share of a teacher among the candidates and among the chosen rows, of all lengths or a quarter of them.

    ``of_chosen`` is NaN where no row of these lengths was chosen.
    """

    teacher: str
    length: str
    of_candidates: float
    of_chosen: float


@dataclass(frozen=True)
class Stability:
    """How far the ranking of teachers stays when something changes.

    Attributes:
        change: The change, such as ``"halves of the data"`` or ``"rank_clip=50"``.
        spearman: Correlation of the teachers' values before and after; NaN for fewer than three teachers.
        same_best: Share of the comparisons in which the same teacher is the best.
    """

    change: str
    spearman: float
    same_best: float


@dataclass(frozen=True)
class UnscoredTeacher:
    """The share of a teacher's rows that have no score; ``is_more`` where surely more than of all rows."""

    teacher: str
    share: Estimate
    is_more: bool


@dataclass(frozen=True)
class Diagnosis:
    """Tables that say what a metric goes along with, and sentences that read them.

    Attributes:
        metric: The metric, as sentences call it.
        group_by: The key columns, as sentences call them; ``None`` where rows were not grouped.
        rows: All rows.
        compared: Rows with a complete score, which all tables but those on missing scores are about.
        truncated: Rows that were scored on a part of their response; a selection leaves them out too.
        unscored: Rows without a score, by status.
        ungrouped: Compared rows whose key is null, which count over all rows alone.
        groups: Groups with a compared row.
        groups_with_choice: Groups with several compared rows.
        is_constant: Whether the metric is the same in all compared rows.
        associations: The correlations with each trait.
        correctness: Share of pairs of a correct and an incorrect row of a group in which the correct one has the
            better value (AUC), as a mean over groups; ``None`` where ``correct`` was not given.
        overlaps: Picks that other rules share.
        teachers: Shares of teachers among the rows with the best value of their group.
        stability: How far the ranking of teachers stays.
        unscored_teachers: Rows without a score of each teacher.
        unscored_lengths: Median length in characters of rows without a score and of others, in a sample, and whether
            they surely differ; ``None`` where the text is not in the data.
    """

    metric: str
    group_by: str | None
    rows: int
    compared: int
    truncated: int
    unscored: dict[str, int]
    ungrouped: int
    groups: int
    groups_with_choice: int
    is_constant: bool
    associations: tuple[Association, ...]
    correctness: Estimate | None
    overlaps: tuple[Overlap, ...]
    teachers: tuple[TeacherShare, ...]
    stability: tuple[Stability, ...]
    unscored_teachers: tuple[UnscoredTeacher, ...]
    unscored_lengths: tuple[float, float, bool] | None

    @property
    def confounds(self) -> tuple[str, ...]:
        """Traits and rules that the metric or its picks surely go along with; not the parts of the metric."""
        named = [each.trait for each in self.associations if each.is_named and not each.is_part]
        return (*named, *(each.rule for each in self.overlaps if each.is_named))

    @property
    def sentences(self) -> tuple[str, ...]:
        """The findings, one a sentence or two."""
        return tuple(_sentences(self))

    def sentences_about(self, trait: str) -> tuple[str, ...]:
        """The findings about one trait; of the length also the picks that are the shortest or the longest."""
        if self.compared < 2 or self.is_constant:
            return ()
        if trait == CORRECTNESS and self.correctness is not None:
            return (_about_correctness(self.correctness, self.metric),)
        extremes = (SHORTEST, LONGEST) if trait == LENGTH else ()
        about = (_about_association(each, self.metric) for each in self.associations if each.trait == trait)
        picks = (_about_overlap(o, self.metric) for o in self.overlaps if o.is_named and o.rule in extremes)
        return (*(text for texts in about for text in texts), *picks)

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as a JSON object; null for NaN."""
        return {"sentences": [*self.sentences], "confounds": [*self.confounds], **to_json(self)}

    def to_pandas(self) -> pd.DataFrame:
        """One row for each number with an interval: measure, trait or rule, scope, value, low, high and count."""
        import pandas as pd

        rows = [
            {"measure": "spearman", "of": each.trait, "scope": scope, **vars(getattr(each, scope))}
            for each in self.associations
            for scope in ("overall", "within", "between")
        ]
        if self.correctness:
            rows.append({"measure": "auc", "of": "correctness", "scope": "within", **vars(self.correctness)})
        rows += [{"measure": "overlap", "of": o.rule, "scope": "within", **vars(o.share)} for o in self.overlaps]
        rows += [
            {"measure": "unscored", "of": u.teacher, "scope": "overall", **vars(u.share)}
            for u in self.unscored_teachers
        ]
        return pd.DataFrame(rows, columns=["measure", "of", "scope", "value", "low", "high", "count"])

    def __str__(self) -> str:
        return "\n\n".join(["\n".join(self.sentences), *_tables(self)])


def _near(estimate: Estimate) -> float:
    """The end of the interval that is nearer to 0; 0 where the interval holds 0, NaN where there is no interval."""
    ends = (estimate.low, estimate.high)
    return 0.0 if min(ends) <= 0 <= max(ends) else min(map(abs, ends))


def _sentences(found: Diagnosis) -> Iterator[str]:
    metric = found.metric
    yield from _about_rows(found)
    if found.compared < 2:
        return
    if found.is_constant:
        yield f"{metric} is the same in every row: nothing can go along with {metric}, and its picks mean nothing."
        return
    for each in found.associations:
        if found.correctness is None or each.trait != CORRECTNESS:
            yield from _about_association(each, metric)
    if found.correctness is not None:
        yield _about_correctness(found.correctness, metric)
    named = [each for each in found.overlaps if each.is_named]
    yield from (_about_overlap(overlap, metric) for overlap in named)
    others = ", ".join(f"{o.rule} {o.share.value:.0%}" for o in found.overlaps if o.rule != RANDOM)
    if some := [each for each in found.overlaps if each.beyond_chance.low >= _SOME_BEYOND and not each.is_named]:
        rules = ", ".join(f"the {o.rule} {o.share.value:.0%} (chance: {o.chance:.0%})" for o in some)
        yield f"Some picks of {metric}, more than by chance, are also {rules}."
    elif others and not named:
        chance = next(each.chance for each in found.overlaps if each.rule == RANDOM)
        yield f"The picks of {metric} are its own: shared with the {others}; chance gives {chance:.0%}."
    elif found.overlaps and not others:
        yield f"No lengths or surprisals tell candidates apart: picks of {metric} cannot be compared with other rules."
    yield from _about_teachers(found)


def _about_rows(found: Diagnosis) -> Iterator[str]:
    if found.compared < 2:
        has = "One" if found.compared else "None"
        yield f"{has} of {_count(found.rows, 'row')} has a complete score: there is nothing to compare."
    elif found.group_by is None:
        yield (
            f"{_count(found.compared, 'row')} with a complete score, not grouped: group_by= says which are candidates "
            f"of one problem, and only then picks can be compared."
        )
    elif not found.groups:
        yield f"No row with a complete score has a value in {found.group_by}: nothing is known within problems."
    elif found.groups == 1:
        everyone = "" if found.ungrouped else "all "
        yield (
            f"{_count(found.compared, 'row')} with a complete score, {everyone}in one problem ({found.group_by}): "
            f"intervals are over rows, and nothing is known about other problems."
        )
    elif not found.groups_with_choice:
        yield (
            f"Each of the {found.groups:,} problems ({found.group_by}) has one candidate: there is nothing to pick "
            f"from, and nothing is known within problems."
        )
    else:
        yield (
            f"{_count(found.compared, 'row')} with a complete score in {found.groups:,} problems ({found.group_by}), "
            f"{found.groups_with_choice:,} of them with several candidates."
        )
    if found.groups and found.ungrouped:
        yield f"{found.ungrouped:,} of these rows without {found.group_by} count over all rows alone."
    if found.truncated:
        yield f"{_count(found.truncated, 'truncated row')} left out, as a selection leaves them out."
    if unscored := sum(found.unscored.values()):
        reasons = ", ".join(f"{count:,} {status}" for status, count in found.unscored.items())
        yield f"{unscored:,} of {found.rows:,} rows ({unscored / found.rows:.1%}) have no score: {reasons}."
        more = [each for each in found.unscored_teachers if each.is_more]
        if more:
            worst = max(more, key=lambda each: each.share.value)
            yield (
                f"Missing scores are not spread evenly: {worst.teacher} lacks {worst.share.value:.0%} of its rows, "
                f"all together lack {unscored / found.rows:.1%}."
            )
        elif len(found.unscored_teachers) > 1:
            yield "No teacher surely lacks more scores than all together."
        if found.unscored_lengths:
            without, others, differ = found.unscored_lengths
            differs = "longer" if without > others else "shorter"
            are = differs if differ else "not surely longer or shorter"
            yield f"Rows without a score are {are}: {without:,.0f} characters in the median, others {others:,.0f}."


def _about_association(each: Association, metric: str) -> Iterator[str]:
    estimate, where = each.main
    if each.is_constant:
        if each.trait != TURNS:
            yield f"{each.trait.capitalize()} is the same in every row, or missing: no correlation exists."
        return
    found = f"Spearman {estimate} {where}"
    far = max(abs(estimate.low), abs(estimate.high))
    part = f", from which {metric} is made" if each.is_part else ""
    if math.isnan(estimate.low):
        yield f"Too few rows say whether {metric} goes along with {each.trait}."
    elif each.is_named and abs(estimate.value) >= _LARGELY:
        advice = "" if each.is_part else " Compare with a control that picks by it."
        yield f"{metric} is largely {each.trait} here{part}: {found}.{advice}"
    elif each.is_named:
        yield f"{metric} goes along with {each.trait}{part}: {found}."
    elif far < _NAMED:
        yield f"{metric} is not {each.trait} here: {found}."
    elif _near(estimate) > 0:
        yield f"{metric} goes along with {each.trait} a little{part}: {found}."
    else:
        yield f"Undecided whether {metric} goes along with {each.trait}: {found}; more problems would tell."
    if where == "within a problem" and not each.is_named and _near(each.between) >= _NAMED:
        yield (
            f"Between problems {metric} goes along with {each.trait}: Spearman {each.between}. This counts where "
            f"problems are compared (select_subset), not where candidates of one problem are."
        )


def _about_correctness(auc: Estimate, metric: str) -> str:
    if math.isnan(auc.value):
        return "No problem has both correct and incorrect candidates: correctness cannot be compared within problems."
    if math.isnan(auc.low):
        return f"Too few problems have correct and incorrect candidates to say whether {metric} tells them apart."
    prefers = "prefers correct" if auc.low > 0.5 else "prefers incorrect" if auc.high < 0.5 else ""
    does = prefers or "does not tell correct from incorrect"
    return (
        f"{metric} {does} candidates of a problem: the correct one of a pair has the better {metric} {auc.value:.0%} "
        f"of the time (AUC {auc}; 0.5 is chance)."
    )


def _about_overlap(overlap: Overlap, metric: str) -> str:
    return (
        f"{overlap.share.value:.0%} of what {metric} picks is also the {overlap.rule} "
        f"(chance: {overlap.chance:.0%}): compare with that control."
    )


def _about_teachers(found: Diagnosis) -> Iterator[str]:
    everywhere = [e for e in found.teachers if e.length == ALL_LENGTHS and e.teacher != OTHER_TEACHERS]
    if len(everywhere) > 1:
        top = max(everywhere, key=lambda each: each.of_chosen)
        yield (
            f"The teacher picked most is {top.teacher}: {top.of_chosen:.0%} of the picks, {top.of_candidates:.0%} of "
            f"the candidates."
        )
    for each in found.stability:
        agrees = "" if math.isnan(each.spearman) else f", Spearman {each.spearman:.2f} on average"
        if each.change.startswith("halves"):
            yield f"Two random halves of the data have the same best teacher {each.same_best:.0%} of the time{agrees}."
        elif each.same_best < 1:
            yield f"Another teacher is the best with {each.change}{agrees.removesuffix(' on average')}."
    if found.metric == "RSR" and found.stability and not any("rank_clip" in each.change for each in found.stability):
        yield "Whether another rank_clip changes this order is not known: that needs token_columns=True."


def _tables(found: Diagnosis) -> Iterator[str]:
    if found.associations:
        yield text_table(
            [f"Spearman of {found.metric} with", "all rows", "within a problem", "between problems", "no value"],
            [[a.trait, a.overall, a.within, a.between, f"{a.missing:,}"] for a in found.associations],
        )
    if found.overlaps:
        rows = [[each.rule, each.share, f"{each.chance:.2f}"] for each in found.overlaps]
        yield text_table([f"picks of {found.metric} that are also the", "share", "by chance"], rows)
    if found.teachers:
        lengths = list(dict.fromkeys(each.length for each in found.teachers))
        cells = {(t.teacher, t.length): f"{t.of_candidates:.0%} -> {_share(t.of_chosen)}" for t in found.teachers}
        names = dict.fromkeys(each.teacher for each in found.teachers)
        rows = [[name, *(cells.get((name, length), "-") for length in lengths)] for name in names]
        yield text_table(["share of candidates -> of picks, by length", *lengths], rows)
    if found.stability:
        rows = [[s.change, dashed(s.spearman, ".2f"), dashed(s.same_best, ".0%")] for s in found.stability]
        yield text_table(["ranking of teachers", "Spearman", "same best"], rows)
    if found.unscored_teachers:
        yield text_table(["rows without a score", "share"], [[u.teacher, u.share] for u in found.unscored_teachers])


def _share(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.0%}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
