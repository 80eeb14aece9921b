"""How a data set was made: JSON records inside ``DatasetInfo.description``.

The description is the one text that ``map``, ``select``, ``filter`` and ``save_to_disk`` carry along; concatenating
data sets joins their descriptions. So each record stands in the text between its own marks, whatever is around it.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from .. import __version__
from ..utils.files import hash_text

if TYPE_CHECKING:
    from ..scoring.scorer import RSRScorer

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "datasets", "pyarrow")
RUN_FILES = ("manifest.json", "run.json")
SCORE = "score"

_OPEN = "<rsr_datasets>"
_CLOSE = "</rsr_datasets>"
_RECORD = re.compile(re.escape(_OPEN) + r"(.*?)" + re.escape(_CLOSE), re.DOTALL)


def append_record(dataset: Dataset, record: Mapping[str, Any]) -> Dataset:
    """Adds a provenance record to a data set.

    Args:
        dataset: Any data set; it is not changed.
        record: A JSON object, finite numbers only, NumPy's among them. By convention its ``"step"`` names what was
            done.

    Returns:
        The same rows under a description that ends with the record.

    Raises:
        TypeError: If the record is not JSON.
        ValueError: If it holds a number that is NaN or infinite.
    """
    text = json.dumps(dict(record), ensure_ascii=False, allow_nan=False, default=_plain_number).replace("<", "\\u003c")
    marked = copy.copy(dataset)
    marked._info = dataset.info.copy()
    marked.info.description = f"{dataset.info.description or ''}\n{_OPEN}{text}{_CLOSE}".lstrip("\n")
    return marked


def read_records(source: Dataset | str) -> list[dict[str, Any]]:
    """Reads the provenance records of a data set.

    Args:
        source: A data set, or a description's text.

    Returns:
        All records in the order in which they stand. Data sets that were concatenated may share their first steps:
        of equal records the first one counts. A record that somebody's editing broke is skipped with a warning.
    """
    description = source if isinstance(source, str) else source.info.description
    records: list[dict[str, Any]] = []
    for match in _RECORD.finditer(description or ""):
        try:
            record = json.loads(match[1])
        except ValueError:
            record = None
        if not isinstance(record, dict):
            logger.warning("skipping a provenance record that is not a JSON object: %.80s", match[1])
        elif record not in records:
            records.append(record)
    return records


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


def score_record(scorer: RSRScorer) -> dict[str, Any]:
    """The record of scoring with a scorer, for data that lost its own.

    Args:
        scorer: What the data was scored with; its student is not loaded.

    Returns:
        A record without the versions of the packages, which only the scoring itself knows.
    """
    return {
        "step": SCORE,
        "student": student_name(scorer),
        "settings": scorer.settings,
        "output": scorer.output,
    }


def student_name(scorer: RSRScorer) -> str:
    """How people call a scorer's student: a Hub id, or the name of its folder or file without where that lies."""
    name = scorer.spec.name
    return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name


def settings_hash(settings: Mapping[str, Any]) -> str:
    """What the ``rsr_settings`` column says of settings.

    Args:
        settings: :attr:`rsr_datasets.RSRScorer.settings`.

    Returns:
        A short hash of all of them but the rank clip, then that: scores under another clip need no new student.
    """
    others = {name: value for name, value in settings.items() if name != "rank_clip"}
    return f"{hash_text(json.dumps(others, sort_keys=True))[:12]}-{settings['rank_clip']}"


def package_versions() -> dict[str, str]:
    """Versions of the packages that take part in scoring."""
    versions = {"rsr_datasets": __version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


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


def _plain_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a provenance record is JSON, which has no {type(value).__name__}")
