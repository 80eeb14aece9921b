"""The scored rows as the report reads them, and the numbers, distributions and records of all rows in the page."""

import contextlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from ..curation.associations import Estimate
from ..curation.diagnosis import diagnose
from ..curation.findings import RANDOM
from ..curation.prompts import group_problems
from ..figures.plotting import FloatArray, IntArray, Limits, iso_levels, log_limits, read_scored_rows, series_style
from ..reading.counting import count_images
from ..reading.formats import RowFormat, find_format
from ..reading.messages import Turns
from ..tables import arrays
from ..tables.columns import DEFAULT_TEACHER_COLUMN, ScoreColumns
from ..tables.groups import Groups
from ..tables.records import read_records
from ..teachers.dataset_rsr import DatasetRSR, dataset_rsr, summarize_metrics


class ReportRows:
    """The scored rows: their scores, the codes of teachers and problems, and how their text is read, if at all."""

    def __init__(
        self,
        dataset: Dataset,
        columns: ScoreColumns,
        teacher_column: str | None,
        problem_column: str | None,
        turns: Turns,
        text_columns: Mapping[str, str] | None,
        seed: int,
    ) -> None:
        self.dataset, self.columns, self.turns, self.seed = dataset, columns, turns, seed
        self.text_columns = text_columns
        self.scores = read_scored_rows(dataset, columns, "scored")
        names = dataset.column_names
        self.teacher_column = teacher_column or (DEFAULT_TEACHER_COLUMN if DEFAULT_TEACHER_COLUMN in names else None)
        self.teacher_names, self.teacher_codes = self._read_teachers()
        self.problem_column = problem_column or ("problem_id" if "problem_id" in names else None)
        self.problems = Groups(np.arange(len(dataset)), len(dataset))
        if self.problem_column is not None:
            self.problems, _ = group_problems(dataset, self.problem_column, turns, text_columns)
        self.row_format: RowFormat | None = None
        with contextlib.nullcontext() if text_columns else contextlib.suppress(ValueError):
            self.row_format = find_format(names, text_columns)

    def _read_teachers(self) -> tuple[list[Any], IntArray]:
        if self.teacher_column is None:
            return [None], np.zeros(len(self.dataset), dtype=np.int64)
        arrays.require_columns(self.dataset, [self.teacher_column], self.columns)
        found = arrays.read_categories(self.dataset, self.teacher_column)
        names = [*found.values, *([None] if (found.codes < 0).any() else [])]
        if len(names) > 200:
            reason = f"{len(names):,} different teachers, the report takes 200"
            advice = "name the column that tells teachers apart"
            raise ValueError(f"teacher_column={self.teacher_column!r}: {reason}; {advice}")
        return names, np.where(found.codes < 0, len(found.values), found.codes).astype(np.int64)

    def labels(self, rows: IntArray) -> list[str]:
        """The problem of each row, as text."""
        if self.problem_column not in self.dataset.column_names:
            return [f"row {row}" for row in rows]
        values = self.dataset.select(rows).select_columns([self.problem_column]).with_format(None)
        return [shown(value, 60) for value in values[self.problem_column][:]]


def shown(value: Any, longest: int = 200) -> str:
    """A value as text of at most ``longest`` characters."""
    text = "(none)" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def rounded(value: float, digits: int = 6) -> float | None:
    """A number with ``digits`` digits; ``None`` where it is not finite."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def json_for_html(value: Any) -> str:
    """JSON that neither ends a script element nor breaks a line of JavaScript, whatever text is in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def json_size(value: Any) -> int:
    """Bytes that a value takes in the page."""
    return len(json_for_html(value).encode("utf-8", "replace"))


def summarize(rows: ReportRows, selected: Dataset | None) -> dict[str, Any]:
    """Summarizes all rows, and the rows that were selected from them."""
    scores, has_score = rows.scores, rows.scores.has_score
    overall = _rsr(rows, rows.dataset)[None]
    neutral = overall.value if math.isfinite(overall.value) else 1.0
    axes = {"rsr": log_limits(scores.rsr[has_score]), "tokens": log_limits(scores.num_tokens[has_score])}
    plane = {"surprisal": log_limits(scores.avg_surprisal[has_score]), "rank": log_limits(scores.avg_rank[has_score])}
    statuses = arrays.read_categories(rows.dataset, rows.columns.status).counts()
    kept = None
    if selected is not None:
        found = read_scored_rows(selected, rows.columns, "selected")
        arrays.require_one_setting(rows.columns, list(dict.fromkeys([*scores.settings, *found.settings])))
        rsr, tokens = _interval(_rsr(rows, selected)[None]), int(found.num_tokens.sum())
        kept = {"rows": len(selected), "rsr": rsr, "tokens": tokens}
    return {
        "diagnosis": _diagnosis(rows),
        "rankClip": scores.rank_clip,
        # Where colours of a token's ratio saturate. A token of rank r has a surprisal of at least ln r, which bounds
        # its ratio from below; the ratio of a sure guess goes to infinity.
        "tokenScale": {"low": neutral / 4, "neutral": neutral, "high": neutral * 40},
        "overview": {
            "rows": len(rows.dataset),
            "scored": int(has_score.sum()),
            "problems": None if rows.problem_column is None else int(rows.problems.count),
            "problemColumn": rows.problem_column,
            "teachers": None if rows.teacher_column is None else len(rows.teacher_names),
            "tokens": int(scores.num_tokens.sum()),
            "images": 0 if rows.row_format is None else count_images(rows.dataset, rows.row_format),
            "truncated": int((has_score & scores.truncated).sum()),
            "statuses": [(shown(name), n) for name, n in sorted(statuses.items(), key=lambda item: -item[1])],
            "settings": shown(scores.settings[0]) if scores.settings else None,
            "rsr": _interval(overall),
            "metrics": summarize_metrics(rows.dataset, rows.columns),
            "selected": kept,
        },
        "provenance": [
            {"step": shown(each.get("step")), "text": shown(json.dumps(each, ensure_ascii=False, indent=2), 20_000)}
            for each in read_records(rows.dataset if selected is None else selected)
        ],
        "teachers": _teachers(rows, selected, axes),
        "plane": {**plane, "levels": iso_levels(scores.rsr[has_score])},
        "axes": axes,
        "trend": _trend(scores.num_tokens[has_score], scores.rsr[has_score], axes["tokens"]),
    }


def _diagnosis(rows: ReportRows) -> dict[str, Any]:
    found = diagnose(
        rows.dataset,
        rows.problem_column,
        teacher_column=rows.teacher_column,
        seed=rows.seed,
        column_prefix=rows.columns.prefix,
        turns=rows.turns,
        columns=rows.text_columns,
    )

    def ends(estimate: Estimate) -> list[float | None]:
        return [rounded(value, 4) for value in (estimate.value, estimate.low, estimate.high)]

    return {
        "metric": found.metric,
        "sentences": [shown(sentence, 400) for sentence in found.sentences],
        "associations": [
            {"trait": each.trait, **{name: ends(getattr(each, name)) for name in ("overall", "within", "between")}}
            for each in found.associations
        ],
        "overlaps": [
            {"rule": each.rule, "share": ends(each.share), "chance": rounded(each.chance, 4)}
            for each in found.overlaps
            if each.rule != RANDOM
        ],
    }


def _rsr(rows: ReportRows, dataset: Dataset, group_by: str | None = None) -> dict[Any, DatasetRSR]:
    found = dataset_rsr(dataset, group_by, seed=rows.seed, column_prefix=rows.columns.prefix)
    return {None: found} if group_by is None else found


def _teachers(rows: ReportRows, selected: Dataset | None, axes: Mapping[str, Limits]) -> list[dict[str, Any]]:
    scores, column = rows.scores, rows.teacher_column
    before = _rsr(rows, rows.dataset, column)
    measures = {"rsr": scores.rsr, "tokens": scores.num_tokens}
    teachers: dict[Any, dict[str, Any]] = {}
    for code, name in enumerate(rows.teacher_names):
        of_teacher = rows.teacher_codes == code
        scored = of_teacher & scores.has_score
        teachers[name] = {
            "name": "all rows" if column is None else shown(name),
            "style": series_style(code),
            "rows": int(of_teacher.sum()),
            "scored": before[name].num_trajectories,
            "rsr": _interval(before[name]),
            "distributions": {key: _distribution(values[scored], axes[key]) for key, values in measures.items()},
        }
    if selected is not None:
        if column is not None:
            arrays.require_columns(selected, [column], rows.columns)
        kept = arrays.read_categories(selected, column).counts() if column else {None: len(selected)}
        if foreign := [name for name in kept if name not in teachers]:
            raise ValueError(f"selected: the teacher {foreign[0]!r} is not among those of the scored rows")
        after = _rsr(rows, selected, column)
        for name, teacher in teachers.items():
            teacher["selected"] = {"rows": kept.get(name, 0), "rsr": _interval(after[name]) if name in after else None}
    return list(teachers.values())


def _trend(lengths: FloatArray, rsr: FloatArray, limits: Limits) -> list[list[float | None]]:
    """Median and quartiles of RSR by length: (tokens, lower, median, upper) of each bin."""
    bins = np.digitize(lengths, np.geomspace(*limits, 25))
    groups = [group for number in np.unique(bins) if (group := bins == number).sum() >= 5]
    return [[rounded(np.median(lengths[group]), 4), *_quartiles(rsr[group])] for group in groups]


def _distribution(values: FloatArray, limits: Limits) -> dict[str, Any] | None:
    """Share of the values in each bin of a logarithmic axis, and their quartiles; the ends hold what lies beyond."""
    if not values.size:
        return None
    found, _ = np.histogram(np.clip(values, *limits), np.geomspace(*limits, 49))
    return {"bins": [round(float(share), 4) for share in found / values.size], "quartiles": _quartiles(values)}


def _quartiles(values: FloatArray) -> list[float | None]:
    return [rounded(quartile, 4) for quartile in np.quantile(values, [0.25, 0.5, 0.75])]


def _interval(result: DatasetRSR) -> list[float | None]:
    return [rounded(value) for value in (result.value, result.low, result.high)]
