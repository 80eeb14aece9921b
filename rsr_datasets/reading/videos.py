"""Videos of rows: where the frames of each of them are, and the frames that a student's processor asks for."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..utils.texts import shorten
from .images import BadImage, ImageSource

_MOST_BYTES = 1 << 30  # of a video's frames
_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif"  # none is a list of other files

Frames = npt.NDArray[np.uint8]
Choose = Callable[[dict[str, Any]], Any]
"""The numbers of the frames to read, from what is known of a video."""


@dataclass(frozen=True)
class VideoSource:
    """A video that is not decoded yet.

    Attributes:
        name: Its path, or its place in the row, for messages.
        content: The bytes of a file, the absolute path of a file, or its frames.
    """

    name: str
    content: bytes | str | tuple[ImageSource, ...] = field(repr=False)

    def read(self, choose: Choose | None = None) -> tuple[Frames, dict[str, Any]]:
        """Frames of shape ``(frames, height, width, 3)``, and what transformers calls a video's metadata.

        ``choose`` chooses among the frames of a file; ``None`` reads all of them.

        Raises:
            BadImage: If there is no video, it is broken, its frames differ in size, or it has too many pixels.
        """
        if isinstance(self.content, tuple):
            return self._joined([np.asarray(frame.open()) for frame in self.content])
        try:
            import av
        except ImportError as error:
            raise ImportError('videos need the package av: pip install "rsr_datasets[video]"') from error
        file = io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content
        try:
            if isinstance(file, str) and not Path(file).is_file():
                raise self._bad(f"there is no file {shorten(file, 160)}")
            with av.open(file, options={"format_whitelist": _FORMATS}) as container:
                return self._decoded(container, choose)
        except BadImage:
            raise
        except Exception as error:  # a decoder of broken data raises whatever it runs into
            raise self._bad(f"broken: {shorten(str(error), 120)}") from error

    def _joined(self, frames: list[Frames]) -> tuple[Frames, dict[str, Any]]:
        if len({frame.shape for frame in frames}) != 1:
            raise self._bad(f"{len(frames)} frames, which must be at least one, and all of one size")
        self._check(len(frames), *frames[0].shape[:2])
        return np.stack(frames), self._known(len(frames), None, *frames[0].shape[:2])

    def _decoded(self, container: Any, choose: Choose | None) -> tuple[Frames, dict[str, Any]]:
        stream = container.streams.video[0]
        known = self._known(stream.frames, float(stream.average_rate), stream.height, stream.width)
        if not stream.frames:
            raise self._bad("the file does not say how many frames it has")
        chosen = np.asarray(known["frames_indices"] if choose is None else choose(known), dtype=np.int64)
        self._check(chosen.size, stream.height, stream.width)
        wanted, last = {*chosen.tolist()}, chosen.max()
        found: dict[int, Frames] = {}
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
            if number >= last:
                break
        if missing := sorted(wanted - found.keys()):
            raise self._bad(f"frame {missing[0]} of {stream.frames} is missing")
        return np.stack([found[number] for number in chosen.tolist()]), known | {"frames_indices": chosen.tolist()}

    def _known(self, frames: int, fps: float | None, height: int, width: int) -> dict[str, Any]:
        duration = frames / fps if fps else None
        known = {"total_num_frames": frames, "fps": fps, "duration": duration, "height": height, "width": width}
        return known | {"frames_indices": [*range(frames)]}

    def _check(self, frames: int, height: int, width: int) -> None:
        if 3 * frames * height * width > _MOST_BYTES:
            raise self._bad(f"{frames} frames of {width} x {height} pixels, more than {_MOST_BYTES >> 20} MiB")

    def _bad(self, reason: str) -> BadImage:
        return BadImage(f"video {shorten(self.name, 120)}: {reason}")


Media = ImageSource | VideoSource
