"""How a data set was made: JSON records inside ``DatasetInfo.description``.

The description is the one text that ``map``, ``select``, ``filter`` and ``save_to_disk`` carry along; concatenating
data sets joins their descriptions. So each record stands in the text between its own marks, whatever is around it.
"""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset

logger = logging.getLogger(__name__)

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


def _plain_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a provenance record is JSON, which has no {type(value).__name__}")
