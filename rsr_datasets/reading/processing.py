"""Texts with images to token ids: the student's processor says which text stands for each image."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..utils.texts import shorten, shorten_list
from .images import ImageSource
from .response import RenderedText
from .rows import Tokens, bad
from .tokenizing import encode_each, tokens_holding

_BORDER = chr(0xE0F0)  # no marker of transformers, and no text that it looks for


class ImageReader:
    """Reads the images of texts with a student's processor, a ``transformers.ProcessorMixin``."""

    def __init__(self, processor: Any) -> None:
        self._tokenizer = processor.tokenizer
        self._listening = _Listening(processor.tokenizer)
        self._processor = copy.copy(processor)
        self._processor.tokenizer = self._listening
        names = ["image_token", *(name for name in vars(processor) if name.endswith("_token"))]
        found = (getattr(processor, name, None) for name in names)
        self._placeholders = list(dict.fromkeys(text for text in found if isinstance(text, str) and text))

    @property
    def chat_template(self) -> str | None:
        """The processor's own template."""
        found = self._processor.chat_template
        return found.get("default") if isinstance(found, dict) else found

    def tokenize(self, texts: Sequence[RenderedText]) -> tuple[list[Tokens], bool]:
        """Tokenizes the texts of one row with their images, and says whether an image has frames that are left out.

        The last text has all images of the row, each text the first of these.

        Raises:
            BadImage: If an image cannot be read.
            UnscorableRowError: If the processor refuses the images, or texts and images do not fit.
        """
        if not self._tokenizer.is_fast:
            bad(f"{type(self._tokenizer).__name__} has no character offsets, which rows with images need")
        placeholder = self._placeholder(texts[-1])
        read = [image.read() for image in texts[-1].images]
        expansions = self._expand(placeholder, texts[-1].images, [picture for picture, _ in read])
        return [self._tokenize(text, placeholder, expansions) for text in texts], any(more for _, more in read)

    def _placeholder(self, text: RenderedText) -> str:
        counts = {each: text.text.count(each) for each in self._placeholders}
        if found := next((each for each, count in counts.items() if count == len(text.images)), None):
            return found
        first, count = next(iter(counts.items()), ("a placeholder", 0))
        bad(f"{len(text.images)} images, but the text for the student has {count} places for images ({first})")

    def _expand(self, placeholder: str, images: Sequence[ImageSource], pictures: list[Any]) -> list[str]:
        """The text that the processor puts into the place of each image; that text depends on the images alone."""
        self._listening.heard.clear()
        bordered = _BORDER + "".join(placeholder + _BORDER for _ in pictures)
        try:
            given = self._processor(text=[bordered], images=[pictures], add_special_tokens=False, return_tensors="pt")
        except Exception as error:  # a processor checks sizes and counts in its own way
            names = shorten_list((image.name for image in images), 160)
            bad(f"the student's processor refused the images {names}: {shorten(str(error), 120)}")
        for heard in self._listening.heard:
            before, *expansions, after = heard.split(_BORDER)
            ids, *_ = next(encode_each(self._tokenizer, [heard], add_special_tokens=False))
            followed = len(expansions) == len(pictures) and [ids.tolist()] == given["input_ids"].tolist()
            if followed and not before and not after:
                return expansions
        bad(f"{type(self._processor).__name__} makes texts with images in a way that cannot be followed")

    def _tokenize(self, text: RenderedText, placeholder: str, expansions: Sequence[str]) -> Tokens:
        pieces, shown = text.text.split(placeholder), expansions[: len(text.images)]
        if len(pieces) != len(shown) + 1:
            bad(f"{len(text.images)} images, but the text has {len(pieces) - 1} places for images")
        parts, own, starts, at = [pieces[0]], [text.own[: len(pieces[0])]], [], len(pieces[0])
        for piece, expansion in zip(pieces[1:], shown, strict=True):
            starts.append(sum(map(len, parts)))
            at += len(placeholder)
            parts += [expansion, piece]
            own += [np.zeros(len(expansion), dtype=bool), text.own[at : at + len(piece)]]
            at += len(piece)
        ids, bounds, added = next(encode_each(self._tokenizer, ["".join(parts)], text.add_special_tokens))
        first = tuple(int(np.argmax(bounds[:, 1] > start)) for start in starts)
        return Tokens(ids, tokens_holding(bounds, np.concatenate(own)) & ~added, text.images, first)


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
