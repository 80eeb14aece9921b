"""Images: how many the rows show."""

from typing import Any

from ...reading.counting import count_images
from ..provenance import Facts


def images(facts: Facts) -> dict[str, Any]:
    """The number of images in all splits; 0 where the format of the rows is not known."""
    # Formats that share a column of images count its images once.
    once = {row_format.columns.get("images", row_format.names[0]): row_format for row_format in facts.row_formats}
    parts = [(part, each) for part in facts.splits.values() for each in once.values()]
    return {"images": sum(count_images(part, each) for part, each in parts if {*each.names} <= {*part.column_names})}
