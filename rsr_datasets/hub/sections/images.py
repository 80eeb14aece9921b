"""Images: how many the rows show."""

import contextlib
from typing import Any

from ...reading.counting import count_images
from ...reading.formats import find_format
from ..provenance import Facts, as_mapping


def images(facts: Facts) -> dict[str, Any]:
    """The number of images in all splits; 0 where the format of the rows is not known."""
    outputs = (as_mapping(score.record.get("output")) for score in facts.scores)
    columns = next((as_mapping(output.get("columns")) for output in outputs), {})
    count = 0
    for part in facts.splits.values():
        with contextlib.suppress(ValueError):
            count += count_images(part, find_format(part.column_names, columns))
    return {"images": count}
