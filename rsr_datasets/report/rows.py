"""The rows as the report reads them: the scored ones, how they were scored, and the selected ones among them."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from ..curation.prompts import group_problems
from ..curation.traits import read_correctness
from ..figures.plotting import BoolArray, FloatArray, IntArray, ScoredRows, read_scored_rows
from ..reading.formats import RowFormat, find_format
from ..reading.messages import Turns
from ..reading.templates import PRESETS, resolve_chat_template
from ..scoring.scorer import RSRScorer
from ..tables import arrays
from ..tables.columns import DEFAULT_TEACHER_COLUMN, ScoreColumns
from ..tables.groups import Groups, runs
from ..tables.records import SCORE, read_records, settings_hash, student_name
from ..utils.files import hash_text

_DEFAULT_CORRECT_COLUMN = "is_correct"


class ReportRows:
    """The scored rows: their scores, the codes of teachers and problems, and how their text is read, if at all."""

    def __init__(
        self,
        dataset: Dataset,
        columns: ScoreColumns,
        teacher_column: str | None,
        problem_column: str | None,
        correct: str | None,
        turns: Turns,
        text_columns: Mapping[str, str] | None,
        scorer: RSRScorer | None,
        seed: int,
        media_root: str | os.PathLike[str] | None = None,
    ) -> None:
        self.dataset, self.columns, self.turns, self.seed = dataset, columns, turns, seed
        given = media_root if media_root is not None or scorer is None else scorer.media_root
        self.media_root = None if given is None else os.fspath(given)
        self.text_columns = text_columns
        self.scores = read_scored_rows(dataset, columns, "scored")
        names = dataset.column_names
        self.teacher_column = teacher_column or (DEFAULT_TEACHER_COLUMN if DEFAULT_TEACHER_COLUMN in names else None)
        self.teacher_names, self.teacher_codes = self._read_teachers()
        self.problem_column = problem_column or ("problem_id" if "problem_id" in names else None)
        self.problems = Groups(np.arange(len(dataset)), len(dataset))
        if self.problem_column is not None:
            self.problems, _ = group_problems(dataset, self.problem_column, turns, text_columns)
        self.correct_column = correct or (_DEFAULT_CORRECT_COLUMN if _has_flags(dataset) else None)
        arrays.require_columns(dataset, [self.correct_column] if self.correct_column else [], columns)
        self.correct = np.full(len(dataset), np.nan)  # 1 for correct, 0 for incorrect, NaN for unknown
        if self.correct_column:
            self.correct = read_correctness(dataset, self.correct_column)
        self.scoring = self._find_scoring(scorer)
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

    def _find_scoring(self, scorer: RSRScorer | None) -> dict[str, Any]:
        """The record of the scoring that gave the scores; empty where nothing says it. The rank clip may differ."""
        of_rows = self.scores.settings[0].rpartition("-")[0] if self.scores.settings else ""
        records = [each for each in read_records(self.dataset) if each.get("step") == SCORE]
        if scorer is not None:
            record = {"student": student_name(scorer.source.name), "settings": scorer.settings}
            if of_rows and scorer.settings_hash.rpartition("-")[0] != of_rows:
                found = f"its settings give {scorer.settings_hash!r}, column {self.columns.settings!r} holds"
                raise ValueError(f"scorer: {found} {self.scores.settings[0]!r}; give the scorer that scored the rows")
            return record
        fitting = (
            each
            for each in records
            if isinstance(settings := each.get("settings"), dict)
            and "rank_clip" in settings
            and settings_hash(settings).rpartition("-")[0] == of_rows
        )
        return next(fitting, {})

    @property
    def student(self) -> str | None:
        """The name of the student, where it is known."""
        return shown(name, 100) if (name := self.scoring.get("student")) else None

    def scoring_facts(self) -> list[tuple[str, str]]:
        """How the rows were scored, as pairs of texts."""
        if not self.scoring:
            return []
        settings = self.scoring["settings"]
        identity = settings.get("student") or {}
        template = settings.get("chat_template")
        known: dict[str | None, str] = {hash_text(resolve_chat_template(name) or ""): name for name in PRESETS}
        known[None] = "the student's own"
        facts = {
            "student": f"{self.student or identity.get('hub')}",
            "dtype": "the student's own" if settings.get("dtype") == "auto" else settings.get("dtype"),
            "chat template": known.get(template, f"another one, with the hash {template}"),
            "engine": settings.get("engine") or identity.get("engine") or "transformers",
        }
        return [(name, shown(value, 100)) for name, value in facts.items()]

    def labels(self, rows: IntArray) -> list[str]:
        """The problem of each row, as text."""
        if self.problem_column not in self.dataset.column_names:
            return [f"row {row}" for row in rows]
        values = self.dataset.select(rows).select_columns([self.problem_column]).with_format(None)
        return [shown(value, 60) for value in values[self.problem_column][:]]


class KeptRows:
    """The selected rows, found again among the scored ones by teacher, length and scores.

    Attributes:
        scores: Their scores.
        marks: Which scored rows were selected, bool, shape ``(scored rows,)``.
        reports: The accounts of the selections that made them of the scored rows, in order.
    """

    def __init__(self, rows: ReportRows, dataset: Dataset) -> None:
        self.dataset = dataset
        self.scores = read_scored_rows(dataset, rows.columns, "selected")
        settings = dict.fromkeys([*rows.scores.settings, *self.scores.settings])
        arrays.require_one_setting(rows.columns, list(settings))
        self.teachers = self._read_teachers(rows)
        self.marks = self._find(rows)
        before = read_records(rows.dataset)
        records = (record for record in read_records(dataset) if record not in before)
        self.reports = [report for each in records if isinstance(report := each.get("report"), dict)]

    def _read_teachers(self, rows: ReportRows) -> IntArray:
        """The codes of the teachers, as the scored rows have them."""
        if rows.teacher_column is None:
            return np.zeros(len(self.dataset), dtype=np.int64)
        arrays.require_columns(self.dataset, [rows.teacher_column], rows.columns)
        found = arrays.read_categories(self.dataset, rows.teacher_column)
        codes = {name: code for code, name in enumerate(rows.teacher_names)}
        names = [*found.values, *([None] if (found.codes < 0).any() else [])]
        if foreign := [name for name in names if name not in codes]:
            raise ValueError(f"selected: the teacher {foreign[0]!r} is not among those of the scored rows")
        return np.array([*(codes[name] for name in found.values), codes.get(None, -1)], dtype=np.int64)[found.codes]

    def _find(self, rows: ReportRows) -> BoolArray:
        """Equal rows are marked from the first on, as many as were selected."""
        marks = np.zeros(len(rows.dataset), dtype=bool)
        both = [(rows.scores, rows.teacher_codes), (self.scores, self.teachers)]
        keys = np.concatenate([_keys(scores, teachers) for scores, teachers in both])
        _, codes = np.unique(keys, axis=0, return_inverse=True)
        codes = codes.reshape(-1)
        own, chosen = np.split(codes, [int(rows.scores.has_score.sum())])
        wanted = np.bincount(chosen, minlength=codes.max(initial=0) + 1)
        order = np.argsort(own, kind="stable")
        place = np.arange(own.size) - runs(own[order])[0]
        marks[np.flatnonzero(rows.scores.has_score)[order[place < wanted[own[order]]]]] = True
        return marks


def _has_flags(dataset: Dataset) -> bool:
    schema = dataset.data.table.schema
    names = dataset.column_names
    return _DEFAULT_CORRECT_COLUMN in names and pa.types.is_boolean(schema.field(_DEFAULT_CORRECT_COLUMN).type)


def _keys(scores: ScoredRows, teachers: IntArray) -> FloatArray:
    """Rows that tell trajectories with a score apart; float32 survives a CSV file."""
    values = (scores.avg_rank, scores.avg_surprisal, scores.num_tokens, teachers)
    return np.stack(values, axis=1)[scores.has_score].astype(np.float32).astype(np.float64)


def shown(value: Any, longest: int = 200) -> str:
    """A value as text of at most ``longest`` characters."""
    text = "(none)" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def rounded(value: float, digits: int = 6) -> float | None:
    """A number with ``digits`` digits; ``None`` where it is not finite."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
