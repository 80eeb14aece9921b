"""Control arms for a fair experiment: as many rows of each problem as a selection has, chosen by other rules."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from datasets import Dataset, DatasetDict, concatenate_datasets

from ..metrics.trajectory import FloatArray, IntArray
from ..reading.formats import find_format
from ..reading.messages import Turns
from ..tables import arrays
from ..tables.columns import DEFAULT_TEACHER_COLUMN
from ..tables.groups import Groups, digest, order_within, runs
from ..tables.records import SCORE, append_record, read_records
from ..tables.splits import require_dataset
from ..utils.texts import did_you_mean
from .pool import BoolArray, Pool, SelectionOptions, incorrect_rows
from .prompts import group_problems

logger = logging.getLogger(__name__)

ARMS = ("lowest", "middle", "highest", "random", "shortest")

_MATCHES = ("tokens", "teacher")
_TOKENS_WITHIN = 0.05
_SHARES_WITHIN = 0.01
_ROUNDS = 60


@dataclass(frozen=True)
class ControlReport:
    """The account of one control arm.

    Attributes:
        rows: Rows of the arm.
        tokens_ratio: Tokens of the arm over those of the selection; ``None`` where the selection lacks the column.
        teacher_difference: Share of the rows that would have to change their teacher to give the selection's shares;
            ``None`` without a column of teachers.
        unmatched: Sentences that say in which the arm does not match the selection.
    """

    rows: int
    tokens_ratio: float | None
    teacher_difference: float | None
    unmatched: tuple[str, ...]

    def __str__(self) -> str:
        tokens = "" if self.tokens_ratio is None else f", {self.tokens_ratio:.1%} of the selection's tokens"
        shares = "" if self.teacher_difference is None else f", {self.teacher_difference:.1%} other teachers"
        return "\n".join([f"{self.rows:,} rows{tokens}{shares}", *(f"  {each}" for each in self.unmatched)])


def control_subsets(
    scored: Dataset,
    selected: Dataset,
    group_by: str | Sequence[str],
    seed: int = 0,
    *,
    match: Sequence[str] | None = None,
    correct: str | None = None,
    max_tokens: int | None = None,
    min_tokens: int | None = None,
    metric: str | None = None,
    keep_truncated: bool = False,
    allow_mixed_settings: bool = False,
    teacher_column: str | None = None,
    column_prefix: str = "rsr",
    turns: Turns = "all",
    columns: Mapping[str, str] | None = None,
    return_report: bool = False,
) -> Any:
    """Makes the arms that a selection is to be compared with, each with as many rows of each problem.

    ``lowest``, ``middle`` and ``highest`` take the rows at the lower end, in the middle and at the upper end of a
    problem's metric; ``random`` draws at random, ``shortest`` takes the fewest scored tokens. Candidates are rows with
    a complete score, the selected ones among them; give the limits of the selection here too. Equal rows are decided
    by content: the arms depend on the seed and on what the rows hold, not on their order.

    Args:
        scored: The scored rows that the selection was made from.
        selected: The selection.
        group_by: The column that tells problems apart, or several, as in :func:`select_trajectories`.
        seed: Seed of the random arm, and of the choice between equal rows.
        match: ``"tokens"`` also brings each arm's scored tokens to within 5% of the selection's, except those of
            ``shortest``; ``"teacher"`` gives each arm the selection's shares of teachers to within 1% of the rows. An
            arm then takes the nearest rows to its rule with which the whole arm matches.
        correct: Column of true and false that says which candidates are correct, as in :func:`select_trajectories`: of
            a problem with a correct candidate only correct ones are taken.
        max_tokens: Longest candidate, in scored tokens.
        min_tokens: Shortest candidate, in scored tokens.
        metric: The name of a metric whose column the scorer added, or any numeric column; ``None`` for the ratio.
        keep_truncated: Take truncated rows too, which were scored on the beginning of their response alone.
        allow_mixed_settings: Compare scores of several students or settings.
        teacher_column: Column with the teacher; ``None`` for ``"teacher"`` where there is one.
        column_prefix: The ``column_prefix`` given to the scorer.
        turns: For ``group_by="prompt"`` without such a column: which assistant turns were scored.
        columns: For ``group_by="prompt"`` too: names of input columns, standard name first, as given to the scorer.
        return_report: Return ``(arms, reports)``, the second a dict of arm to :class:`ControlReport`.

    Returns:
        A ``DatasetDict`` of the five arms, rows in their original order, with rule and report in their provenance
        records. Rows that cannot be matched are said in the report and logged.

    Raises:
        ValueError: If a column is missing or of the wrong type, ``match`` has other names, or the rows were scored
            with different settings.
        TypeError: If ``scored`` or ``selected`` is not a ``Dataset``.
    """
    require_dataset(scored, "scored")
    require_dataset(selected, "selected")
    match = [match] if isinstance(match, str) else list(match or ())
    if unknown := [name for name in match if name not in _MATCHES]:
        raise ValueError(f"match={unknown[0]!r}: must be among {list(_MATCHES)}")
    compared = None if metric == "rsr" else metric
    options = SelectionOptions(
        max_tokens,
        min_tokens,
        metric=compared,
        keep_truncated=keep_truncated,
        allow_mixed_settings=allow_mixed_settings,
        column_prefix=column_prefix,
    )
    teacher = teacher_column or (DEFAULT_TEACHER_COLUMN if DEFAULT_TEACHER_COLUMN in scored.column_names else None)
    if teacher is None and "teacher" in match:
        raise ValueError(f"match=['teacher']: no column {DEFAULT_TEACHER_COLUMN!r}; name the column: teacher_column=")
    pool = Pool(scored, options, [name for name in (teacher, correct) if name])
    arrays.require_columns(scored, [pool.columns.num_tokens], pool.columns)
    for_match = [pool.columns.num_tokens] * ("tokens" in match) + [str(teacher)] * ("teacher" in match)
    arrays.require_columns(selected, for_match, pool.columns)
    codes, of_selected = _shared_groups(scored, selected, group_by, turns, columns)
    pool.drop(codes < 0, "no_group")
    if correct:
        for reason, rows in incorrect_rows(scored, correct, Groups(codes, int(codes.max(initial=-1)) + 1)).items():
            pool.drop(rows, reason)
    pool.drop_by_score()
    if pool.num_tokens is not None:
        pool.drop(~np.isfinite(pool.num_tokens), "unknown_length")
    candidates = _Candidates(pool, codes, of_selected, teacher, seed)
    target = _Target(selected, pool.columns.num_tokens, teacher, candidates)
    rule = {
        "group_by": group_by if isinstance(group_by, str) else list(group_by),
        **{"seed": seed, "match": match, "metric": pool.metric, "teacher_column": teacher, "correct": correct},
        **{"max_tokens": max_tokens, "min_tokens": min_tokens, "keep_truncated": keep_truncated},
        **{"column_prefix": pool.columns.prefix, "turns": turns, "columns": dict(columns) if columns else None},
    }
    arms, reports = {}, {}
    for arm in ARMS:
        matched = [name for name in match if (arm, name) != ("shortest", "tokens")]
        chosen = target.nearest(candidates, candidates.distances(arm), matched)
        reports[arm] = report = target.report(candidates, chosen, match)
        account = {"rows_in": len(scored), "rows_out": report.rows, "dropped": pool.dropped, **asdict(report)}
        record = {"step": "control_subsets", "rule": {"arm": arm, **rule}, "report": account}
        if made := [each for each in read_records(selected) if each.get("step") != SCORE]:
            record["selection"] = {name: made[-1].get(name) for name in ("step", "rule")}
        arms[arm] = append_record(scored.select(np.sort(candidates.rows[chosen])), record)
    for sentence in dict.fromkeys(sentence for report in reports.values() for sentence in report.unmatched):
        of = [arm for arm, report in reports.items() if sentence in report.unmatched]
        some = f"arm{'s' * (len(of) > 1)} {', '.join(of)}"
        logger.warning("%s: %s", "all arms" if len(of) == len(ARMS) else some, sentence)
    found = DatasetDict(arms)
    return (found, reports) if return_report else found


def _shared_groups(
    scored: Dataset,
    selected: Dataset,
    group_by: str | Sequence[str],
    turns: Turns,
    columns: Mapping[str, str] | None,
) -> tuple[IntArray, IntArray]:
    """The groups of both datasets, numbered alike."""
    keys = [group_by] if isinstance(group_by, str) else list(group_by)
    if keys == ["prompt"] and "prompt" not in scored.column_names:
        keys = find_format(scored.column_names, columns).names
    for dataset, name in ((scored, "scored"), (selected, "selected")):
        if missing := [key for key in keys if key not in dataset.column_names]:
            like = did_you_mean(missing[0], dataset.column_names)
            raise ValueError(f"{name}: no column {missing[0]!r}{like}; the dataset has {dataset.column_names}")
    first, second = (dataset.select_columns(keys).with_format(None) for dataset in (scored, selected))
    if first.features != second.features:  # a file may have other types than the dataset that it was written from
        try:
            second = second.cast(first.features)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError, ValueError) as error:
            types = [{key: str(each.data.table.schema.field(key).type) for key in keys} for each in (first, second)]
            raise ValueError(f"group_by: scored has the types {types[0]}, selected has {types[1]}") from error
    both = concatenate_datasets([first, second])
    codes = group_problems(both, group_by, turns, columns)[0].codes
    return codes[: len(scored)], codes[len(scored) :]


class _Candidates:
    """The rows that arms are made of, group after group, within a group in an order that their content decides."""

    def __init__(self, pool: Pool, codes: IntArray, of_selected: IntArray, teacher: str | None, seed: int) -> None:
        count = int(max(codes.max(initial=-1), of_selected.max(initial=-1))) + 1
        wanted = np.bincount(of_selected[of_selected >= 0], minlength=count)
        there = np.bincount(codes[pool.open], minlength=count)
        self.selected, self.ungrouped = of_selected.size, int((of_selected < 0).sum())
        self.short = int((wanted - np.minimum(wanted, there)).sum())
        self.groups = int((wanted > 0).sum())
        self.without_choice = int(((wanted > 0) & (there <= wanted)).sum())
        rows = np.flatnonzero(pool.open & (np.append(wanted, 0)[codes] > 0))
        self.teachers = arrays.read_categories(pool.dataset, teacher) if teacher else None
        words, order = _content_words(pool, rows, codes[rows], self.teachers, seed)
        self.rows, self.codes = rows[order], codes[rows][order]
        self.jitter = words[order] / 2.0**64
        start, end = runs(self.codes)
        self.start, self.size = start, end - start
        self.take = np.minimum(wanted[self.codes], self.size)
        self.scores = pool.scores[self.rows] * (-1 if pool.largest else 1)
        self.tokens = arrays.read_numbers(pool.dataset, pool.columns.num_tokens)[self.rows]

    def distances(self, arm: str) -> FloatArray:
        """How far each candidate stands from what an arm takes, in places of its group; the nearest are taken."""
        if arm == "random":
            return (np.arange(self.rows.size) - self.start).astype(float)
        place = self._places(self.tokens) if arm == "shortest" else self._by_score
        if arm == "highest":
            return self.size - 1 - place
        if arm == "middle":
            return np.abs(place - (self.size - self.take) // 2 - (self.take - 1) / 2)
        return place

    @cached_property
    def _by_score(self) -> FloatArray:
        return self._places(self.scores)

    def first(self, cost: FloatArray) -> BoolArray:
        """Which candidates have the lowest costs of their group, as many as are taken; ties by content."""
        if not cost.size:
            return np.zeros(0, dtype=bool)
        scaled = (cost - cost.min()) / (float(np.ptp(cost)) or 1.0)
        keys = 2 * np.cumsum(self.start == np.arange(cost.size)) + scaled
        chosen = keys <= np.sort(keys)[self.start + self.take - 1]
        return chosen if chosen.sum() == self.total else self._places(cost) < self.take

    @property
    def total(self) -> int:
        """Rows of each arm."""
        return int(self.take[self.start == np.arange(self.start.size)].sum())

    def _places(self, values: FloatArray) -> FloatArray:
        """The place of each value in its group, from 0; equal ones in the order of the candidates."""
        place = np.empty(values.size)
        place[order_within(self.codes, values)] = np.arange(values.size) - self.start
        return place


class _Target:
    """The selection's tokens and shares of teachers, and how near an arm comes to them."""

    def __init__(self, selected: Dataset, num_tokens: str, teacher: str | None, candidates: _Candidates) -> None:
        names = selected.column_names
        self.tokens = float(np.nansum(arrays.read_numbers(selected, num_tokens))) if num_tokens in names else 0.0
        # The selection may have rows without a counterpart: an arm is compared with as many rows.
        self.tokens *= candidates.total / max(1, candidates.selected)
        self.shares: FloatArray | None = None
        self.codes = np.zeros(candidates.rows.size, dtype=np.int64)
        if teacher in names and candidates.teachers is not None and len(selected):
            counts = {str(k): n for k, n in arrays.read_categories(selected, str(teacher)).counts().items()}
            known = list(dict.fromkeys([*(str(v) for v in [None, *candidates.teachers.values]), *counts]))
            self.shares = np.array([counts.get(name, 0) / len(selected) for name in known])
            self.codes = candidates.teachers.codes[candidates.rows].astype(np.int64) + 1

    def gaps(self, candidates: _Candidates, chosen: BoolArray) -> tuple[float | None, FloatArray | None]:
        """How many more tokens an arm has, as a share, and the excess of each teacher's share."""
        tokens = float(candidates.tokens[chosen].sum()) / self.tokens - 1 if self.tokens else None
        if self.shares is None:
            return tokens, None
        counts = np.bincount(self.codes[chosen], minlength=self.shares.size)
        return tokens, counts / max(1, counts.sum()) - self.shares

    def nearest(self, candidates: _Candidates, distances: FloatArray, match: Sequence[str]) -> BoolArray:
        """The nearest candidates, or those with which the whole arm matches best at little more distance.

        Tokens, and rows of each teacher, get a price that rises while the arm has too many and falls while it has too
        few; each price's step grows while its direction holds and shrinks when it turns.
        """
        best = candidates.first(distances)
        if not match:
            return best
        # Whole places would change sides all at once when a price moves.
        cost = (distances + candidates.jitter) / candidates.size
        length = candidates.tokens / max(1.0, float(candidates.tokens.mean() if candidates.tokens.size else 1.0))
        prices = np.zeros(1 + (0 if self.shares is None else self.shares.size))
        steps, before = np.full(prices.size, 0.05), np.zeros(prices.size)
        least, chosen = np.inf, best
        for _ in range(_ROUNDS):
            tokens, teachers = self.gaps(candidates, chosen)
            gaps = np.zeros(prices.size)
            if "tokens" in match and tokens is not None:
                gaps[0] = tokens / _TOKENS_WITHIN
            if "teacher" in match and teachers is not None:
                gaps[1:] = teachers / _SHARES_WITHIN
            # Sums in order of size do not depend on the order of the teachers.
            worst = max(abs(float(gaps[0])), float(np.sort(np.abs(gaps[1:])).sum()) / 2)
            if worst < least:
                least, best = worst, chosen
            if worst <= 1:
                break
            turned = np.sign(gaps) * np.sign(before)
            steps *= np.where(turned < 0, 0.5, np.where(turned > 0, 1.3, 1.0))
            prices += steps * np.sign(gaps)
            before = gaps
            chosen = candidates.first(cost + prices[0] * length + np.append(prices[1:], 0.0)[self.codes])
        return best

    def report(self, candidates: _Candidates, chosen: BoolArray, match: Sequence[str]) -> ControlReport:
        """The account of an arm."""
        tokens, teachers = self.gaps(candidates, chosen)
        difference = None if teachers is None else float(np.abs(teachers).sum()) / 2
        unmatched = []
        if candidates.ungrouped:
            unmatched.append(
                f"{candidates.ungrouped:,} of {candidates.selected:,} selected rows belong to no problem and have no "
                "counterpart"
            )
        if candidates.short:
            unmatched.append(
                f"{candidates.short:,} of {candidates.selected:,} selected rows have no counterpart: their problems "
                "have fewer candidates with a complete score"
            )
        if candidates.without_choice:
            unmatched.append(
                f"{candidates.without_choice:,} of {candidates.groups:,} problems have no more candidates than are "
                "taken: there all arms are the same"
            )
        if "tokens" in match and tokens is not None and abs(tokens) > _TOKENS_WITHIN:
            unmatched.append(
                f"the arm has {1 + tokens:.1%} of the selection's tokens, not within {_TOKENS_WITHIN:.0%}"
            )
        if "teacher" in match and difference is not None and difference > _SHARES_WITHIN:
            unmatched.append(
                f"{difference:.1%} of the arm's rows have another teacher than the selection's shares ask for"
            )
        ratio = None if tokens is None else 1 + tokens
        return ControlReport(int(chosen.sum()), ratio, difference, tuple(unmatched))


def _content_words(
    pool: Pool, rows: IntArray, codes: IntArray, teachers: arrays.Categories | None, seed: int
) -> tuple[npt.NDArray[np.uint64], IntArray]:
    """A pseudo-random word of each row, and the rows in order of groups and words.

    Words are made from the seed and the scores; of rows of a group with equal scores, from all that the rows hold.
    """
    words = _mixed(np.full(rows.size, seed % 2**64, dtype=np.uint64))
    columns = pool.columns
    names = dict.fromkeys([columns.rsr, columns.avg_rank, columns.avg_surprisal, columns.num_tokens])
    values = [arrays.read_numbers(pool.dataset, n)[rows] for n in names if n in pool.dataset.column_names]
    for column in [pool.scores[rows], *values]:
        words = _mixed(words ^ (column + 0.0).view(np.uint64))
    if teachers is not None:
        named = [xxhash.xxh3_64_intdigest(str(value).encode()) for value in [*teachers.values, None]]
        words = _mixed(words ^ np.array(named, dtype=np.uint64)[teachers.codes[rows]])
    order = order_within(codes, words)
    follows = (codes[order][1:] == codes[order][:-1]) & (words[order][1:] == words[order][:-1])
    alike = np.sort(order[np.append(follows, False) | np.append(False, follows)[: order.size]])
    if alike.size:
        read = pool.dataset.select(rows[alike]).with_format("arrow").iter(batch_size=arrays.ROWS_PER_BATCH)
        whole = b"".join(digest(row) or b"" for batch in read for row in batch.to_pylist())
        words[alike] = _mixed(words[alike] ^ np.frombuffer(whole, dtype=np.uint64)[::2])
        order = order_within(codes, words)
    return words, order


def _mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
