"""Images of trajectories as small pictures that stand in the page itself."""

import base64
import contextlib
import io
from collections.abc import Mapping
from typing import Any

from ..reading.formats import RowFormat
from ..reading.images import BadImage
from ..reading.media import MediaOptions, is_video
from ..reading.placeholders import TAGS, take_images
from ..reading.rows import UnscorableRowError

_SIDE = 160  # pixels
_MOST = 4  # of a problem


def thumbnails(row: Mapping[str, Any], row_format: RowFormat | None, media_root: str | None = None) -> list[str]:
    """The first images of a row as data URIs of small JPEG files; images that cannot be read are left out.

    Paths of images begin in ``media_root``, or else in the working directory. Videos are left out.
    """
    found: list[str] = []
    if row_format is None:
        return found
    try:
        images = take_images({k: row.get(v) for k, v in row_format.columns.items()}, row_format, TAGS).images
    except UnscorableRowError:
        return found
    media = MediaOptions(media_root)
    for k, image in enumerate([each for each in images if not is_video(each)][:_MOST]):
        with contextlib.suppress(BadImage):
            picture = media.find_image(image, f"image {k}").open()
            picture.thumbnail((_SIDE, _SIDE))
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=75)
            found.append(f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    return found
