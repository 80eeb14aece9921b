"""What the provenance records say of a data set, held against its settings columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from ..tables import arrays
from ..tables.columns import DEFAULT_TEACHER_COLUMN, ScoreColumns
from ..tables.records import SCORE, read_records, settings_hash

Splits = dict[str, Dataset]


@dataclass(frozen=True)
class Scoring:
    """One way in which rows were scored.

    Attributes:
        record: Its provenance record.
        settings_hash: The settings as their column says them, or as the record gives them where there is no column.
        in_data: Whether there is one.
    """

    record: Mapping[str, Any]
    settings_hash: str
    in_data: bool

    @property
    def settings(self) -> Mapping[str, Any]:
        """The scorer's settings."""
        return self.record["settings"]

    @property
    def rank_clip(self) -> str:
        """The rank clip of the scores as they are, rescored or not."""
        return self.settings_hash.rpartition("-")[2]

    @property
    def identity(self) -> Mapping[str, Any]:
        """What tells the student from others."""
        identity = self.settings.get("student")
        return identity if isinstance(identity, Mapping) else {}

    @property
    def hub_student(self) -> str | None:
        """The student's Hub id, if it is on the Hub."""
        return str(self.identity["hub"]) if self.identity.get("hub") else None

    @property
    def student(self) -> str | None:
        """How people call the student."""
        name = self.hub_student or self.record.get("student")
        return str(name) if name else None

    @property
    def output(self) -> Mapping[str, Any]:
        """Arguments of the scorer that decide which columns are read and written."""
        output = self.record.get("output")
        return output if isinstance(output, Mapping) else {}


@dataclass(frozen=True)
class History:
    """How rows came about.

    Attributes:
        scores: The ways in which they were scored.
        steps: Split and record of every other step, in order.
        parallel: Whether selections were made on parts that were put together afterwards.
    """

    scores: list[Scoring]
    steps: list[tuple[str, dict[str, Any]]]
    parallel: bool

    @classmethod
    def read(cls, splits: Splits, given: Sequence[dict[str, Any]] = ()) -> History:
        """Reads the records of a data set.

        Args:
            splits: Split to rows.
            given: Further records, which must fit the rows.

        Raises:
            ValueError: If scores have no record, or a given record is not that of any scores.
        """
        own = {split: read_records(part) for split, part in splits.items()}
        carried = [record for records in own.values() for record in records]
        scores = _match(splits, [r for r in carried if _is_score(r)], [r for r in given if _is_score(r)])
        steps: list[tuple[str, dict[str, Any]]] = []
        parallel = False
        for split, part in splits.items():
            of_split = [record for record in own[split] if record.get("step") != SCORE]
            of_split += [r for r in given if r.get("step") != SCORE and r not in of_split]
            parallel |= not _is_chain(of_split, len(part))
            steps += [(split, record) for record in of_split]
        return cls(scores, steps, parallel)

    def with_records(self, change: Callable[[Any], Any]) -> History:
        """The same with each record changed.

        Args:
            change: Record to record.
        """
        scores = [Scoring(change(score.record), score.settings_hash, score.in_data) for score in self.scores]
        return History(scores, [(split, change(record)) for split, record in self.steps], self.parallel)

    @property
    def records(self) -> list[dict[str, Any]]:
        """All records, each once: how rows were scored first."""
        records: list[dict[str, Any]] = []
        for record in (*(dict(score.record) for score in self.scores), *(record for _, record in self.steps)):
            if record not in records:
                records.append(record)
        return records

    @property
    def prefixes(self) -> list[str]:
        """Prefixes of the score columns that were selected by, the last selection first."""
        return self._said_by_rules("column_prefix")

    @property
    def teacher_column(self) -> str:
        """The column with the teachers' names."""
        return next(iter(self._said_by_rules("teacher_column")), DEFAULT_TEACHER_COLUMN)

    @property
    def input_columns(self) -> dict[str, str]:
        """Standard to actual names of the columns that were read, where they differ."""
        named = [score.output["columns"] for score in self.scores if isinstance(score.output.get("columns"), Mapping)]
        return {str(standard): str(name) for columns in named[:1] for standard, name in columns.items()}

    def _said_by_rules(self, name: str) -> list[str]:
        rules = [record["rule"] for _, record in reversed(self.steps) if isinstance(record.get("rule"), Mapping)]
        return [rule[name] for rule in rules if isinstance(rule.get(name), str)]


def score_prefixes(dataset: Dataset) -> list[str]:
    """Prefixes of the score columns that a data set has, in column order.

    Args:
        dataset: The data set.
    """
    names = set(dataset.column_names)
    candidates = [name.removesuffix("_settings") for name in dataset.column_names if name.endswith("_settings")]
    return [prefix for prefix in candidates if prefix and set(ScoreColumns(prefix).row_types) <= names]


def _is_score(record: Mapping[str, Any]) -> bool:
    settings = record.get("settings")
    return record.get("step") == SCORE and isinstance(settings, Mapping) and "rank_clip" in settings


def _match(splits: Splits, carried: Sequence[Mapping[str, Any]], given: Sequence[Mapping[str, Any]]) -> list[Scoring]:
    """Finds for each setting in the data the record that explains it.

    The rank clip in the column counts, since rescoring changes it alone; what the caller gives must agree in it too.
    """
    found: dict[str, int] = {}
    for part in splits.values():
        for prefix in score_prefixes(part):
            settings = arrays.read_categories(part, ScoreColumns(prefix).settings)
            for code_, value in enumerate(settings.values):
                found[str(value)] = found.get(str(value), 0) + int((settings.codes == code_).sum())
    exact = {settings_hash(record["settings"]): record for record in (*carried, *given)}
    by_stem = {name.rpartition("-")[0]: record for name, record in exact.items()}
    if found:
        for record in given:
            if (name := settings_hash(record["settings"])) not in found:
                raise ValueError(
                    f"scorer= or provenance= does not fit the data: its settings give {name!r}, but the settings "
                    f"column of the scores holds {', '.join(map(repr, found))}; give what the rows were scored with"
                )
    scores: list[Scoring] = []
    for value, count in found.items():
        match = exact.get(value) or by_stem.get(value.rpartition("-")[0])
        if match is None:
            raise ValueError(
                f"nothing says how {count:,} rows with the settings {value!r} were scored (Dataset.map and plain "
                "Parquet do not keep it): pass scorer= with the RSRScorer that scored them, or provenance= with the "
                "run folder, its manifest.json, or the records"
            )
        scores.append(Scoring(match, value, in_data=True))
    if not found:
        scores = [Scoring(record, name, in_data=False) for name, record in exact.items()]
    if not scores:
        raise ValueError(
            "the dataset has neither score columns nor a record of how it was scored: score it first, or pass "
            "scorer= or provenance="
        )
    return scores


def _is_chain(steps: Sequence[Mapping[str, Any]], rows: int) -> bool:
    """Whether selections followed each other, as against side by side on parts that were then concatenated."""
    reports = [record["report"] for record in steps if isinstance(record.get("report"), Mapping)]
    before = [report.get("rows_in") for report in reports]
    after = [report.get("rows_out") for report in reports]
    if not all(isinstance(count, int) for count in (*before, *after)):
        return True
    follow = [*before[1:], rows] if reports else []
    return all(later <= earlier for earlier, later in zip(after, follow, strict=True))
