"""Scored rows as the report reads them, and values as the page shows them."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from ..curation.prompts import group_problems
from ..figures.plotting import IntArray, read_scored_rows
from ..reading.formats import RowFormat, find_format
from ..reading.messages import Turns
from ..tables import arrays
from ..tables.columns import DEFAULT_TEACHER_COLUMN, ScoreColumns
from ..tables.groups import Groups


class ReportRows:
    """The scored rows: their scores, teachers and problems, and where their text is.

    ``teacher_codes`` holds the index of each row's teacher in ``teacher_names``; without a teacher column all rows
    have one teacher. ``row_format`` is ``None`` where the dataset has scores without text.
    """

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
            raise ValueError(
                f"teacher_column={self.teacher_column!r}: {len(names):,} different teachers, the report takes "
                "200; name the column that tells teachers apart"
            )
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
    """A number with as many digits as the page needs; ``None`` where it is not finite."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def json_for_html(value: Any) -> str:
    """JSON that neither ends a script element nor breaks a line of JavaScript, whatever text is in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def json_size(value: Any) -> int:
    """Bytes that a value takes in the page."""
    return len(json_for_html(value).encode("utf-8", "replace"))
