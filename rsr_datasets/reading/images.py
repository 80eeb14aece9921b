"""Images of rows: where each of them is, and its pixels, checked."""

import contextlib
import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.texts import shorten

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")  # none is a program


class BadImage(ValueError):  # noqa: N818 - a thing of the row, not a failure of the program
    """An image that cannot be read; the message names it."""


@dataclass(frozen=True)
class ImageSource:
    """An image that is not decoded yet, or an image of PIL.

    Attributes:
        name: Its path, or its place in the row, for messages.
        content: The bytes of a file, the absolute path of a file, or a ``PIL.Image.Image``.
    """

    name: str
    content: Any = field(repr=False)

    def open(self) -> "Picture":
        """The image in RGB, as trainers see it: upright, and of several frames the first one.

        Raises:
            BadImage: If there is no image, it is broken, or it has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
        """
        return self.read()[0]

    def read(self) -> tuple["Picture", bool]:
        """The image as :meth:`open` gives it, and whether it has further frames, which are left out."""
        try:
            from PIL import Image, ImageOps, UnidentifiedImageError
        except ImportError as error:
            raise ImportError('images need the package Pillow: pip install "rsr_datasets[vision]"') from error
        try:
            with warnings.catch_warnings(), contextlib.ExitStack() as stack:
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                image = self.content
                if not isinstance(image, Image.Image):
                    image = stack.enter_context(_opened(image))
                width, height = image.size
                if width * height > (Image.MAX_IMAGE_PIXELS or width * height):
                    raise Image.DecompressionBombError(f"{width} x {height} pixels")
                more = image.format != "MPO" and bool(getattr(image, "is_animated", False))
                return ImageOps.exif_transpose(image).convert("RGB"), more
        except FileNotFoundError as error:
            raise self._bad(f"there is no file {shorten(self.content, 160)}") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise self._bad(f"too large for PIL.Image.MAX_IMAGE_PIXELS={Image.MAX_IMAGE_PIXELS}") from error
        except UnidentifiedImageError as error:
            raise self._bad(f"no image in one of the formats {[*_FORMATS]}") from error
        except Exception as error:  # a decoder of broken data raises whatever it runs into
            raise self._bad(f"broken: {shorten(str(error), 120)}") from error

    def _bad(self, reason: str) -> BadImage:
        return BadImage(f"image {shorten(self.name, 120)}: {reason}")


def _opened(file: bytes | str) -> "Picture":
    from PIL import Image

    if isinstance(file, str) and Path(file).exists() and not Path(file).is_file():
        raise OSError("not a regular file")
    Image.init()
    known = [name for name in _FORMATS if name in Image.OPEN]
    return Image.open(file if isinstance(file, str) else io.BytesIO(file), formats=known)
