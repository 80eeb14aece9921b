"""Tool calls: the forms in which templates ask for them, and where a template renders them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .templates import Messages


def forms(messages: Messages) -> Iterator[Messages]:
    """The conversation as it is, then with its tool calls in the other forms that templates ask for.

    Arguments are an object or JSON text, and no content beside a call is empty text or null.
    """
    yield messages
    if not any(message.get("tool_calls") for message in messages):
        return
    forms = [
        [_with_calls_as(message, as_text, no_content) for message in messages]
        for no_content in ("", None)
        for as_text in (None, False, True)
    ]
    yield from (form for k, form in enumerate(forms) if form not in [messages, *forms[:k]])


def _with_calls_as(message: dict[str, Any], as_text: bool | None, no_content: str | None) -> dict[str, Any]:
    if not message.get("tool_calls"):
        return message

    def change(call: Mapping[str, Any]) -> Mapping[str, Any]:
        if "function" in call:
            return {**call, "function": change(call["function"])}
        arguments = call.get("arguments")
        if as_text is True and isinstance(arguments, Mapping):
            return {**call, "arguments": _to_json(arguments)}
        if as_text is False and isinstance(arguments, str) and isinstance(from_json(arguments), Mapping):
            return {**call, "arguments": from_json(arguments)}
        return call

    calls = [change(call) for call in message["tool_calls"]]
    return {**message, "content": message["content"] or no_content, "tool_calls": calls}


def _to_json(value: Any) -> Any:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return value


def from_json(text: str) -> Any:
    """The JSON value of a text; ``None`` if the text is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def missing_part(call: Mapping[str, Any], rendered: str) -> str | None:
    """The first text of a tool call that its rendering does not show: its name, and arguments' names and texts."""
    function = call.get("function", call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        if isinstance(from_json(arguments), Mapping):
            return None if arguments.strip() in rendered else arguments
        arguments = [arguments]
    return next((part for part in _strings([function.get("name"), arguments]) if not _appears(part, rendered)), None)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (key for key in value if isinstance(key, str))
        yield from _strings(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _appears(text: str, rendered: str) -> bool:
    escaped = (json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))
    return text.strip() in rendered or any(form in rendered for form in escaped)
