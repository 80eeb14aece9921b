"""Provenance records from outside the data: of a scorer, a run folder, or a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..scoring.scorer import RSRScorer
from ..tables.records import SCORE, student_name

RUN_FILES = ("manifest.json", "run.json")


def score_record(scorer: RSRScorer) -> dict[str, Any]:
    """The record of scoring with a scorer, for data that lost its own.

    Args:
        scorer: The scorer of the data; its student is not loaded.

    Returns:
        A record without the versions of the packages, which only the scoring itself knows.
    """
    name = student_name(scorer.source.name)
    return {"step": SCORE, "student": name, "settings": scorer.settings, "output": scorer.output}


def load_records(provenance: str | os.PathLike[str] | Mapping[str, Any] | Sequence[Any]) -> list[dict[str, Any]]:
    """Reads provenance records from wherever they were kept.

    Args:
        provenance: A record, a list of records, a JSON file of these, a run folder of
            :func:`rsr_datasets.score_dataset`, or the ``run.json`` or ``manifest.json`` in it.

    Returns:
        The records in order.

    Raises:
        ValueError: If it holds none.
        FileNotFoundError: If there is no such file or folder.
    """
    if isinstance(provenance, str | os.PathLike):
        return [record for file in _record_files(Path(provenance)) for record in _read_file(file)]
    items: Sequence[Any] = [provenance] if isinstance(provenance, Mapping) else provenance
    if not isinstance(items, Sequence) or not items or not all(isinstance(item, Mapping) for item in items):
        raise ValueError(f"provenance={provenance!r:.80}: expected a record, a list of records, or the path of one")
    return [_as_record(item) for item in items]


def _record_files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"provenance={str(path)!r}: no such file or folder")
    if path.is_file():
        return [path]
    folders = [path, *sorted(folder for folder in path.iterdir() if folder.is_dir())]
    found = [next((folder / name for name in RUN_FILES if (folder / name).is_file()), None) for folder in folders]
    files = [file for file in (found[:1] if found[0] else found) if file]
    if not files:
        raise ValueError(f"provenance={str(path)!r}: a folder without {' or '.join(RUN_FILES)}")
    return files


def _read_file(file: Path) -> list[dict[str, Any]]:
    try:
        return load_records(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"provenance={str(file)!r} holds no provenance records: {error}") from error


def _as_record(item: Mapping[str, Any]) -> dict[str, Any]:
    if "step" in item:
        return dict(item)
    if isinstance(item.get("settings"), Mapping) and "units" in item:
        kept = ("student", "settings", "output", "versions", "tokens_per_batch")
        return {"step": SCORE, **{name: item[name] for name in kept if name in item}}
    raise ValueError(f'{dict(item)!r:.80} is no provenance record: it has no "step"')
