"""Images of a row and their places in its texts, where a text of its own stands for each image."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .formats.base import Row, RowFormat
from .formats.prompt_completion import is_text
from .media import PAYLOADS
from .messages import Conversation, standard_role
from .rows import bad
from .unread import columns_argument
from .values import json_value, transpose

TAG = "<image>"
IMAGE_BLOCKS = ("image", "image_url", "input_image")
"""Types of blocks that are images."""
_VIDEOS = ("video", "video_url", "input_video")
_SIZES = ("min_pixels", "max_pixels", "resized_height", "resized_width")
_RESULTS = ("tool_result", "tool_response", "function_call_output")
# Standard columns of a conversation in its order, and those among them that may be JSON text.
_BEFORE = ("system", "history", "instruction", "input", "query", "prompt", "user")
_MESSAGES = ("messages", "conversations", "conversation")
_ANSWERS = ("output", "response", "completion", "assistant")
_MAY_BE_JSON = ("history", "prompt", "user", *_MESSAGES, "completion", "assistant")


@dataclass(frozen=True)
class RowImages:
    """A row and its images.

    Attributes:
        values: The row by standard column, with a text in the place of each image.
        images: The images as the row holds them, in their order.
        unplaced: How many of the images have no place: all or none.
        tags: How often ``<image>`` stands in the row's texts and is nothing but text.
    """

    values: Mapping[str, Any]
    images: list[Any]
    unplaced: int = 0
    tags: int = 0


def take_images(values: Mapping[str, Any], row_format: RowFormat, mark: str, drop: bool = False) -> RowImages:
    """Finds the images of a row and puts the text ``mark`` into the place of each; with ``drop`` leaves them out.

    Places are blocks of messages, those without an image of their own filled in order from the column ``images``. In
    a row without such blocks places are the texts ``<image>``: those outside of the assistant's turns if they are as
    many as the images, else all.

    Raises:
        UnscorableRowError: If images and places differ in number, or the row has a video.
    """
    listed = _listed(values.get("images"))
    walk = _Walk("" if drop else mark, drop)
    changed = walk.row(values)
    if values.get("videos") and not drop:
        _refuse_video(f"column {row_format.columns['videos']!r}")
    tags = sum(walk.tags.values())
    if not listed and not walk.blocks:
        return RowImages(values, [], tags=tags)
    plain = row_format.kind == "text" or (
        row_format.kind == "prompt_completion" and is_text(Row(values, row_format.columns))
    )
    if listed and not walk.blocks and tags and (drop or not plain):
        only_others = len(listed) == walk.tags[False] or (drop and len(listed) != tags)
        walk = _Walk(walk.mark, drop, (False,) if only_others else (False, True))
        changed = walk.row(values)
    if drop:
        return RowImages(changed, [])
    if not walk.images:
        return RowImages(changed, listed, unplaced=0 if plain else len(listed))
    if (places := walk.images.count(None)) != len(listed):
        hint = f"; to read another: {columns_argument({'images': 'image'})}" if "images" not in values else ""
        column = row_format.columns.get("images", "images")
        bad(f"{places} placeholders for images, but column {column!r} holds {len(listed)} images{hint}")
    rest = iter(listed)
    return RowImages(changed, [next(rest) if image is None else image for image in walk.images])


def led_by_images(row: Conversation, count: int, mark: str) -> Conversation:
    """A conversation with a text for each of some images before the first text of the user, where TRL puts them."""
    if not count:
        return row
    first = next((i for i, message in enumerate(row.messages) if message["role"] == "user"), None)
    if first is None:
        bad(f"{count} images, and neither a place for them nor a turn of the user")
    led = {**row.messages[first], "content": mark * count + row.messages[first]["content"]}
    return replace(row, messages=[*row.messages[:first], led, *row.messages[first + 1 :]])


def _listed(value: Any) -> list[Any]:
    """The images of a column, which holds a list or one of them; nulls and empty texts are none."""
    parsed = json_value(value, "[") if isinstance(value, str) else transpose(value)
    value = value if parsed is None else parsed
    return [item for item in (value if isinstance(value, list | tuple) else [value]) if not _is_empty(item)]


def _is_empty(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_empty(item) for item in value.values())
    return value is None or (isinstance(value, str | bytes) and not value)


def _refuse_video(where: str) -> None:
    bad(f"{where}: a video, and videos are not read; drop_images=True scores the text alone")


class _Walk:
    """A walk through the texts and blocks of a row in the order of its conversation.

    ``replaced`` says whose tags are places of images: of others (``False``), of the assistant (``True``).
    """

    def __init__(self, mark: str, drop: bool, replaced: tuple[bool, ...] = ()) -> None:
        self.mark = mark
        self.images: list[Any] = []  # None where the place is to be filled
        self.tags = {False: 0, True: 0}
        self.blocks = 0
        self._drop = drop
        self._replaced = replaced

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
            parsed = json_value(value, "[{") if name in _MAY_BE_JSON and "image" in value else None
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
        parsed = json_value(value) if isinstance(value, str) and "image" in value else None
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
        kind = block.get("type")
        if kind is None:
            kind = next((key for key in IMAGE_BLOCKS if not _is_empty(block.get(key))), None)
        if kind in _VIDEOS and not self._drop:
            _refuse_video(f"a block of type {kind!r}")
        if kind in IMAGE_BLOCKS or kind in _VIDEOS:
            self.blocks += 1
            self.images.append(None if self._drop else _payload(block))
            return {**block, "type": "text", "text": self.mark}
        if kind in _RESULTS:
            return {key: self._content(x, own) if key in ("content", "output") else x for key, x in block.items()}
        return {key: self._text(x, own) if key in ("text", "content", "value") else x for key, x in block.items()}

    def _text(self, text: Any, own: bool) -> Any:
        if not isinstance(text, str) or TAG not in text:
            return text
        found = text.count(TAG)
        self.tags[own] += found
        if own not in self._replaced:
            return text
        self.images += [None] * found
        return text.replace(TAG, self.mark)


def _payload(block: Mapping[str, Any]) -> Any:
    """The image that a block holds; ``None`` for a place that is to be filled."""
    if given := [key for key in _SIZES if block.get(key) is not None]:
        bad(f"a block of type 'image': {given[0]!r} is not kept to; give the image in the size to read")
    inside = [block[key] for key in ("image", "image_url", "source") if not _is_empty(block.get(key))]
    alone = {key: block[key] for key in PAYLOADS if not _is_empty(block.get(key))}
    return next(iter(inside), alone or None)
