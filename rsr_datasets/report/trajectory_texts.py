"""The text of a message."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..reading.templates import REASONING_KEYS


def text_of(message: Mapping[str, Any]) -> str:
    """A message as text: its reasoning, its content and its tool calls."""
    parts = [message[key] for key in (*REASONING_KEYS, "content") if message.get(key)]
    parts += [json.dumps(call, ensure_ascii=False, default=str) for call in message.get("tool_calls", [])]
    return "\n\n".join(parts)
