"""Texts with images to token ids: the student's processor says which text stands for each image and video."""

import copy
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..utils.texts import shorten, shorten_list
from .images import ImageSource
from .response import RenderedText
from .rows import Tokens, bad
from .tokenizing import encode_each, tokens_holding
from .videos import Media, VideoSource

_BORDER = chr(0xE0F0)  # no marker of transformers, and no text that it looks for
_NOT_OF_FRAMES = {"input_data_format", "do_convert_rgb", "do_sample_frames", "device", "video_metadata"}


class ImageReader:
    """Reads the images and videos of texts with a student's processor, a ``transformers.ProcessorMixin``."""

    def __init__(self, processor: Any) -> None:
        self._tokenizer = processor.tokenizer
        self._listening = _Listening(processor.tokenizer)
        self._processor = copy.copy(processor)
        self._processor.tokenizer = self._listening
        self._video: str = getattr(processor, "video_token", None) or ""
        names = ["image_token", *(name for name in vars(processor) if name.endswith("_token"))]
        found = (getattr(processor, name, None) for name in names if name != "video_token")
        self._placeholders = list(dict.fromkeys(text for text in found if isinstance(text, str) and text))

    @property
    def chat_template(self) -> str | None:
        """The processor's own template."""
        found = self._processor.chat_template
        return found.get("default") if isinstance(found, dict) else found

    @property
    def reads_videos(self) -> bool:
        """Whether the processor has a part for videos."""
        return getattr(self._processor, "video_processor", None) is not None and bool(self._video)

    def tokenize(self, texts: Sequence[RenderedText]) -> tuple[list[Tokens], bool]:
        """Tokenizes the texts of one row with their images, and says whether an image has frames that are left out.

        The last text has all images of the row, each text the first of these.

        Raises:
            BadImage: If an image cannot be read.
            UnscorableRowError: If the processor refuses the images, or texts and images do not fit.
        """
        if not self._tokenizer.is_fast:
            bad(f"{type(self._tokenizer).__name__} has no character offsets, which rows with images need")
        media = texts[-1].images
        images = [each for each in media if isinstance(each, ImageSource)]
        placeholder = self._placeholder(texts[-1].text, len(images)) if images else ""
        places = [self._video if isinstance(each, VideoSource) else placeholder for each in media]
        pictures = [each.read() for each in images]
        videos = [read_video(self._processor, each) for each in media if isinstance(each, VideoSource)]
        expansions = self._expand(places, media, arguments([[picture for picture, _ in pictures]], videos))
        return [self._tokenize(text, places, expansions) for text in texts], any(more for _, more in pictures)

    def _placeholder(self, text: str, images: int) -> str:
        counts = {each: text.count(each) for each in self._placeholders}
        if found := next((each for each, count in counts.items() if count == images), None):
            return found
        first, count = next(iter(counts.items()), ("a placeholder", 0))
        bad(f"{images} images, but the text for the student has {count} places for images ({first})")

    def _expand(self, places: Sequence[str], media: Sequence[Media], shown: dict[str, Any]) -> list[str]:
        """The text that the processor puts into the place of each image; that text depends on the images alone."""
        self._listening.heard.clear()
        bordered = _BORDER + "".join(place + _BORDER for place in places)
        try:
            given = self._processor(text=[bordered], **shown, add_special_tokens=False, return_tensors="pt")
        except Exception as error:  # a processor checks sizes and counts in its own way
            names = shorten_list((each.name for each in media), 160)
            bad(f"the student's processor refused the images {names}: {shorten(str(error), 120)}")
        for heard in self._listening.heard:
            before, *expansions, after = heard.split(_BORDER)
            ids, *_ = next(encode_each(self._tokenizer, [heard], add_special_tokens=False))
            followed = len(expansions) == len(places) and [ids.tolist()] == given["input_ids"].tolist()
            if followed and not before and not after:
                return expansions
        bad(f"{type(self._processor).__name__} makes texts with images in a way that cannot be followed")

    def _tokenize(self, text: RenderedText, places: Sequence[str], expansions: Sequence[str]) -> Tokens:
        count = len(text.images)
        pieces = re.split(f"({'|'.join(map(re.escape, dict.fromkeys(places)))})", text.text)
        if pieces[1::2] != [*places[:count]]:
            found = shorten_list(dict.fromkeys(pieces[1::2]), 120)
            what = " and ".join(dict.fromkeys("videos" if place == self._video else "images" for place in places))
            bad(f"{count} {what}, but the text has {len(pieces) // 2} places for these: {found}")
        parts, own, spans, at = [pieces[0]], [text.own[: len(pieces[0])]], [], len(pieces[0])
        for place, piece, expansion in zip(places[:count], pieces[2::2], expansions[:count], strict=True):
            start = sum(map(len, parts))
            spans.append((start, start + len(expansion)))
            at += len(place)
            parts += [expansion, piece]
            own += [np.zeros(len(expansion), dtype=bool), text.own[at : at + len(piece)]]
            at += len(piece)
        ids, bounds, added = next(encode_each(self._tokenizer, ["".join(parts)], text.add_special_tokens))
        tokens = [(int(np.argmax(bounds[:, 1] > start)), int((bounds[:, 0] < end).sum())) for start, end in spans]
        return Tokens(ids, tokens_holding(bounds, np.concatenate(own)) & ~added, text.images, tuple(tokens))


def read_video(processor: Any, video: VideoSource) -> tuple[Any, dict[str, Any]]:
    """Frames of a video and its metadata; of a file the frames that the processor chooses where it does so."""
    own = processor.video_processor
    if not getattr(own, "do_sample_frames", False):
        return video.read()
    from transformers.video_utils import VideoMetadata

    settings = {name: getattr(own, name, None) for name in {*own.valid_kwargs.__annotations__} - _NOT_OF_FRAMES}
    return video.read(lambda known: own.sample_frames(metadata=VideoMetadata(**known), **settings))


def arguments(pictures: Sequence[Sequence[Any]], videos: Sequence[tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
    """Arguments of a processor for the pictures of some rows, and for the videos of all these rows."""
    given: dict[str, Any] = {"images": [some for some in pictures if some]} if any(pictures) else {}
    if videos:
        frames, metadata = zip(*videos, strict=True)
        given |= {"videos": [*frames], "video_metadata": [*metadata], "do_sample_frames": False}
    return given


class _Listening:
    """A tokenizer that remembers the texts that it was given."""

    def __init__(self, tokenizer: Any) -> None:
        self.heard: list[str] = []
        self._tokenizer = tokenizer

    def __call__(self, text: Any, *arguments: Any, **keywords: Any) -> Any:
        self.heard += [text] if isinstance(text, str) else list(text)
        return self._tokenizer(text, *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)
