"""Reasoning in a field of a message, or in tags before its content: moved to where the student's template reads it."""

from dataclasses import replace
from typing import Any, Literal

from .messages import Conversation
from .rows import bad
from .templates import REASONING_KEYS

Reasoning = Literal["as_is", "in_content", "in_field"]

_OPEN, _CLOSE = "<think>", "</think>"


def place_reasoning(conversation: Conversation, reasoning: Reasoning) -> Conversation:
    """Moves the reasoning of the assistant's turns into their content, or out of their content into a field."""
    if reasoning == "as_is":
        return conversation
    messages = [
        _place(message, reasoning, f"message {i}") if message["role"] == "assistant" else message
        for i, message in enumerate(conversation.messages)
    ]
    return replace(conversation, messages=messages)


def _place(message: dict[str, Any], reasoning: Reasoning, where: str) -> dict[str, Any]:
    fields = [message[key] for key in REASONING_KEYS if message.get(key, "").strip()]
    inline, content = _split(message["content"])
    texts = {text.strip(): text.strip("\n") for text in (*fields, inline) if text.strip()}
    if len(texts) > 1:
        bad(f'{where}: different reasoning in several places, of which reasoning="{reasoning}" can keep only one')
    if not texts or (reasoning == "in_content" and not fields):
        return message
    (text,) = texts.values()
    bare = {key: value for key, value in message.items() if key not in REASONING_KEYS}
    if reasoning == "in_content":
        return {**bare, "content": f"{_OPEN}\n{text}\n{_CLOSE}\n\n{content}"}
    return {**message, "content": content} if fields else {**bare, "content": content, "reasoning_content": text}


def _split(content: str) -> tuple[str, str]:
    """The reasoning before the first closing tag, and the rest; the opening tag may have been in the prompt."""
    inline, tag, rest = content.partition(_CLOSE)
    inline = inline.lstrip().removeprefix(_OPEN)
    return (inline, rest.lstrip()) if tag and _OPEN not in inline else ("", content)
