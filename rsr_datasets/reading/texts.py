"""Messages as plain text."""

import json
from collections.abc import Mapping
from typing import Any

from .formats import RowFormat
from .messages import Turns, read_response
from .rows import UnscorableRowError
from .templates import REASONING_KEYS


def text_of(message: Mapping[str, Any]) -> str:
    """A message as text: its reasoning, its content and its tool calls."""
    parts = [message[key] for key in (*REASONING_KEYS, "content") if message.get(key)]
    parts += [json.dumps(call, ensure_ascii=False, default=str) for call in message.get("tool_calls", [])]
    return "\n\n".join(parts)


def response_text(row: Mapping[str, Any], row_format: RowFormat, turns: Turns) -> str | None:
    """The text that the assistant wrote from the first counted turn on; ``None`` for none, or an unreadable row."""
    try:
        found = read_response(row, row_format, turns)
    except UnscorableRowError:
        return None
    text = found if isinstance(found, str) else "\n\n".join(text_of(m) for m in found if m["role"] == "assistant")
    return text if text.strip() else None
