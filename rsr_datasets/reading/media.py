"""Where images and videos come from: paths below one folder, bytes, data URIs, images of PIL, URLs if allowed."""

import base64
import binascii
import functools
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..utils.texts import shorten
from .images import BadImage, ImageSource
from .values import kind
from .videos import Media, VideoSource

PAYLOADS = ("bytes", "path", "url", "base64", "data")
"""Keys under which a dict holds an image or a video: its content, or where it is."""
VIDEO = "video"
"""The one key of a dict that stands for a video, in the place of an image."""
_MOST_BYTES = 1 << 26
_MOST_SECONDS = 30


@dataclass(frozen=True)
class MediaOptions:
    """How images and videos of rows are found; see the arguments of :class:`rsr_datasets.RSRScorer`.

    ``folder`` is where relative paths begin without a ``media_root``; ``None`` is the working directory.
    """

    media_root: str | None = None
    allow_urls: bool = False
    drop_images: bool = False
    folder: str | None = None

    def find(self, value: Any, name: str) -> Media:
        """The image, or the video under the key :data:`VIDEO`, that a value stands for; ``name`` is its place.

        Raises:
            BadImage: If the value is neither, or names one that may not be read.
        """
        if is_video(value):
            return self._find_video(value[VIDEO], name)
        return self.find_image(value, name)

    def _find_video(self, value: Any, name: str) -> VideoSource:
        if isinstance(value, list | tuple):
            return VideoSource(
                name, tuple(self.find_image(frame, f"{name}, frame {k}") for k, frame in enumerate(value))
            )
        found = self.find_image(value, name)
        if not isinstance(found.content, bytes | str):
            raise BadImage(f"{name}: expected a path, bytes, a data URI or a list of frames, found an image of PIL")
        return VideoSource(found.name, found.content)

    def find_image(self, value: Any, name: str) -> ImageSource:
        """The image that a value stands for, as :meth:`find`."""
        if isinstance(value, Mapping):
            given = {key: value[key] for key in PAYLOADS if value.get(key) is not None}
            key, value = next(iter(given.items()), ("", None))
            name = given["path"] if isinstance(given.get("path"), str) else name
            value = f"data:;base64,{value}" if key in ("base64", "data") else value
        if isinstance(value, bytes | bytearray | memoryview):
            return ImageSource(name, bytes(value))
        if isinstance(value, str | os.PathLike):
            return self._from_text(os.fspath(value), name)
        if (pillow := sys.modules.get("PIL.Image")) and isinstance(value, pillow.Image):
            return ImageSource(name, value)
        raise BadImage(f"{name}: expected a path, bytes, a data URI or an image of PIL, found {kind(value)}")

    def _from_text(self, text: str, name: str) -> ImageSource:
        scheme = text[:8].lower().partition(":")[0] if ":" in text[:8] else ""
        if scheme == "data":
            return ImageSource(name, _decoded(text, name))
        if scheme in ("http", "https"):
            if not self.allow_urls:
                raise BadImage(f"image {shorten(text, 120)}: URLs are not fetched; allow_urls=True fetches them")
            return ImageSource(text, _fetched(text))
        path = unquote(urlsplit(text).path) if scheme == "file" else text
        if "://" in path:
            raise BadImage(f"image {shorten(text, 120)}: neither a path nor a URL of http or https")
        return ImageSource(path, str(self._below_root(path)))

    def _below_root(self, path: str) -> Path:
        try:
            root = Path(self.media_root or self.folder or ".").expanduser().resolve()
            found = (root / path).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise BadImage(f"image {shorten(path, 120)}: no path: {shorten(str(error), 80)}") from error
        if not found.is_relative_to(root):
            raise BadImage(
                f"image {shorten(path, 120)}: lies outside of {shorten(str(root), 80)}; "
                "media_root= names the folder that holds all images"
            )
        return found


def is_video(value: Any) -> bool:
    """Whether a value of a row stands for a video."""
    return isinstance(value, Mapping) and value.get(VIDEO) is not None


def _decoded(uri: str, name: str) -> bytes:
    head, _, data = uri.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError("it is not base64")
        return base64.b64decode(data, validate=True)
    except (ValueError, binascii.Error) as error:
        raise BadImage(f"{name}: a data URI that cannot be read: {error}") from error


@functools.lru_cache(maxsize=4)  # rows of one problem show the same image
def _fetched(url: str) -> bytes:
    import requests

    end, data = time.monotonic() + _MOST_SECONDS, bytearray()
    try:
        with requests.get(url, stream=True, timeout=_MOST_SECONDS) as response:
            response.raise_for_status()
            for chunk in response.iter_content(1 << 16):
                data += chunk
                if len(data) > _MOST_BYTES or time.monotonic() > end:
                    raise BadImage(
                        f"image {shorten(url, 120)}: more than {_MOST_BYTES >> 20} MiB or {_MOST_SECONDS} seconds"
                    )
    except requests.RequestException as error:
        raise BadImage(f"image {shorten(url, 120)}: not fetched: {shorten(str(error), 120)}") from error
    return bytes(data)
