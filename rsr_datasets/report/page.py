"""The HTML report: one file that shows what was scored, opened without a network or a server."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..curation.prompts import group_rows, groups_by_conversation
from ..engines.transformers.source import TransformersStudent
from ..figures.plotting import (
    iso_levels,
    log_limits,
    ratio_range,
    read_scored_rows,
    sample_evenly,
    series_style,
)
from ..reading.formats import RowFormat, find_format
from ..reading.messages import Turns
from ..tables import arrays
from ..tables.columns import TRUNCATED, ScoreColumns
from ..tables.groups import Groups
from ..tables.records import read_records
from ..teachers.dataset_rsr import DatasetRSR, dataset_rsr, summarize_metrics
from .trajectory_texts import BYTES_PER_TOKEN, BYTES_PER_TOKEN_OF_TEXT, TrajectoryReader, choose_problems, short

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_MOST_BYTES = 4_800_000
_MOST_POINTS = 20_000
_MOST_TEACHERS = 200
_LONGEST_NAME = 200
_LONGEST_LABEL = 60
_LONGEST_RECORD = 20_000
_BINS = 48
_TREND_BINS = 24
_TREND_LEAST = 5
_PROBLEMS_AT_ONCE = 64
_BYTES_PER_POINT = 80

# One script in this order: each part uses those before it.
_SCRIPTS = ("dom.js", "teachers.js", "plots.js", "trajectories.js", "page.js")


def build_report(
    scored: Dataset,
    output: str | os.PathLike[str],
    *,
    selected: Dataset | None = None,
    teacher_column: str | None = None,
    problem_column: str | None = None,
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None = None,
    max_points: int = 8_000,
    seed: int = 0,
    column_prefix: str = "rsr",
    title: str | None = None,
    turns: Turns = "all",
    columns: Mapping[str, str] | None = None,
) -> Path:
    """Writes a page that shows scored trajectories: teachers, the plane of rank and surprisal, lengths, and tokens.

    The page is a single HTML file under 5 MB that needs no network. Counts, ratios and distributions are those of all
    rows; of the points at most ``max_points`` are drawn, as many of each teacher, and the text of as many problems is
    in it as fit, with all their candidates. The page says what was sampled. The same data and arguments give the same
    bytes.

    Args:
        scored: Scored rows.
        output: The file to write; it appears under its name when it is complete.
        selected: What was selected from them, for the share and the RSR of each teacher before and after.
        teacher_column: Column with the teacher; ``None`` for ``"teacher"`` where there is one.
        problem_column: Column with the problem; ``None`` for ``"problem_id"`` where there is one, else each row is a
            problem of its own. ``"prompt"`` is the column of that name or, where there is none, the conversation
            before the first scored turn, which takes minutes for millions of rows.
        tokenizer: The student's tokenizer, or a Hub id, a folder or a ``.gguf`` file to load it from. With it, and
            the token columns (``token_columns=True``), trajectories are shown token by token, else as plain text.
        max_points: The most points in a plot, at most 20,000. Trajectories whose text is in the page are drawn too.
        seed: Of the samples and the bootstrap.
        column_prefix: The scorer's ``column_prefix``.
        title: The page's title.
        turns: Which assistant turns were scored.
        columns: Standard column name to actual name, as given to the scorer.

    Returns:
        The path of the file.

    Raises:
        ValueError: If ``output`` is a folder, an argument is out of range, a column is missing, there are more than
            200 teachers, or the rows were scored with different settings.
        TypeError: If ``scored`` or ``selected`` is not a ``Dataset``.
    """
    path = Path(output)
    if path.is_dir():
        raise ValueError(f"output={os.fspath(output)!r} is a folder; name the HTML file to write")
    if not 1 <= max_points <= _MOST_POINTS:
        raise ValueError(f"max_points={max_points}: must be between 1 and {_MOST_POINTS:,}")
    report = _Report(scored, ScoreColumns(column_prefix), teacher_column, problem_column, seed, turns, columns)
    page = _Page(title or "Rank-Surprisal Ratio report")
    content = report.summary(selected)
    points, texts = report.samples(max_points, tokenizer, _MOST_BYTES - page.size_with(content))
    _write(path, page.render({**content, "points": points, "texts": texts}))
    return path


@dataclass(frozen=True)
class _Teachers:
    """Teachers by number: ``codes`` gives that of each row, ``names`` the name of each, ``None`` for null."""

    codes: npt.NDArray[np.int32]
    names: list[Any]
    column: str | None


class _Report:
    """Reads a scored data set into what the page shows."""

    def __init__(
        self,
        dataset: Dataset,
        columns: ScoreColumns,
        teacher_column: str | None,
        problem_column: str | None,
        seed: int,
        turns: Turns,
        text_columns: Mapping[str, str] | None,
    ) -> None:
        self.dataset = dataset
        self.columns = columns
        self.seed = seed
        self.turns = turns
        self.scores = read_scored_rows(dataset, columns)
        self.teachers = _read_teachers(dataset, teacher_column, columns)
        self.problem_column = problem_column or ("problem_id" if "problem_id" in dataset.column_names else None)
        self.problems = self._read_problems(text_columns)
        self.row_format = _find_text(dataset, text_columns)

    def summary(self, selected: Dataset | None) -> dict[str, Any]:
        """What is said of all rows."""
        scores, scored = self.scores, np.flatnonzero(self.scores.has_score)
        overall = self._rsr(self.dataset)
        neutral = overall.value if math.isfinite(overall.value) else 1.0
        low, high = ratio_range(neutral)
        return {
            "rankClip": scores.rank_clip,
            "tokenScale": {"low": low, "neutral": neutral, "high": high},
            "overview": {
                "rows": len(self.dataset),
                "scored": int(scored.size),
                "problems": None if self.problem_column is None else int(self.problems.count),
                "problemColumn": self.problem_column,
                "teachers": len(self.teachers.names) if self.teachers.column else None,
                "tokens": int(scores.num_tokens.sum()),
                "truncated": int((scores.has_score & scores.status.among([TRUNCATED])).sum()),
                "statuses": _count(scores.status),
                "settings": _text(scores.settings[0], _LONGEST_NAME) if scores.settings else None,
                "rsr": _interval(overall),
                "metrics": summarize_metrics(self.dataset, self.columns),
                "selected": None if selected is None else self._selected_overview(selected),
            },
            "provenance": [
                _record(record) for record in read_records(selected if selected is not None else self.dataset)
            ],
            "teachers": self._teacher_rows(selected),
            "plane": {
                "surprisal": log_limits(scores.avg_surprisal[scored]),
                "rank": log_limits(scores.avg_rank[scored]),
                "levels": iso_levels(scores.rsr[scored]),
            },
            "axes": {"rsr": log_limits(scores.rsr[scored]), "tokens": log_limits(scores.num_tokens[scored])},
            "trend": self._trend(scored),
        }

    def samples(self, max_points: int, tokenizer: Any, budget: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The points that are drawn, and the problems whose text is in the page, in at most ``budget`` bytes."""
        scores = self.scores
        scored = np.flatnonzero(scores.has_score)
        drawn = sample_evenly(scored, self.teachers.codes[scored], max_points, self.seed)
        has_tokens = all(name in self.dataset.column_names for name in self.columns.token_types)
        loaded = _load_tokenizer(tokenizer) if tokenizer is not None and has_tokens else None
        labels = self._labels(drawn)
        budget -= _json_size(self._points(drawn, labels))
        texts: list[dict[str, Any]] = []
        cut_at = 0
        if self.row_format is not None or loaded is not None:
            per_token = BYTES_PER_TOKEN if loaded is not None else BYTES_PER_TOKEN_OF_TEXT
            chosen, cut_at = choose_problems(
                self.problems.codes, scores.num_tokens, scores.has_score, budget, per_token, self.seed
            )
            reader = TrajectoryReader(self.dataset, self.columns, self.row_format, self.turns, loaded, cut_at)
            for text in self._problems(chosen, reader):
                budget -= _json_size(text) + _json_size(text["label"]) + _BYTES_PER_POINT * len(text["candidates"])
                if budget < 0:
                    break
                texts.append(text)
        texts.sort(key=lambda text: text["candidates"][0]["row"])
        shown = np.array([candidate["row"] for text in texts for candidate in text["candidates"]], dtype=np.int64)
        drawn = np.union1d(drawn, shown[scores.has_score[shown]])
        for text in texts:
            text["candidates"].sort(key=lambda candidate: (candidate["rsr"] is None, candidate["rsr"] or 0.0))
        rows = np.random.default_rng(self.seed).permutation(drawn)
        return self._points(rows, self._labels(rows)), {
            "problems": texts,
            "tokenLimit": cut_at,
            "hasText": self.row_format is not None,
            "hasTokens": has_tokens,
            "hasTokenizer": tokenizer is not None,
        }

    def _read_problems(self, text_columns: Mapping[str, str] | None) -> Groups:
        if self.problem_column is None:
            return Groups(np.arange(len(self.dataset)), len(self.dataset))
        keys = [self.problem_column]
        if not groups_by_conversation(self.dataset, keys):
            arrays.require_columns(self.dataset, keys, self.columns)
        return group_rows(self.dataset, keys, self.turns, text_columns)

    def _rsr(self, dataset: Dataset) -> DatasetRSR:
        return dataset_rsr(dataset, seed=self.seed, column_prefix=self.columns.prefix)

    def _teacher_rsr(self, dataset: Dataset) -> dict[Any, DatasetRSR]:
        if self.teachers.column is None:
            return {None: self._rsr(dataset)}
        return dataset_rsr(dataset, self.teachers.column, seed=self.seed, column_prefix=self.columns.prefix)

    def _selected_overview(self, selected: Dataset) -> dict[str, Any]:
        scores = read_scored_rows(selected, self.columns)
        arrays.require_one_setting(self.columns, list(dict.fromkeys([*self.scores.settings, *scores.settings])))
        return {"rows": len(selected), "rsr": _interval(self._rsr(selected)), "tokens": int(scores.num_tokens.sum())}

    def _teacher_rows(self, selected: Dataset | None) -> list[dict[str, Any]]:
        scores, teachers = self.scores, self.teachers
        if selected is not None and teachers.column is not None:
            arrays.require_columns(selected, [teachers.column], self.columns)
        before = self._teacher_rsr(self.dataset)
        after = None if selected is None else self._teacher_rsr(selected)
        counts = {} if selected is None else _teacher_counts(selected, teachers.column)
        if foreign := [name for name in counts if name not in before]:
            raise ValueError(f"selected: the teacher {foreign[0]!r} is not among those of the scored rows")
        rsr_limits = log_limits(scores.rsr[scores.has_score])
        token_limits = log_limits(scores.num_tokens[scores.has_score])
        rows = []
        for code, name in enumerate(teachers.names):
            of_teacher = teachers.codes == code
            scored = of_teacher & scores.has_score
            result = before[name]
            row = {
                "name": "all rows" if teachers.column is None else _text(name, _LONGEST_NAME),
                "style": series_style(code),
                "rows": int(of_teacher.sum()),
                "scored": result.num_trajectories,
                "rsr": _interval(result),
                "distributions": {
                    "rsr": _distribution(scores.rsr[scored], rsr_limits),
                    "tokens": _distribution(scores.num_tokens[scored], token_limits),
                },
            }
            if after is not None:
                row["selected"] = {
                    "rows": counts.get(name, 0),
                    "rsr": _interval(after[name]) if name in after else None,
                }
            rows.append(row)
        return rows

    def _trend(self, scored: IntArray) -> list[list[float]]:
        """Median and quartiles of RSR by length, over all rows: (tokens, lower, median, upper) of each bin."""
        lengths, rsr = self.scores.num_tokens[scored], self.scores.rsr[scored]
        low, high = log_limits(lengths)
        bins = np.digitize(lengths, np.geomspace(low, high, _TREND_BINS + 1))
        order = np.argsort(bins, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(bins[order])) + 1)
        return [
            [short(np.median(lengths[group])), *(short(q) for q in np.quantile(rsr[group], [0.25, 0.5, 0.75]))]
            for group in groups
            if group.size >= _TREND_LEAST
        ]

    def _labels(self, rows: IntArray) -> list[str]:
        """The problem of each row, as text."""
        if self.problem_column is None or self.problem_column not in self.dataset.column_names:
            return [f"row {row}" for row in rows]
        values = self.dataset.select(rows).select_columns([self.problem_column]).with_format(None)
        return [_text(value, _LONGEST_LABEL) for value in values[self.problem_column][:]]

    def _points(self, rows: IntArray, labels: Sequence[str]) -> dict[str, Any]:
        scores = self.scores
        distinct = {label: i for i, label in enumerate(dict.fromkeys(labels))}
        return {
            "row": rows.tolist(),
            "teacher": self.teachers.codes[rows].tolist(),
            "problem": [distinct[label] for label in labels],
            "problemLabels": list(distinct),
            "rsr": [_six_digits(value) for value in scores.rsr[rows]],
            "surprisal": [_six_digits(value) for value in scores.avg_surprisal[rows]],
            "rank": [_six_digits(value) for value in scores.avg_rank[rows]],
            "tokens": scores.num_tokens[rows].astype(int).tolist(),
            "truncated": np.flatnonzero(scores.status.among([TRUNCATED])[rows]).tolist(),
        }

    def _problems(self, chosen: Sequence[IntArray], reader: TrajectoryReader) -> Iterator[dict[str, Any]]:
        sizes = np.bincount(self.problems.codes[self.problems.codes >= 0])
        for start in range(0, len(chosen), _PROBLEMS_AT_ONCE):
            some = chosen[start : start + _PROBLEMS_AT_ONCE]
            labels = self._labels(np.array([rows[0] for rows in some]))
            for rows, label, (prompt, candidates) in zip(some, labels, reader.read(some), strict=True):
                yield {
                    "label": label,
                    "prompt": prompt,
                    "numCandidates": int(sizes[self.problems.codes[rows[0]]]),
                    "candidates": [self._numbers(row) | text for row, text in zip(rows, candidates, strict=True)],
                }

    def _numbers(self, row: int) -> dict[str, Any]:
        scores = self.scores
        status = scores.status.codes[row]
        values = (scores.rsr[row], scores.avg_rank[row], scores.avg_surprisal[row])
        rsr, rank, surprisal = (_six_digits(value) if scores.has_score[row] else None for value in values)
        return {
            "row": int(row),
            "teacher": int(self.teachers.codes[row]),
            "status": _text(scores.status.values[status] if status >= 0 else None, _LONGEST_NAME),
            "rsr": rsr,
            "rank": rank,
            "surprisal": surprisal,
            "numTokens": int(scores.num_tokens[row]),
        }


class _Page:
    """The page around the data."""

    def __init__(self, title: str) -> None:
        assets = resources.files(__package__) / "assets"
        self._template = (assets / "report.html").read_text(encoding="utf-8")
        self._style = (assets / "report.css").read_text(encoding="utf-8")
        self._script = "\n".join((assets / name).read_text(encoding="utf-8") for name in _SCRIPTS)
        self._title = title

    def size_with(self, content: Mapping[str, Any]) -> int:
        """Bytes of the page with this much of the data."""
        return len(self.render(content))

    def render(self, data: Mapping[str, Any]) -> bytes:
        from .. import __version__

        values = {
            "title": html.escape(self._title),
            "style": self._style,
            "script": self._script,
            "style_hash": _csp_hash(self._style),
            "script_hash": _csp_hash(self._script),
            "data": _json_for_html({"title": self._title, "version": __version__, **data}),
        }
        page = re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], self._template)
        return page.encode("utf-8", "replace")


def _read_teachers(dataset: Dataset, column: str | None, columns: ScoreColumns) -> _Teachers:
    if column is None and "teacher" in dataset.column_names:
        column = "teacher"
    if column is None:
        return _Teachers(np.zeros(len(dataset), dtype=np.int32), [None], None)
    arrays.require_columns(dataset, [column], columns)
    found = arrays.read_categories(dataset, column)
    missing = found.codes < 0
    names = [*found.values, *([None] if missing.any() else [])]
    if len(names) > _MOST_TEACHERS:
        raise ValueError(
            f"teacher_column={column!r}: {len(names):,} different teachers, the report takes {_MOST_TEACHERS}; "
            "name the column that tells teachers apart"
        )
    return _Teachers(np.where(missing, len(found.values), found.codes).astype(np.int32), names, column)


def _teacher_counts(dataset: Dataset, column: str | None) -> dict[Any, int]:
    if column is None:
        return {None: len(dataset)}
    found = arrays.read_categories(dataset, column)
    counts = np.bincount(found.codes + 1, minlength=len(found.values) + 1)
    return {name: int(count) for name, count in zip([None, *found.values], counts, strict=True) if count}


def _find_text(dataset: Dataset, columns: Mapping[str, str] | None) -> RowFormat | None:
    """Where the text of the rows is; ``None`` where scores alone are left of them."""
    try:
        return find_format(dataset.column_names, columns)
    except ValueError:
        if columns:
            raise
        return None


def _load_tokenizer(tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    if isinstance(tokenizer, str | os.PathLike):
        return TransformersStudent(tokenizer).load_tokenizer()
    return tokenizer


def _distribution(values: FloatArray, limits: tuple[float, float]) -> dict[str, Any] | None:
    """Share of the values in each bin of a logarithmic axis, and their quartiles; the ends hold what lies beyond."""
    if not values.size:
        return None
    counts, _ = np.histogram(np.clip(values, *limits), np.geomspace(*limits, _BINS + 1))
    return {
        "bins": [round(float(share), 4) for share in counts / values.size],
        "quartiles": [short(q) for q in np.quantile(values, [0.25, 0.5, 0.75])],
    }


def _count(categories: arrays.Categories) -> list[tuple[str, int]]:
    counts = np.bincount(categories.codes + 1, minlength=len(categories.values) + 1)
    named = zip([None, *categories.values], counts, strict=True)
    found = [(_text(name, _LONGEST_NAME), int(count)) for name, count in named if count]
    return sorted(found, key=lambda item: -item[1])


def _interval(result: DatasetRSR) -> list[float | None]:
    return [
        float(f"{value:.6g}") if math.isfinite(value) else None for value in (result.value, result.low, result.high)
    ]


def _record(record: Mapping[str, Any]) -> dict[str, str]:
    text = json.dumps(record, ensure_ascii=False, indent=2)
    return {"step": _text(record.get("step"), _LONGEST_NAME), "text": _text(text, _LONGEST_RECORD)}


def _text(value: Any, longest: int) -> str:
    text = "(none)" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def _json_for_html(value: Any) -> str:
    """JSON that neither ends a script element nor breaks a line of JavaScript, whatever text is in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _json_size(value: Any) -> int:
    return len(_json_for_html(value).encode("utf-8", "replace"))


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
