"""How a dataset was made: JSON records inside ``DatasetInfo.description``.

``map`` and ``save_to_disk`` keep this text alone, and concatenating joins it: so each record has two marks.
"""

import copy
import json
import logging
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from .. import __version__
from ..utils.files import hash_text

logger = logging.getLogger(__name__)

SCORE = "score"

_RECORD = re.compile(r"<rsr_datasets>(.*?)</rsr_datasets>", re.DOTALL)


def append_record(dataset: Dataset, record: Mapping[str, Any]) -> Dataset:
    """The same rows under a description that ends with a record: JSON (``TypeError``), finite (``ValueError``)."""
    text = json.dumps(dict(record), ensure_ascii=False, allow_nan=False, default=_plain_number).replace("<", "\\u003c")
    marked = copy.copy(dataset)
    marked._info = dataset.info.copy()
    described = f"{dataset.info.description or ''}\n<rsr_datasets>{text}</rsr_datasets>"
    marked.info.description = described.lstrip("\n")
    return marked


def read_records(source: Dataset | str) -> list[dict[str, Any]]:
    """Reads the provenance records of a dataset or a description in order; equal ones count once, broken ones warn."""
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


def student_name(name: str) -> str:
    """How a record calls a student: a Hub id as it is, a folder or file without its place on this machine."""
    path = Path(name)
    return path.absolute().name if path.is_absolute() or path.exists() else name


def settings_hash(settings: Mapping[str, Any]) -> str:
    """The ``rsr_settings`` text: a short hash of the settings, then the rank clip, which needs no new student."""
    others = {name: value for name, value in settings.items() if name != "rank_clip"}
    return f"{hash_text(json.dumps(others, sort_keys=True))[:12]}-{settings['rank_clip']}"


def package_versions() -> dict[str, str]:
    """Versions of the packages that take part in scoring."""
    versions = {"rsr_datasets": __version__}
    for name in ("torch", "transformers", "datasets", "pyarrow"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _plain_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a provenance record is JSON, which has no {type(value).__name__}")
