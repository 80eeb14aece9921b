"""A row as its prompt and its response, for those who compare or show texts."""

import json
from collections.abc import Mapping
from typing import Any

from .formats import RowFormat, read_conversation
from .messages import Turns
from .placeholders import TAGS, led_by_images, take_images
from .rows import UnscorableRowError
from .templates import REASONING_KEYS, Messages


def split_row(
    row: Mapping[str, Any], row_format: RowFormat, turns: Turns = "all"
) -> tuple[str, str] | tuple[Messages, Messages]:
    """Reads what stands before the first scored turn of a row, and from that turn on.

    Both are messages, roles and content in one same form whatever the format; or text where no message is in the row.
    The texts ``<image>`` and ``<video>`` stand for these. A row that cannot be read or has no assistant turn raises
    :class:`UnscorableRowError`.
    """
    return _split(row, row_format, turns)[0]


def read_prompt(row: Mapping[str, Any], row_format: RowFormat, turns: Turns = "all") -> list[Any]:
    """The prompt as :func:`split_row` gives it and, if the prompt shows images, these as the row holds them."""
    (prompt, _), images = _split(row, row_format, turns)
    shown = (
        len(images)
        if isinstance(prompt, str)
        else sum(message["content"].count(tag) for message in prompt for tag in TAGS)
    )
    return [prompt, images[:shown]] if images and shown else [prompt]


def _split(
    row: Mapping[str, Any], row_format: RowFormat, turns: Turns
) -> tuple[tuple[str, str] | tuple[Messages, Messages], list[Any]]:
    taken = take_images({k: row.get(v) for k, v in row_format.columns.items()}, row_format, TAGS)
    conversation = read_conversation(taken.values, row_format)
    if isinstance(conversation, tuple):
        return conversation, taken.images
    conversation = led_by_images(conversation, taken.unplaced)
    first = conversation.counted(turns)[0]
    return (conversation.messages[:first], conversation.messages[first:]), taken.images


def text_of(message: Mapping[str, Any]) -> str:
    """A message as text: its reasoning, its content and its tool calls."""
    parts = [message[key] for key in (*REASONING_KEYS, "content") if message.get(key)]
    parts += [json.dumps(call, ensure_ascii=False, default=str) for call in message.get("tool_calls", [])]
    return "\n\n".join(parts)


def response_text(row: Mapping[str, Any], row_format: RowFormat, turns: Turns) -> str | None:
    """The text that the assistant wrote from the first counted turn on; ``None`` for none, or an unreadable row."""
    try:
        _, found = split_row(row, row_format, turns)
    except UnscorableRowError:
        return None
    text = found if isinstance(found, str) else "\n\n".join(text_of(m) for m in found if m["role"] == "assistant")
    return text if text.strip() else None
