"""The conclusion, numbers, distributions and records of all rows, as the page shows them."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from ..curation.associations import Estimate
from ..curation.diagnosis import diagnose
from ..curation.findings import RANDOM, Diagnosis
from ..figures.plotting import FEW, FloatArray, Limits, iso_levels, log_limits, series_style
from ..reading.counting import count_images
from ..tables import arrays
from ..tables.records import read_records
from ..teachers.dataset_rsr import DatasetRSR, dataset_rsr, summarize_metrics
from .conclusion import conclude
from .rows import KeptRows, ReportRows, rounded, shown

_LINE_BINS = 24


def json_for_html(value: Any) -> str:
    """JSON that neither ends a script element nor breaks a line of JavaScript, whatever text is in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def json_size(value: Any) -> int:
    """Bytes that a value takes in the page."""
    return len(json_for_html(value).encode("utf-8", "replace"))


def summarize(rows: ReportRows, kept: KeptRows | None) -> dict[str, Any]:
    """Summarizes all rows, and the rows that were selected from them."""
    scores, has_score = rows.scores, rows.scores.has_score
    overall = _rsr(rows, rows.dataset)[None]
    neutral = overall.value if math.isfinite(overall.value) else 1.0
    axes = {"rsr": log_limits(scores.rsr[has_score]), "tokens": log_limits(scores.num_tokens[has_score])}
    plane = {"surprisal": log_limits(scores.avg_surprisal[has_score]), "rank": log_limits(scores.avg_rank[has_score])}
    statuses = arrays.read_categories(rows.dataset, rows.columns.status).counts()
    found = diagnose(
        rows.dataset,
        rows.problem_column,
        correct=rows.correct_column,
        teacher_column=rows.teacher_column,
        seed=rows.seed,
        column_prefix=rows.columns.prefix,
        turns=rows.turns,
        columns=rows.text_columns,
    )
    return {
        "conclusion": conclude(rows, kept, found),
        "diagnosis": _diagnosis(found),
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
            "scoring": rows.scoring_facts(),
            "settings": shown(scores.settings[0]) if scores.settings else None,
            "correctColumn": rows.correct_column,
            "rsr": _interval(overall),
            "metrics": summarize_metrics(rows.dataset, rows.columns),
            "selected": None if kept is None else _selected(rows, kept),
        },
        "provenance": [
            {"step": shown(each.get("step")), "text": shown(json.dumps(each, ensure_ascii=False, indent=2), 20_000)}
            for each in read_records(rows.dataset if kept is None else kept.dataset)
        ],
        "teachers": _teachers(rows, kept, axes),
        "plane": {**plane, "levels": iso_levels(scores.rsr[has_score])},
        "axes": axes,
        "trend": _trend(scores.num_tokens[has_score], scores.rsr[has_score]),
    }


def _selected(rows: ReportRows, kept: KeptRows) -> dict[str, Any]:
    counts = {"rows": len(kept.dataset), "found": int(kept.marks.sum()), "tokens": int(kept.scores.num_tokens.sum())}
    return {**counts, "rsr": _interval(_rsr(rows, kept.dataset)[None])}


def _diagnosis(found: Diagnosis) -> dict[str, Any]:
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


def _teachers(rows: ReportRows, kept: KeptRows | None, axes: Mapping[str, Limits]) -> list[dict[str, Any]]:
    scores, column = rows.scores, rows.teacher_column
    before = _rsr(rows, rows.dataset, column)
    after = {} if kept is None else _rsr(rows, kept.dataset, column)
    measures = {"rsr": scores.rsr, "tokens": scores.num_tokens}
    teachers = []
    for code, name in enumerate(rows.teacher_names):
        of_teacher = rows.teacher_codes == code
        scored = of_teacher & scores.has_score
        teacher = {
            "name": "all rows" if column is None else shown(name),
            "style": series_style(code),
            "rows": int(of_teacher.sum()),
            "scored": before[name].num_trajectories,
            "rsr": _interval(before[name]),
            "distributions": {key: _distribution(values[scored], axes[key]) for key, values in measures.items()},
        }
        if kept is not None:
            ratio = _interval(after[name]) if name in after else None
            teacher["selected"] = {"rows": int((kept.teachers == code).sum()), "rsr": ratio}
        teachers.append(teacher)
    return teachers


def _trend(lengths: FloatArray, rsr: FloatArray) -> list[list[float | None]]:
    """Median and quartiles of RSR by length, (tokens, lower, median, upper), of bins of as many rows each.

    Empty for fewer rows than give three bins; rows of one length are in one bin.
    """
    bins = min(_LINE_BINS, lengths.size // FEW)
    if bins < 3:
        return []
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(edges, lengths, side="left")
    groups = [place == number for number in np.unique(place)]
    found = [[rounded(np.median(lengths[group]), 4), *_quartiles(rsr[group])] for group in groups]
    return found if len(found) >= 3 else []


def _distribution(values: FloatArray, limits: Limits) -> dict[str, Any] | None:
    """The quartiles of values, and the share in each bin of a logarithmic axis; of a few the values themselves.

    The bins at the ends hold what lies beyond.
    """
    if not values.size:
        return None
    if values.size < FEW:
        return {"values": [rounded(value) for value in np.sort(values)], "quartiles": _quartiles(values)}
    found, _ = np.histogram(np.clip(values, *limits), np.geomspace(*limits, 49))
    return {"bins": [round(float(share), 4) for share in found / values.size], "quartiles": _quartiles(values)}


def _quartiles(values: FloatArray) -> list[float | None]:
    return [rounded(quartile, 4) for quartile in np.quantile(values, [0.25, 0.5, 0.75])]


def _interval(result: DatasetRSR) -> list[float | None]:
    return [rounded(value) for value in (result.value, result.low, result.high)]
