"""Tools and tool calls: the ways rows store them, and the forms that templates ask calls in."""

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from .rows import bad
from .templates import Messages
from .values import exact, json_value, kind, parse_json, transpose


def read_tools(value: Any) -> list[Any] | None:
    """Reads the JSON schemas of a row's tools; ``None`` without any."""
    where = "column 'tools'"
    tools = exact(value, where)
    tools = [tools] if isinstance(tools, Mapping) and tools else tools
    if isinstance(tools, list):
        tools = [exact(tool, where) if isinstance(tool, str) else tool for tool in tools]
    if not isinstance(tools, list | None) or not all(isinstance(tool, Mapping) for tool in tools or ()):
        bad(f"{where}: expected a list of JSON schemas, found {kind(tools)}")
    return [_wrapped_tool(tool) for tool in tools] if tools else None


def _wrapped_tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool as ``{"type": "function", "function": {...}}``; Anthropic's has its schema under ``input_schema``."""
    if "function" in tool or not isinstance(tool.get("name"), str):
        return tool
    renamed = {"parameters" if key == "input_schema" else key: value for key, value in tool.items()}
    if renamed.get("type") in ("function", "custom"):
        del renamed["type"]
    return {"type": "function", "function": renamed}


def read_tool_calls(value: Any, where: str) -> list[Any]:
    """Reads the value of a message's ``tool_calls``."""
    where = f"{where}: 'tool_calls'"
    calls = transpose(parse_json(value, where))
    calls = [parse_json(call, where) for call in calls] if isinstance(calls, list) else calls or []
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        bad(f"{where} must be a list of dicts, found {kind(calls)}")
    if not all(isinstance(call.get("function", call), Mapping) for call in calls):
        bad(f"{where}: 'function' of a tool call must be a dict")
    return [_wrapped_call(call) for call in calls]


def calls_of(value: Any) -> list[Any]:
    """The calls that a turn of a role such as ``function_call`` holds, as JSON text or not; none in other text."""
    value = json_value(value, "{[") if isinstance(value, str) else value
    items = [value] if isinstance(value, Mapping) else value if isinstance(value, list) else []
    items = [json_value(item) if isinstance(item, str) else item for item in items]
    calls = [_wrapped_call(item) for item in items if isinstance(item, Mapping)]
    named = [isinstance(f := call.get("function"), Mapping) and isinstance(f.get("name"), str) for call in calls]
    return calls if calls and len(calls) == len(items) and all(named) else []


def _wrapped_call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    if "function" in call or not isinstance(call.get("name"), str):
        return call
    function = {"name": call["name"]}
    arguments = next((call[key] for key in ("arguments", "parameters", "input", "args") if key in call), None)
    if arguments is not None:
        function["arguments"] = arguments
    identity = [{"id": call[key]} for key in ("call_id", "id") if key in call]
    return {**next(iter(identity), {}), "type": "function", "function": function}


def call_forms(messages: Messages) -> Iterator[Messages]:
    """The conversation with its tool calls in the forms that templates ask for, then as it is.

    Arguments are an object or JSON text, and no content beside a call is empty text or null.
    """
    if not any(message.get("tool_calls") for message in messages):
        yield messages
        return
    seen: list[Messages] = []
    for no_content, as_text in itertools.product(("", None), (False, None, True)):
        form = [_with_calls_as(message, as_text, no_content) for message in messages]
        if form not in seen:
            seen.append(form)
            yield form


def _with_calls_as(message: dict[str, Any], as_text: bool | None, no_content: str | None) -> dict[str, Any]:
    if not message.get("tool_calls"):
        return message

    def change(call: Mapping[str, Any]) -> Mapping[str, Any]:
        if "function" in call:
            return {**call, "function": change(call["function"])}
        arguments = call.get("arguments")
        if as_text is True and isinstance(arguments, Mapping):
            with contextlib.suppress(TypeError, ValueError):
                return {**call, "arguments": json.dumps(arguments, ensure_ascii=False)}
        if as_text is False and isinstance(given := json_value(arguments), Mapping):
            return {**call, "arguments": given}
        return call

    calls = [change(call) for call in message["tool_calls"]]
    return {**message, "content": message["content"] or no_content, "tool_calls": calls}


def missing_part(call: Mapping[str, Any], rendered: str) -> str | None:
    """The first text of a tool call that its rendering does not show: its name, and arguments' names and texts."""
    function = call.get("function", call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        if isinstance(json_value(arguments), Mapping):
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
