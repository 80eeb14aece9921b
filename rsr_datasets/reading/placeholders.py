"""Images and videos of a row and their places in its texts, where a text of its own stands for each of these."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .formats.base import Row, RowFormat
from .formats.prompt_completion import is_text
from .media import PAYLOADS, VIDEO
from .messages import Conversation, standard_role
from .rows import bad
from .unread import columns_argument
from .values import json_value, transpose

TAG = "<image>"
VIDEO_TAG = "<video>"
TAGS = (TAG, VIDEO_TAG)
_TAGS = {"image": TAG, VIDEO: VIDEO_TAG}
_TAG = re.compile("<(image|video)>")
IMAGE_BLOCKS = ("image", "image_url", "input_image")
"""Types of blocks that are images."""
_VIDEO_BLOCKS = ("video", "video_url", "input_video")
_KIND_OF = {**dict.fromkeys(IMAGE_BLOCKS, "image"), **dict.fromkeys(_VIDEO_BLOCKS, VIDEO)}
_SIZES = ("min_pixels", "max_pixels", "resized_height", "resized_width")
_CHOSEN = ("fps", "sample_fps", "nframes", "num_frames", "min_frames", "max_frames", "video_start", "video_end")
_RESULTS = ("tool_result", "tool_response", "function_call_output")
# Standard columns of a conversation in its order, and those among them that may be JSON text.
_BEFORE = ("system", "history", "instruction", "input", "query", "prompt", "user")
_MESSAGES = ("messages", "conversations", "conversation")
_ANSWERS = ("output", "response", "completion", "assistant")
_MAY_BE_JSON = ("history", "prompt", "user", *_MESSAGES, "completion", "assistant")


@dataclass(frozen=True)
class RowImages:
    """A row, its images and its videos.

    Attributes:
        values: The row by standard column, with a text in the place of each image and video.
        images: The images as the row holds them, in their order; a video as a dict of nothing but the key ``"video"``.
        unplaced: The texts of those that have no place: all images or none, all videos or none.
        tags: How often ``<image>`` stands in the row's texts and is nothing but text.
    """

    values: Mapping[str, Any]
    images: list[Any]
    unplaced: str = ""
    tags: int = 0


def take_images(
    values: Mapping[str, Any], row_format: RowFormat, marks: tuple[str, str], drop: bool = False
) -> RowImages:
    """Finds the images and videos of a row and puts a text into the place of each; ``drop`` leaves both out.

    ``marks`` are the texts that stand for an image and for a video.

    Places are blocks of messages, those without an image of their own filled in order from the column ``images``. In
    a row without such blocks places are the texts ``<image>``: those outside of the assistant's turns if they are as
    many as the images, else all. Videos likewise have the column ``videos`` and the texts ``<video>``.

    Raises:
        UnscorableRowError: If images and places, or videos and places, differ in number.
    """
    listed = {kind: _listed(values.get(f"{kind}s")) for kind in _TAGS}
    texts = dict(zip(_TAGS, ("", "") if drop else marks, strict=True))
    walk = _Walk(texts, drop)
    changed = walk.row(values)
    tags = sum(walk.tags["image"].values())
    if not any(listed.values()) and not walk.blocks:
        return RowImages(values, [], tags=tags)
    plain = row_format.kind == "text" or (
        row_format.kind == "prompt_completion" and is_text(Row(values, row_format.columns))
    )
    replaced: dict[str, tuple[bool, ...]] = {}
    for kind, some in listed.items():
        found = walk.tags[kind]
        if some and kind not in walk.blocks and any(found.values()) and (drop or not plain):
            only_others = len(some) == found[False] or (drop and len(some) != sum(found.values()))
            replaced[kind] = (False,) if only_others else (False, True)
    if replaced:
        walk = _Walk(texts, drop, replaced)
        changed = walk.row(values)
    if drop:
        return RowImages(changed, [])
    unplaced = {kind: some for kind, some in listed.items() if not any(found == kind for found, _ in walk.found)}
    rest = {kind: iter(some) for kind, some in listed.items() if kind not in unplaced}
    for kind in rest:
        if (places := walk.found.count((kind, None))) != len(listed[kind]):
            name = f"{kind}s"
            hint = f"; to read another: {columns_argument({name: kind})}" if name not in values else ""
            column = row_format.columns.get(name, name)
            bad(f"{places} placeholders for {name}, but column {column!r} holds {len(listed[kind])} {name}{hint}")
    first = [_as_held(kind, value) for kind, some in unplaced.items() for value in some]
    placed = [_as_held(kind, next(rest[kind]) if value is None else value) for kind, value in walk.found]
    lead = "" if plain else "".join(texts[kind] * len(some) for kind, some in unplaced.items())
    return RowImages(changed, first + placed, lead)


def led_by_images(row: Conversation, lead: str) -> Conversation:
    """A conversation with a text for images before the first text of the user, where TRL puts them."""
    if not lead:
        return row
    first = next((i for i, message in enumerate(row.messages) if message["role"] == "user"), None)
    if first is None:
        bad("images, and neither a place for them nor a turn of the user")
    led = {**row.messages[first], "content": lead + row.messages[first]["content"]}
    return replace(row, messages=[*row.messages[:first], led, *row.messages[first + 1 :]])


def _as_held(kind: str, value: Any) -> Any:
    return {VIDEO: value} if kind == VIDEO else value


def _listed(value: Any) -> list[Any]:
    """The images or videos of a column, which holds a list or one of them; nulls and empty texts are none."""
    parsed = json_value(value, "[") if isinstance(value, str) else transpose(value)
    value = value if parsed is None else parsed
    return [item for item in (value if isinstance(value, list | tuple) else [value]) if not _is_empty(item)]


def _is_empty(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_empty(item) for item in value.values())
    return value is None or (isinstance(value, str | bytes) and not value)


class _Walk:
    """A walk through the texts and blocks of a row in the order of its conversation.

    ``marks`` are the texts of an image and of a video. ``replaced`` says whose tags are places: of others
    (``False``), of the assistant (``True``).
    """

    def __init__(
        self, marks: Mapping[str, str], drop: bool, replaced: Mapping[str, tuple[bool, ...]] | None = None
    ) -> None:
        self.found: list[tuple[str, Any]] = []  # kind, and None where the place is to be filled
        self.tags = {kind: {False: 0, True: 0} for kind in _TAGS}
        self.blocks: set[str] = set()
        self._marks = marks
        self._drop = drop
        self._replaced = replaced or {}

    def row(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The row with each image replaced."""
        changed = dict(values)
        for name in (*_BEFORE, *_MESSAGES, "text", *_ANSWERS):
            if changed.get(name) is not None:
                changed[name] = self._column(changed[name], name)
        return changed

    def _column(self, value: Any, name: str) -> Any:
        own = name in _ANSWERS
        if name == "system":
            return self._content(value, own)
        if isinstance(value, str):
            parsed = json_value(value, "[{") if name in _MAY_BE_JSON and _may_show(value) else None
            return self._text(value, own) if parsed is None else json.dumps(self._items(parsed, own))
        return self._items(transpose(value), own)

    def _items(self, value: Any, own: bool) -> Any:
        return [self._item(x, own) for x in value] if isinstance(value, list | tuple) else self._item(value, own)

    def _item(self, value: Any, own: bool) -> Any:
        """A message, a pair of texts, or a text, which may be a message as JSON."""
        if isinstance(value, Mapping):
            return self._message(value)
        if isinstance(value, list | tuple):
            return [self._text(text, i == 1) for i, text in enumerate(value)]
        parsed = json_value(value) if isinstance(value, str) and _may_show(value) else None
        return self._text(value, own) if parsed is None else json.dumps(self._message(parsed))

    def _message(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        role = message.get("role", message.get("from"))
        if role is None:  # a question and its answer
            return {key: self._text(text, standard_role(key) == "assistant") for key, text in message.items()}
        own = standard_role(role) == "assistant"
        return {key: self._content(x, own) if key in ("content", "value") else x for key, x in message.items()}

    def _content(self, content: Any, own: bool) -> Any:
        content = transpose(content)
        if isinstance(content, list | tuple):
            return [self._block(block, own) for block in content]
        return self._text(content, own)

    def _block(self, block: Any, own: bool) -> Any:
        if not isinstance(block, Mapping):
            return self._text(block, own)
        name = block.get("type")
        if name is None:
            name = next((key for key in _KIND_OF if not _is_empty(block.get(key))), None)
        if isinstance(name, str) and (kind := _KIND_OF.get(name)):
            self.blocks.add(kind)
            self.found.append((kind, None if self._drop else _payload(block, kind)))
            return {**block, "type": "text", "text": self._marks[kind]}
        if name in _RESULTS:
            return {key: self._content(x, own) if key in ("content", "output") else x for key, x in block.items()}
        return {key: self._text(x, own) if key in ("text", "content", "value") else x for key, x in block.items()}

    def _text(self, text: Any, own: bool) -> Any:
        if not isinstance(text, str) or not any(tag in text for tag in _TAGS.values()):
            return text

        def place(match: re.Match[str]) -> str:
            kind = _KIND_OF[match[1]]
            self.tags[kind][own] += 1
            if own not in self._replaced.get(kind, ()):
                return match[0]
            self.found.append((kind, None))
            return self._marks[kind]

        return _TAG.sub(place, text)


def _may_show(text: str) -> bool:
    return "image" in text or "video" in text


def _payload(block: Mapping[str, Any], kind: str) -> Any:
    """The image or video that a block holds; ``None`` for a place that is to be filled."""
    if given := [key for key in (*_SIZES, *(_CHOSEN if kind == VIDEO else ())) if block.get(key) is not None]:
        bad(f"a block of type {kind!r}: {given[0]!r} is not kept to; give the {kind} as it is to be read")
    names = [key for key, found in _KIND_OF.items() if found == kind]
    inside = [block[key] for key in (*names, "source") if not _is_empty(block.get(key))]
    alone = {key: block[key] for key in PAYLOADS if not _is_empty(block.get(key))}
    return next(iter(inside), alone or None)
