"""Columns that belong to a conversation and are not read, and the ``columns=`` that would read them."""

import json
from collections.abc import Collection, Iterable, Mapping

from ..utils.texts import shorten_list

_SYSTEM = ("system", "system_prompt", "system_message", "sys_prompt")
_REASONING = (
    *("thinking", "reasoning", "reasoning_content", "thinking_trajectory", "thinking_trajectories"),
    *("deepseek_thinking_trajectory", "gemini_thinking_trajectory", "deepseek_reasoning", "reasoning_trace"),
    *("cot", "chain_of_thought", "thought", "thoughts", "think", "rationale"),
)
_QUESTION = ("question", "problem", "query", "prompt", "instruction", "input", "user", "human", "message_1")
_ANSWER = (
    *("attempt", "deepseek_attempt", "gemini_attempt", "deepseek_solution", "response", "generation", "output"),
    *("completion", "assistant", "solution", "answer", "target", "generations", "responses", "answers", "message_2"),
)
_MESSAGES = ("chat", "dialog", "dialogue", "turns", "trajectory", "trajectories")
_PAIRS = (("prompt", "completion"), ("instruction", "output"), ("query", "response"))
_HISTORY = ("history", "chat_history", "conversation_history")
_TOOLS = ("tools", "functions")
_PREFERENCE = ("chosen", "rejected", "rejected_response")
_IMAGES = ("images", "image")
_MEDIA = (*_IMAGES, "videos", "video", "audios", "audio")
_OTHER = ("input", "context", "documents")
# Standard name to the names that its column has in well-known sets.
_USUAL = {
    "user": _QUESTION,
    "assistant": _ANSWER,
    "reasoning": _REASONING,
    "system": _SYSTEM,
    "history": _HISTORY,
    "tools": _TOOLS,
    "images": _IMAGES,
}


def columns_argument(columns: Mapping[str, str]) -> str:
    """The ``columns=`` of a call, as it can be typed."""
    return f"columns={json.dumps(dict(columns), ensure_ascii=False)}"


def advice(column_names: Collection[str]) -> str:
    """Advice where no format fits the columns of a data set: the end of a sentence."""
    if _found(("chosen", "rejected"), column_names):
        return f"; {_each_side(column_names)}"
    columns = {standard: next(iter(_found(names, column_names)), "") for standard, names in _USUAL.items()}
    columns = {standard: name for standard, name in columns.items() if name}
    if {"user", "assistant"} <= columns.keys():
        return f"; name what they are, perhaps {columns_argument(columns)}"
    if messages := _found(_MESSAGES, column_names):
        return f"; name what they are, perhaps {columns_argument({'messages': messages[0]})}"
    example = columns_argument({"user": "question", "assistant": "answer"})
    return (
        "; accepted are messages, conversations, prompt + completion, instruction + output, query + response, text "
        f"and input_ids, or name others, e.g. {example}"
    )


def unread_columns(column_names: Collection[str], read: Mapping[str, str], optional: Iterable[str]) -> str | None:
    """A warning that names the columns of a conversation that are not read; ``None`` without any.

    ``read`` are the columns that are read, by standard name; ``optional`` are the names that the format can read.
    """
    left = [name for name in column_names if name not in read.values()]
    preference = [] if {*_PREFERENCE} & {*read.values()} else _found(_PREFERENCE, left)
    known = (*_SYSTEM, *_REASONING, *_HISTORY, *_TOOLS, *_MEDIA, *_OTHER)
    unread = [*_found(known, left), *preference]
    if not unread:
        return None
    message = f"columns {shorten_list(unread)} seem to belong to the conversation and are not read"
    if "chosen" in preference:
        return f"{message}; {_each_side(column_names)}"
    found = {name: _found(_USUAL[name], left) for name in ("reasoning", "system", "history", "tools", "images")}
    more = {name: names[0] for name, names in found.items() if names and name not in read}
    pair = next((pair for pair in _PAIRS if {*pair} <= read.keys()), None)
    if pair and "reasoning" in more and "reasoning" not in optional:
        renamed = {"user": read[pair[0]], "assistant": read[pair[1]]}
        kept = {name: read[name] for name in ("system", "history", "tools") if name in read}
        return f"{message}; to read them: {columns_argument(renamed | kept | more)}"
    ways = {name: column for name, column in more.items() if name in optional}
    renamed = {name: column for name, column in read.items() if name != column}
    return f"{message}; to read them: {columns_argument(renamed | ways)}" if ways else message


def _each_side(column_names: Collection[str]) -> str:
    """How to score each side of rows of preferences."""
    prompts = _found(("conversations", "messages", *_QUESTION), column_names)
    answer = {"user": prompts[0], "assistant": "chosen"} if prompts else {}
    answer = {"output": "chosen"} if {"instruction", "input"} <= {*column_names} else answer
    sides = f"score each side with a column_prefix of its own, by {columns_argument({'messages': 'chosen'})}"
    return f"{sides} where it is a conversation{f', else by {columns_argument(answer)}' if answer else ''}"


def _found(names: Iterable[str], present: Collection[str]) -> list[str]:
    """Which of the names, in their order, are there, whatever their case."""
    return [each for name in names for each in present if each.lower() == name]
