"""The content of a message: text, or blocks of text, reasoning, tool calls and tool results."""

import json
from collections.abc import Mapping
from typing import Any

from ..utils.texts import shorten
from .calls import calls_of
from .rows import bad
from .values import kind, transpose

_TEXT_KEYS = ("text", "value", "content")
_REASONING_KEYS = ("thinking", "reasoning", *_TEXT_KEYS)
_RESULT_KEYS = ("content", "output", "value", "text")
_STAGES: dict[str | None, str] = {
    **dict.fromkeys((None, "text", "input_text", "output_text"), "content"),
    **dict.fromkeys(("thinking", "reasoning", "thought"), "reasoning_content"),
    **dict.fromkeys(("tool_use", "tool_call", "function_call"), "tool_calls"),
    **dict.fromkeys(("tool_result", "tool_response", "function_call_output"), "tool"),
}
_ORDER = ("reasoning_content", "content", "tool_calls")


def read_content(content: Any, role: str, where: str) -> list[dict[str, Any]]:
    """Reads the content of a message as the messages that say the same with text alone.

    Blocks become one message, but a tool result is a message of its own, and a block that a template would render
    before one that precedes it, such as text after a call, begins another message.
    """
    content = transpose(content)
    if role == "tool" and isinstance(content, Mapping | bool | int | float) and not _is_block(content):
        content = json.dumps(content, ensure_ascii=False, default=str)
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    blocks = [content] if _is_block(content) else content
    if not isinstance(blocks, list):
        bad(f"{where}: content must be text or a list of text blocks, found {kind(content)}")
    messages: list[dict[str, Any]] = []
    for block in blocks:
        key, value = _read_block(block, where)
        if key == "tool":
            messages.append(value)
            continue
        if key != "content" and role != "assistant":
            bad(f"{where}: a block of type {shorten(block['type'])} in a turn of the role {role!r}")
        last = messages[-1] if messages and messages[-1]["role"] == role else None
        if last is None or any(later in last for later in _ORDER[_ORDER.index(key) + 1 :]):
            last = {"role": role}
            messages.append(last)
        last[key] = last[key] + value if key in last else value
    return [{"content": "", **message} for message in messages] or [{"role": role, "content": ""}]


def _is_block(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("type"), str) and value["type"] in _STAGES


def _read_block(block: Any, where: str) -> tuple[str, Any]:
    if isinstance(block, str):
        return "content", block
    if not isinstance(block, Mapping):
        bad(f"{where}: content must be text or a list of text blocks, found a list with {kind(block)}")
    name = block.get("type")
    key = _STAGES.get(name) if isinstance(name, str | None) else None
    if key is None:
        found = shorten(name) if isinstance(name, str) else kind(name)
        bad(f"{where}: cannot read a block of type {found}; read are {[known for known in _STAGES if known]}")
    value: Any = None
    if key == "tool_calls":
        value = calls_of(block) or calls_of(block.get("value"))
    elif key == "tool":
        value = _read_result(block, where)
    else:
        keys = _TEXT_KEYS if key == "content" else _REASONING_KEYS
        value = next((block[each] for each in keys if isinstance(block.get(each), str)), None)
    if value is None or value == []:
        bad(f"{where}: cannot read a block of type {shorten(name)} with the keys {shorten([*block], 120)}")
    return key, value


def _read_result(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    given = next((block[key] for key in _RESULT_KEYS if key in block), "")
    texts = [message["content"] for message in read_content(given, "tool", where)]
    call = next((block[key] for key in ("tool_use_id", "call_id", "id") if key in block), None)
    identity = {} if call is None else {"tool_call_id": call}
    return {"role": "tool", **identity, "content": "".join(texts)}
