"""A list of messages in one form, whatever roles, keys and blocks a row stores it with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..tables.columns import NO_RESPONSE
from ..utils.texts import shorten
from .calls import calls_of, read_tool_calls
from .content import read_content
from .rows import UnscorableRowError, bad
from .templates import REASONING_KEYS, Messages
from .values import json_value, kind, parse_json, transpose, without_nulls

Turns = Literal["all", "last", "each"]

ROLES = ("system", "developer", "user", "assistant", "tool")
_CALL_ROLES = ("function_call", "tool_call", "tool_calls", "functioncall")
_ROLE_ALIASES = {
    **{role: role for role in ROLES},
    **dict.fromkeys(("system_prompt", "sys"), "system"),
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "model", "ai", "bot", "chatbot", "chatgpt", *_CALL_ROLES), "assistant"),
    **dict.fromkeys(("function", "observation", "ipython"), "tool"),
    **{f"{call}_{end}": "tool" for call in ("tool", "function") for end in ("response", "result", "output")},
    "tool_results": "tool",
}
ASSISTANT_ROLES = tuple(name for name, role in _ROLE_ALIASES.items() if role == "assistant")
_PAIR_KEYS = _ROLE_ALIASES | {
    **dict.fromkeys(("prompt", "query", "question", "instruction", "input"), "user"),
    **dict.fromkeys(("response", "answer", "completion", "output"), "assistant"),
}
# Flags by which a trainer leaves a turn out: 0 or false.
_TRAINED = ("weight", "train", "training", "loss", "loss_weight")
# Keys under which a message may hold text that is not its content.
_NOT_CONTENT = ("name", "id", "tool_call_id", "type", "model", "status", "timestamp", "finish_reason", *REASONING_KEYS)
_AS_WRITTEN = ("arguments", "parameters", "input", "args")


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


def read_text(value: Any, column: str) -> str:
    """A value that must be text."""
    if not isinstance(value, str):
        bad(f"column {column!r}: expected text, found {kind(value)}")
    return value


def read_messages(value: Any, column: str, text_role: str | None = None) -> tuple[Messages, set[int]]:
    """Reads messages, also from JSON text, without their flags; and the indices of those that their flags leave out.

    Text is one message of the role ``text_role``, unless it is JSON text of messages.
    """
    if isinstance(value, str) and text_role and not is_json_of_messages(value):
        return [{"role": text_role, "content": value}], set()
    whole = _AS_WRITTEN if isinstance(value, str) else ()
    value = transpose(parse_json(value, f"column {column!r}"))
    value = [value] if isinstance(value, Mapping) and ("role" in value or "from" in value) else value
    if not isinstance(value, list | tuple):
        bad(f"column {column!r}: expected a list of messages, found {kind(value)}")
    messages: Messages = []
    masked: set[int] = set()
    continues = False
    for i, item in enumerate(value):
        where = f"column {column!r}, message {i}"
        parsed = json_value(item)
        message = without_nulls(item if parsed is None else parsed, whole if parsed is None else _AS_WRITTEN)
        off = _is_masked(message, where)
        is_call = _is_call_turn(message)
        for read in _read_message(message, where):
            alone = is_call and not read["content"] and read.keys() == {"role", "content", "tool_calls"}
            if alone and continues and off == (len(messages) - 1 in masked):
                calls = [*messages[-1].get("tool_calls", ()), *read["tool_calls"]]
                messages[-1] = {**messages[-1], "tool_calls": calls}
                continue
            messages.append(read)
            masked |= {len(messages) - 1} if off else set()
        continues = bool(messages) and messages[-1]["role"] == "assistant"
    return messages, masked


def is_json_of_messages(text: Any) -> bool:
    """Whether a text is a list of messages as JSON, rather than text that looks like JSON."""
    items = json_value(text, "[")
    has_role = [isinstance(item, Mapping) and ("role" in item or "from" in item) for item in items or ()]
    return bool(has_role) and all(has_role)


def _is_call_turn(message: Any) -> bool:
    role = message.get("role", message.get("from")) if isinstance(message, Mapping) else None
    return isinstance(role, str) and _plain(role) in _CALL_ROLES and bool(_calls_in(_content_of(message))[1])


def standard_role(name: Any) -> str | None:
    """The role that a role's name, or a key of a question and its answer, stands for."""
    return _PAIR_KEYS.get(_plain(name)) if isinstance(name, str) else None


def _plain(role: str) -> str:
    return "_".join(role.lower().replace("-", " ").split())


def _content_of(message: Mapping[str, Any]) -> Any:
    return message.get("content", message.get("value", ""))


def _calls_in(content: Any) -> tuple[str, list[Any]]:
    """The reasoning in tags before the JSON of tool calls, and the calls; no calls in any other content."""
    if not isinstance(content, str):
        return "", calls_of(content)
    before, tag, after = content.rpartition("</think>")
    return before + tag, calls_of(after)


def _is_masked(message: Any, where: str) -> bool:
    if not isinstance(message, Mapping):
        return False
    if message.get("train_detail") is not None:
        bad(f"{where}: 'train_detail' marks parts of a turn, which cannot be kept to: split the turn or drop the key")
    blocks = transpose(message.get("content"))
    flags = [_flag(block) for block in blocks] if isinstance(blocks, list) else []
    if any(flags) and not all(flags):
        bad(f"{where}: a flag leaves out a part of a turn, which cannot be kept to: split the turn or drop the flag")
    return _flag(message) or any(flags)


def _flag(part: Any) -> bool:
    """Whether one of the flags says that a turn, or a part of a turn, is not trained on."""
    values = [part.get(name) for name in _TRAINED] if isinstance(part, Mapping) else []
    return any(isinstance(value, bool | int | float) and not value for value in values)


def _read_message(message: Any, where: str) -> list[dict[str, Any]]:
    """Reads one message, or several where it holds a question with its answer or blocks of several turns."""
    if not isinstance(message, Mapping):
        bad(f"{where}: expected a dict with 'role' and 'content', found {kind(message)}")
    kept = {key: value for key, value in message.items() if key not in _TRAINED}
    if pair := _read_pair(kept):
        return pair
    if "role" not in kept and "from" in kept:
        kept = {"role": kept.pop("from"), **kept}
    if "content" not in kept and "value" in kept:
        kept["content"] = kept.pop("value")
    if "role" not in kept:
        bad(f"{where}: no 'role'; found the keys {shorten([*kept], 120)}, expected 'role' and 'content'")
    role = _read_role(kept.pop("role"), where)
    calls = _without_copies(read_tool_calls(kept.pop("tool_calls", None), where), _read_old_call(kept, where))
    if is_call := not calls and _is_call_turn(message):
        kept["content"], calls = _calls_in(kept["content"])
    if "content" not in kept and not calls and not any(kept.get(key) for key in REASONING_KEYS):
        written = [key for key, value in kept.items() if isinstance(value, str | list) and value]
        if {*written} - {*_NOT_CONTENT}:
            bad(f"{where}: no 'content'; found the keys {shorten(['role', *kept], 120)}, and none is read as content")
    for key in REASONING_KEYS:
        if not isinstance(kept.get(key, ""), str):
            bad(f"{where}: {key!r} must be text, found {kind(kept[key])}")
    content = kept.pop("content", "")
    parts = [{"role": role, "content": content}] if is_call else read_content(content, role, where)
    return _join(role, kept, parts, calls, where)


def _read_pair(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A question and its answer in one dict, such as ms-swift's ``{"human": ..., "assistant": ...}``."""
    roles = [_PAIR_KEYS.get(_plain(key)) if isinstance(key, str) else None for key in message]
    if not {"user", "assistant"} <= {*roles} or None in roles or len({*roles}) != len(roles):
        return []
    if not all(isinstance(value, str) for value in message.values()):
        return []
    return [{"role": role, "content": text} for role, text in zip(roles, message.values(), strict=True)]


def _read_role(role: Any, where: str) -> str:
    known = _ROLE_ALIASES.get(_plain(role)) if isinstance(role, str) else None
    if known is None:
        found = shorten(role) if isinstance(role, str) else kind(role)
        bad(f"{where}: unknown role {found}; known are {[*ROLES]} and usual other names, such as 'human' and 'gpt'")
    return known


def _read_old_call(message: dict[str, Any], where: str) -> list[Any]:
    """Takes OpenAI's old key ``function_call`` out of a message."""
    value = message.get("function_call")
    calls = calls_of(value)
    if calls:
        del message["function_call"]
    elif value:
        bad(f"{where}: 'function_call' must be a dict with 'name' and 'arguments', found {kind(value)}")
    return calls


def _without_copies(calls: list[Any], more: list[Any]) -> list[Any]:
    """Calls, and those that are stored in another place only."""
    functions = [call.get("function") for call in calls]
    return [*calls, *(call for call in more if call.get("function") not in functions)]


def _join(
    role: str, rest: dict[str, Any], parts: list[dict[str, Any]], calls: list[Any], where: str
) -> list[dict[str, Any]]:
    """The messages of a turn's blocks with what else the turn holds."""
    own = [part for part in parts if part["role"] == role]
    if not own:
        return parts
    for key in REASONING_KEYS:
        if key in rest and "reasoning_content" in own[0] and rest[key] != own[0]["reasoning_content"]:
            bad(f"{where}: {key!r} and a block of the content hold different reasoning")
    calls = _without_copies(own[-1].get("tool_calls", []), calls)
    joined = []
    for part in parts:
        if part is own[0] or part is own[-1]:
            more = rest if part is own[0] else {}
            added = {"tool_calls": calls} if calls and part is own[-1] else {}
            part = {"role": role, **more, **part, **added}
        joined.append(part)
    return joined


def is_written(message: Mapping[str, Any]) -> bool:
    """Whether a message has any text or tool call."""
    texts = (message.get(key, "") for key in (*REASONING_KEYS, "content"))
    return bool(message.get("tool_calls")) or any(text.strip() for text in texts)
