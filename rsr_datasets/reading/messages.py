"""A row to its conversation in one form, whatever the format, and the forms that templates ask tool calls in."""

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..tables.columns import NO_RESPONSE
from .formats import RowFormat
from .rows import UnscorableRowError, bad
from .templates import REASONING_KEYS, Messages

Turns = Literal["all", "last", "each"]

ROLES = ("system", "developer", "user", "assistant", "tool")
_ROLE_ALIASES = {
    "human": "user",
    **dict.fromkeys(("gpt", "model", "function_call"), "assistant"),
    **dict.fromkeys(("function", "observation", "ipython"), "tool"),
}
# Flags by which a trainer leaves a turn out: 0 or false.
_TRAINED = ("weight", "train", "training", "loss", "loss_weight")


@dataclass(frozen=True)
class Conversation:
    """Messages in one form; only those from index ``first_counted`` on that are not ``masked`` can count."""

    messages: Messages
    first_counted: int
    masked: frozenset[int]

    def counted(self, turns: Turns) -> list[int]:
        """Indices of the assistant messages that count; raises :class:`UnscorableRowError` if there are none."""
        own = [i for i, m in enumerate(self.messages) if i >= self.first_counted and m["role"] == "assistant"]
        if not own:
            raise UnscorableRowError(NO_RESPONSE, "no assistant turn; scored rows need at least one")
        trained = [i for i in own if i not in self.masked]
        if not trained:
            raise UnscorableRowError(NO_RESPONSE, f"every assistant turn is left out by its flags {list(_TRAINED)}")
        return trained[-1:] if turns == "last" else trained


def read_conversation(values: Mapping[str, Any], row_format: RowFormat) -> Conversation | tuple[str, str]:
    """Reads a row, standard column name to value, or refuses it; a pair of texts passes no template."""
    names = row_format.columns
    match row_format.kind:
        case "messages" | "conversations":
            messages, masked = _read_messages(values[row_format.kind], names[row_format.kind])
            system = values.get("system")
            written = system is not None and _read_text(system, names["system"]).strip()
            if written and messages and messages[0]["role"] != "system":
                messages, masked = [{"role": "system", "content": system}, *messages], {i + 1 for i in masked}
            return Conversation(messages, 0, frozenset(masked))
        case "prompt_completion":
            prompt, completion = values["prompt"], values["completion"]
            if isinstance(prompt, str) and isinstance(completion, str):
                return prompt, completion
            before, _ = _read_messages(prompt, names["prompt"], text_role="user")
            after, masked = _read_messages(completion, names["completion"], text_role="assistant")
            return Conversation([*before, *after], len(before), frozenset(len(before) + i for i in masked))
        case "alpaca":
            parts = [_read_text(values["instruction"], names["instruction"])]
            if values.get("input") is not None:
                parts.append(_read_text(values["input"], names["input"]))
            output = _read_text(values["output"], names["output"])
            request = {"role": "user", "content": "\n".join(part for part in parts if part)}
            return Conversation([request, {"role": "assistant", "content": output}], 1, frozenset())
        case "text":
            return "", _read_text(values["text"], names["text"])
    bad(f"rows of the format {row_format.kind!r} hold no text")


def split_row(
    row: Mapping[str, Any], row_format: RowFormat, turns: Turns = "all"
) -> tuple[str, str] | tuple[Messages, Messages]:
    """Reads what stands before the first scored turn of a row, and from that turn on.

    Both are messages, roles and content in one same form whatever the format; or text where no message is in the row.
    A row that cannot be read or has no assistant turn raises :class:`UnscorableRowError`.
    """
    conversation = read_conversation({k: row.get(v) for k, v in row_format.columns.items()}, row_format)
    if isinstance(conversation, tuple):
        return conversation
    first = conversation.counted(turns)[0]
    return conversation.messages[:first], conversation.messages[first:]


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


def _read_text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        bad(f"column {column!r}: expected text, found {_kind(value)}")
    return value


def _read_messages(value: Any, column: str, text_role: str | None = None) -> tuple[Messages, set[int]]:
    """Messages without their flags, and the indices of those that their flags leave out."""
    if isinstance(value, str) and text_role:
        return [{"role": text_role, "content": value}], set()
    value = _transpose(value)
    if not isinstance(value, list | tuple):
        bad(f"column {column!r}: expected a list of messages, found {_kind(value)}")
    places = [f"column {column!r}, message {i}" for i in range(len(value))]
    masked = {i for i, message in enumerate(value) if _is_masked(message, places[i])}
    return [_read_message(message, place) for message, place in zip(value, places, strict=True)], masked


def _is_masked(message: Any, where: str) -> bool:
    if not isinstance(message, Mapping):
        return False
    if message.get("train_detail") is not None:
        bad(f"{where}: 'train_detail' marks parts of a turn, which cannot be kept to: split the turn or drop the key")
    blocks = _transpose(message.get("content"))
    flags = [_flag(block) for block in blocks] if isinstance(blocks, list) else []
    if any(flags) and not all(flags):
        bad(f"{where}: a flag leaves out a part of a turn, which cannot be kept to: split the turn or drop the flag")
    return _flag(message) or any(flags)


def _flag(part: Any) -> bool:
    """Whether one of the flags says that a turn, or a part of a turn, is not trained on."""
    values = [part.get(name) for name in _TRAINED] if isinstance(part, Mapping) else []
    return any(isinstance(value, bool | int | float) and not value for value in values)


def _transpose(value: Any) -> Any:
    """`datasets` stores a `Sequence` of dicts as one dict of lists: turned back; anything else is as it was."""
    items = list(value.values()) if isinstance(value, Mapping) else []
    if not all(isinstance(item, list) for item in items) or len({len(item) for item in items}) != 1:
        return value
    return [dict(zip(value, parts, strict=True)) for parts in zip(*items, strict=True)]


def _read_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        bad(f"{where}: expected a dict with 'role' and 'content', found {_kind(message)}")
    kept = {key: value for key, value in _without_nulls(message).items() if key not in _TRAINED}
    if "role" not in kept and "from" in kept:
        kept = {"role": kept.pop("from"), **kept}
    if "content" not in kept and "value" in kept:
        kept["content"] = kept.pop("value")
    role = kept.get("role")
    if not isinstance(role, str) or _ROLE_ALIASES.get(role, role) not in ROLES:
        found = repr(role) if isinstance(role, str) else _kind(role)
        bad(f"{where}: unknown role {found}; known are {[*ROLES, *_ROLE_ALIASES]}")
    kept["role"] = _ROLE_ALIASES.get(role, role)
    content = _transpose(kept.get("content", ""))
    if isinstance(content, list) and all(_is_text_block(block) for block in content):
        content = "".join(block["text"] for block in content)
    if not isinstance(content, str):
        bad(f"{where}: content must be text or a list of text blocks, found {_kind(kept['content'])}")
    kept["content"] = content
    for key in REASONING_KEYS:
        if not isinstance(kept.get(key, ""), str):
            bad(f"{where}: {key!r} must be text, found {_kind(kept[key])}")
    calls = _read_tool_calls(kept.pop("tool_calls", None), where)
    return kept | {"tool_calls": calls} if calls else kept


def _is_text_block(block: Any) -> bool:
    return isinstance(block, Mapping) and block.get("type") == "text" and isinstance(block.get("text"), str)


def _read_tool_calls(value: Any, where: str) -> list[Any]:
    where = f"{where}: 'tool_calls'"
    calls = _transpose(_parse_json(value, where))
    calls = [_parse_json(call, where) for call in calls] if isinstance(calls, list) else calls or []
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        bad(f"{where} must be a list of dicts, found {_kind(calls)}")
    if not all(isinstance(call.get("function", call), Mapping) for call in calls):
        bad(f"{where}: 'function' of a tool call must be a dict")
    return calls


def read_tools(value: Any) -> list[Any] | None:
    """Reads the JSON schemas of a row's tools; ``None`` without any."""
    where = "column 'tools'"
    tools = _exact(value, where)
    if isinstance(tools, list) and not isinstance(value, str):
        tools = [_exact(tool, where) for tool in tools]
    if not isinstance(tools, list | None) or not all(isinstance(tool, Mapping) for tool in tools or ()):
        bad(f"{where}: expected a list of JSON schemas, found {_kind(tools)}")
    return tools or None


def read_kwargs(value: Any) -> dict[str, Any]:
    """Reads a row's own arguments of the chat template."""
    where = "column 'chat_template_kwargs'"
    kwargs = _exact(value, where)
    if not isinstance(kwargs, Mapping | None):
        bad(f"{where}: expected a dict, found {_kind(kwargs)}")
    return dict(kwargs or {})


def _exact(value: Any, where: str) -> Any:
    """JSON text as it stands; of other values the null keys are dropped."""
    return _parse_json(value, where) if isinstance(value, str) else _without_nulls(value)


def _parse_json(value: Any, where: str) -> Any:
    """Values whose rows have different keys are often kept as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError:
        bad(f"{where}: text that is not JSON")


def _without_nulls(value: Any) -> Any:
    """Drops null keys, which Arrow fills in where rows have different ones, at every depth."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(item) for item in value]
    return value


def is_written(message: Mapping[str, Any]) -> bool:
    """Whether a message has any text or tool call."""
    texts = (message.get(key, "") for key in (*REASONING_KEYS, "content"))
    return bool(message.get("tool_calls")) or any(text.strip() for text in texts)


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def call_forms(messages: Messages) -> Iterator[Messages]:
    """The conversation as it is, then with its tool calls in the other forms that templates ask for.

    Arguments are an object or JSON text, and no content beside a call is empty text or null.
    """
    yield messages
    if not any(message.get("tool_calls") for message in messages):
        return
    seen = [messages]
    for no_content, as_text in itertools.product(("", None), (None, False, True)):
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
        if as_text is False and isinstance(given := _json_value(arguments), Mapping):
            return {**call, "arguments": given}
        return call

    calls = [change(call) for call in message["tool_calls"]]
    return {**message, "content": message["content"] or no_content, "tool_calls": calls}


def _json_value(text: Any) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(text) if isinstance(text, str) else None


def missing_part(call: Mapping[str, Any], rendered: str) -> str | None:
    """The first text of a tool call that its rendering does not show: its name, and arguments' names and texts."""
    function = call.get("function", call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        if isinstance(_json_value(arguments), Mapping):
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
