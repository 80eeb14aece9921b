"""How rows were scored and selected: provenance records, of the data and from outside, held against the scores."""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from ..reading.formats import FORMATS, RowFormat, find_format, needed_columns
from ..scoring.scorer import RSRScorer
from ..tables import arrays
from ..tables.columns import DEFAULT_TEACHER_COLUMN, STATUSES_WITH_SCORE, ScoreColumns
from ..tables.records import SCORE, read_records, settings_hash, student_name
from .markdown import python

_RUN_FILES = ("manifest.json", "run.json")

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
    def student(self) -> str | None:
        """The student's Hub id, or else its name."""
        name = self.identity.get("hub") or self.record.get("student")
        return str(name) if name else None


@dataclass(frozen=True)
class Reading:
    """The scored rows that hold their conversation in the same columns.

    ``columns`` is the argument of the scorer that finds these, ``condition`` says in Python which rows have them.
    """

    row_format: RowFormat
    columns: dict[str, str]
    condition: str
    rows: int


@dataclass(frozen=True)
class Facts:
    """All that is known of a dataset on its way to the Hub.

    ``steps`` are split and record of every step but scoring, in order. They are ``parallel`` where selections were
    made on parts that were concatenated afterwards. ``named`` are the arguments ``columns`` of the scorers.
    """

    splits: Splits
    scores: list[Scoring]
    named: list[dict[str, str]]
    steps: list[tuple[str, Record]]
    parallel: bool

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
        """The columns that the student read, of most rows, if the dataset still has them."""
        return self.main_reading.row_format if self.main_reading else next(iter(self.row_formats), None)

    @property
    def row_formats(self) -> list[RowFormat]:
        """The formats of all readings; where no row has a score, the one that a scorer would find."""
        return [reading.row_format for reading in self.readings] or [found for found, _ in self._formats()][:1]

    @property
    def main_reading(self) -> Reading | None:
        """That of most rows."""
        return max(self.readings, key=lambda reading: reading.rows, default=None)

    @cached_property
    def readings(self) -> list[Reading]:
        """The columns that hold the conversation of each scored row: several where files of different formats met."""
        left = [_has_score(part) for part in self.splits.values()]
        found: list[Reading] = []
        for row_format, columns in self._formats():
            needed, rows = needed_columns(row_format), 0
            for i, part in enumerate(self.splits.values()):
                if {*needed} <= {*part.column_names}:
                    here = left[i] & arrays.read_present(part, needed)
                    left[i] &= ~here
                    rows += int(here.sum())
            if rows:
                others = [needed_columns(reading.row_format)[-1] for reading in found]
                conditions = [f"row[{python(needed[-1])}] is not None", *(f"row[{python(n)}] is None" for n in others)]
                found.append(Reading(row_format, columns, " and ".join(conditions), rows))
        return found

    def _formats(self) -> Iterator[tuple[RowFormat, dict[str, str]]]:
        """The formats that scorers may have found, in their order, and the ``columns`` that find each."""
        names = next(iter(self.splits.values())).column_names
        known = [{name: name for name in needed} for needed in FORMATS.values() if {*needed} <= {*names}]
        for columns in [*([{}, *known] if {} in self.named or not self.named else []), *filter(None, self.named)]:
            with contextlib.suppress(ValueError):
                yield find_format(names, columns), columns

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


def score_record(scorer: RSRScorer) -> dict[str, Any]:
    """The record of a scorer, for data that lost its own; without versions of packages. No student is loaded."""
    student = student_name(scorer.source.name)
    return {"step": SCORE, "student": student, "settings": scorer.settings, "output": scorer.output}


def load_records(provenance: str | os.PathLike[str] | Mapping[str, Any] | Sequence[Any]) -> list[dict[str, Any]]:
    """Reads the provenance records that :func:`rsr_datasets.push_curated` takes; a ``ValueError`` if there is none."""
    if isinstance(provenance, str | os.PathLike):
        records = []
        for file in _record_files(Path(provenance)):
            try:
                records += load_records(json.loads(file.read_text(encoding="utf-8")))
            except ValueError as error:
                raise ValueError(f"provenance={str(file)!r} holds no provenance records: {error}") from error
        return records
    items: Sequence[Any] = [provenance] if isinstance(provenance, Mapping) else provenance
    if not isinstance(items, Sequence) or not items or not all(isinstance(item, Mapping) for item in items):
        raise ValueError(f"provenance={provenance!r:.80}: expected a record, a list of records, or the path of one")
    return [_as_record(item) for item in items]


def read_facts(splits: Splits, given: Sequence[Record], hide: Callable[[Any], Any]) -> Facts:
    """Reads how rows came about from the records that they carry and from given ones; ``hide`` takes out secrets.

    It is a ``ValueError`` if scores have no record, or a given record belongs to no scores.
    """
    own = {split: read_records(part) for split, part in splits.items()}
    carried = [record for records in own.values() for record in records]
    scores = [replace(score, record=hide(score.record)) for score in _match(splits, carried, given)]
    steps: list[tuple[str, Record]] = []
    parallel = False
    for split, part in splits.items():
        of_split: list[Record] = [record for record in own[split] if record.get("step") != SCORE]
        of_split += [r for r in given if r.get("step") != SCORE and r not in of_split]
        parallel |= not _is_chain(of_split, len(part))
        steps += [(split, hide(record)) for record in of_split]
    named: list[dict[str, str]] = []
    for record in (*carried, *given):
        columns = as_mapping(as_mapping(record.get("output")).get("columns"))
        if record.get("step") == SCORE and columns not in named:
            named.append({str(standard): str(name) for standard, name in columns.items()})
    return Facts(splits, scores, named, steps, parallel)


def _match(splits: Splits, carried: Sequence[Record], given: Sequence[Record]) -> list[Scoring]:
    """Finds for each setting in the data the record that explains it.

    Rescoring changes the rank clip alone, so a record that the data carries may have another one; the rank clip of a
    given record must agree.
    """
    carried, given = (
        [r for r in records if r.get("step") == SCORE and "rank_clip" in as_mapping(r.get("settings"))]
        for records in (carried, given)
    )
    found: Counter[tuple[str, str]] = Counter()
    for part in splits.values():
        for prefix in score_prefixes(part):
            counts = arrays.read_categories(part, ScoreColumns(prefix).settings).counts()
            found.update({(prefix, value): count for value, count in counts.items() if value is not None})
    values = [value for _, value in found]
    for record in given if found else ():
        if (name := settings_hash(record["settings"])) not in values:
            raise ValueError(
                f"scorer= or provenance= does not fit the data: its settings give {name!r}, but the settings "
                f"column of the scores holds {', '.join(map(repr, values))}; give what the rows were scored with"
            )
    exact = {settings_hash(record["settings"]): record for record in (*carried, *given)}
    by_stem = {name.rpartition("-")[0]: record for name, record in exact.items()}
    scores: list[Scoring] = []
    for (prefix, value), count in found.items():
        match = exact.get(value) or by_stem.get(value.rpartition("-")[0])
        if match is None:
            raise ValueError(
                f"nothing says how {count:,} rows with the settings {value!r} were scored (Dataset.map and plain "
                "Parquet do not keep it): pass scorer= with the RSRScorer that scored them, or provenance= with the "
                "run folder, its manifest.json, or the records"
            )
        scores.append(Scoring(match, value, prefix, in_data=True))
    present = {prefix for prefix, _ in found}
    for name, record in exact.items():
        prefix = str(as_mapping(record.get("output")).get("column_prefix", ScoreColumns().prefix))
        if prefix not in present:
            scores.append(Scoring(record, name, prefix, in_data=False))
    if not scores:
        raise ValueError(
            "the dataset has neither score columns nor a record of how it was scored: score it first, or pass "
            "scorer= or provenance="
        )
    return scores


def _is_chain(steps: Sequence[Record], rows: int) -> bool:
    """Whether selections followed each other; else they were made side by side on parts that were concatenated."""
    reports = [report for record in steps if (report := as_mapping(record.get("report")))]
    before: list[Any] = [report.get("rows_in") for report in reports]
    after: list[Any] = [report.get("rows_out") for report in reports]
    if not all(isinstance(count, int) for count in (*before, *after)):
        return True
    return all(later <= earlier for earlier, later in zip(after, [*before[1:], rows], strict=False))


def _has_score(part: Dataset) -> npt.NDArray[np.bool_]:
    """Which rows some student has scored; all where no score is among the columns."""
    columns = [ScoreColumns(prefix) for prefix in score_prefixes(part)]
    scored = [arrays.read_categories(part, names.status).among(STATUSES_WITH_SCORE) for names in columns]
    return np.any(scored, axis=0) if scored else np.ones(len(part), dtype=bool)


def _record_files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"provenance={str(path)!r}: no such file or folder")
    folders = [path, *sorted(path.iterdir())] if path.is_dir() else []
    found = [next((folder / name for name in _RUN_FILES if (folder / name).is_file()), None) for folder in folders]
    files = [path] if path.is_file() else [file for file in found if file]
    if not files:
        raise ValueError(f"provenance={str(path)!r}: a folder without {' or '.join(_RUN_FILES)}")
    return files


def _as_record(item: Mapping[str, Any]) -> dict[str, Any]:
    if "step" in item:
        return dict(item)
    if isinstance(item.get("settings"), Mapping) and "units" in item:
        kept = ("student", "settings", "output", "versions", "tokens_per_batch")
        return {"step": SCORE, **{name: item[name] for name in kept if name in item}}
    raise ValueError(f'{dict(item)!r:.80} is no provenance record: it has no "step"')
