"""The facts that the sections of a card are made from: the rows, and how they were scored and selected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datasets import Dataset

from ..reading.formats import RowFormat, find_format
from ..tables.columns import DEFAULT_TEACHER_COLUMN, ScoreColumns

Record = Mapping[str, Any]
Splits = dict[str, Dataset]


@dataclass(frozen=True)
class Scoring:
    """One way in which rows were scored.

    The dataset has the score columns with the prefix only if ``in_data``; else the record gives the settings hash.
    """

    record: Record
    settings_hash: str
    prefix: str
    in_data: bool

    @property
    def rank_clip(self) -> str:
        """The rank clip of the scores as they are, rescored or not."""
        return self.settings_hash.rpartition("-")[2]

    @property
    def identity(self) -> Mapping[str, Any]:
        """The facts that tell the student from others."""
        return as_mapping(self.record["settings"].get("student"))

    @property
    def output(self) -> Mapping[str, Any]:
        """The scorer's arguments that decide which columns are read and written."""
        return as_mapping(self.record.get("output"))

    @property
    def student(self) -> str | None:
        """The student's Hub id, or else its name."""
        name = self.identity.get("hub") or self.record.get("student")
        return str(name) if name else None


@dataclass(frozen=True)
class Facts:
    """All that is known of a dataset on its way to the Hub.

    ``steps`` are split and record of every step but scoring, in order. They are ``parallel`` where selections were
    made on parts that were concatenated afterwards.
    """

    splits: Splits
    scores: list[Scoring]
    steps: list[tuple[str, Record]]
    parallel: bool

    @property
    def rows(self) -> int:
        """The number of rows in all splits."""
        return sum(map(len, self.splits.values()))

    @property
    def main_split(self) -> str:
        """The split to train on."""
        return "train" if "train" in self.splits else next(iter(self.splits))

    @property
    def teacher_column(self) -> str:
        """The column with the teachers' names."""
        return next(iter(self.said_by_rules("teacher_column")), DEFAULT_TEACHER_COLUMN)

    @cached_property
    def row_format(self) -> RowFormat | None:
        """The columns that the student read, if the dataset still has them."""
        columns = filter(None, (as_mapping(score.output.get("columns")) for score in self.scores))
        named = {str(standard): str(name) for standard, name in next(columns, {}).items()}
        try:
            return find_format(next(iter(self.splits.values())).column_names, named)
        except ValueError:
            return None

    def said_by_rules(self, name: str) -> list[str]:
        """The texts that the rules of selections have under a name, the last selection first."""
        said = [read_rule(record).get(name) for _, record in reversed(self.steps)]
        return [value for value in said if isinstance(value, str)]


def as_mapping(value: Any) -> Mapping[str, Any]:
    """A mapping as it is, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def read_rule(record: Record) -> dict[str, Any]:
    """The rule of a selection's record, empty where there is none; the older key ``by`` becomes ``metric``."""
    return {"metric" if name == "by" else name: value for name, value in as_mapping(record.get("rule")).items()}


def score_prefixes(dataset: Dataset) -> list[str]:
    """Prefixes of the score columns of a dataset, in column order."""
    names = dataset.column_names
    prefixes = [name.removesuffix("_settings") for name in names if name.endswith("_settings")]
    return [prefix for prefix in prefixes if prefix and set(ScoreColumns(prefix).row_types) <= set(names)]
