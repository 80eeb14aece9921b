"""Tool calls: the forms in which templates ask for them, and where a template renders them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .shadow import LAST_PRIVATE_CHARACTER, BoolArray, Rendering, Shadow, codepoints, drop
from .templates import REASONING_KEYS, ChatTemplate, Messages, TemplateRefusedError

_MARKER = re.compile(r"<[^<>\s]{1,64}>")
_LONGEST_MARKER = 66


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


def mark_tool_calls(
    template: ChatTemplate,
    message: Mapping[str, Any],
    index: int,
    shadow: Shadow,
    rendering: Rendering,
    own: BoolArray,
    cursor: int,
) -> int:
    """Marks a message's tool calls as the template renders them; returns the position after them.

    The calls' extents are measured on the conversation up to this message, and carried over to where the functions'
    names stand in the whole one.
    """
    marks = shadow.names[index]
    for k, (before, after) in enumerate(_call_extents(template, shadow.messages[: index + 1], marks, index)):
        name = rendering.shadow.find(marks[k])
        start, end = name - len(before), name + len(after)
        if name < 0 or rendering.shadow[start:end] != before + after:
            drop(f"tool call {k} of message {index}")
        if missing := _missing_part(message["tool_calls"][k], rendering.text[start:end]):
            drop(f"tool call {k} of message {index}, e.g. {missing!r}")
        own[start:end] = True
        cursor = max(cursor, end)
    return cursor


def _call_extents(
    template: ChatTemplate, messages: Messages, marks: Sequence[str], index: int
) -> Iterator[tuple[str, str]]:
    """What the template writes for each tool call of the last message, up to the function's name and from there on.

    The first call begins where the rendering with it parts from one with content instead; the others as far before
    their names as what stands there is the same. A call ends where a rendering that ends with it parts from one that
    goes on with another call. Where another one is refused or ignored, and where the template opens something once
    before all calls and so closes it after them, the last call ends with the turn.
    """
    *context, last = messages
    calls = last["tool_calls"]
    without = {key: value for key, value in last.items() if key not in (*REASONING_KEYS, "tool_calls")}
    alone = without if without["content"] is None else without | {"content": ""}

    def render(some_calls: list[Any]) -> str:
        return template.render([*context, {**alone, "tool_calls": some_calls}])[0]

    no_call, _ = template.render([*context, without | {"content": chr(LAST_PRIVATE_CHARACTER)}])
    end_of_turn = no_call[no_call.find(chr(LAST_PRIVATE_CHARACTER)) + 1 :].strip()
    upto = [render(calls[: k + 1]) for k in range(len(calls))]
    names = [upto[-1].find(mark) for mark in marks]
    start = _parting(upto[0], no_call)
    if min(names) < start:
        drop(f"tool calls of message {index}")
    opening = upto[-1][start : names[0]].lstrip()
    for k, mark in enumerate(marks):
        is_last = k + 1 == len(marks)
        try:
            longer = render([*calls, calls[-1]]) if is_last else upto[k + 1]
        except TemplateRefusedError:
            longer = upto[k]
        end = _parting(upto[k], longer)
        end_of_calls = _parting(upto[k], no_call, from_the_end=True)
        if longer == upto[k]:
            end = end_of_calls
        elif is_last and _common_suffix(longer[: longer.find(mark, end)], opening) < len(opening):
            end = max(end, end_of_calls)
        before = opening[len(opening) - _common_suffix(upto[-1][: names[k]], opening) :]
        yield before.lstrip(), upto[k][names[k] : end].rstrip().removesuffix(end_of_turn).rstrip()


def _parting(text: str, other: str, from_the_end: bool = False) -> int:
    """Where two texts part, as a position in ``text``, but never inside a marker such as ``<|im_end|>``."""
    position = len(text) - _common_suffix(text, other) if from_the_end else _common_prefix(text, other)
    around = _MARKER.finditer(text, max(0, position - _LONGEST_MARKER), position + _LONGEST_MARKER)
    return next((marker.start() for marker in around if marker.start() < position < marker.end()), position)


def _common_prefix(text: str, other: str) -> int:
    length = min(len(text), len(other))
    differs = codepoints(text)[:length] != codepoints(other)[:length]
    return int(differs.argmax()) if differs.any() else length


def _common_suffix(text: str, other: str) -> int:
    return _common_prefix(text[::-1], other[::-1])


def _missing_part(call: Mapping[str, Any], rendered: str) -> str | None:
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
