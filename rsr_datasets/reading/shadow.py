"""A conversation whose texts are replaced by private-use characters, which tell where a template shows them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from .templates import FIRST_PRIVATE_CHARACTER, REASONING_KEYS, Messages

LAST_PRIVATE_CHARACTER = 0xFFFFD

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


class TextDroppedError(Exception):
    """The template does not render all of the row's own text as it is, or what it renders cannot be told apart."""


@dataclass(frozen=True)
class Field:
    """One text of a message: what stands for it in the shadow rendering, and how to report it."""

    text: str
    mark: str
    shadow: str
    key: str
    label: str


@dataclass(frozen=True)
class Shadow:
    """A conversation with private-use characters for its texts.

    Attributes:
        messages: The conversation.
        fields: Counted message to its texts.
        names: Counted message to the character that stands for the function's name, for each of its tool calls.
    """

    messages: Messages
    fields: dict[int, list[Field]]
    names: dict[int, list[str]]


def make_shadow(messages: Messages, counted: Sequence[int], literals: tuple[str, ...]) -> Shadow:
    """Replaces the texts of a conversation; each text of a counted message gets a character of its own."""
    marks = (chr(code) for code in range(FIRST_PRIVATE_CHARACTER, LAST_PRIVATE_CHARACTER))
    others = next(marks)
    shadow = Shadow([], {i: [] for i in counted}, {i: [] for i in counted})
    for i, message in enumerate(messages):
        copy = dict(message)
        for key in (*REASONING_KEYS, "content"):
            text = message.get(key)
            if not isinstance(text, str) or not text:
                continue
            if i not in shadow.fields:
                copy[key] = _replace(text, others, literals)
                continue
            mark = _next_mark(marks)
            copy[key] = _replace(text, mark, literals)
            shadow.fields[i].append(Field(text, mark, copy[key], key, f"message {i}, {key!r}"))
        if i in shadow.names and message.get("tool_calls"):
            calls = [_rename(call, _next_mark(marks)) for call in message["tool_calls"]]
            copy["tool_calls"] = [call for call, _ in calls]
            shadow.names[i].extend(mark for _, mark in calls)
        shadow.messages.append(copy)
    return shadow


def _next_mark(marks: Iterator[str]) -> str:
    mark = next(marks, None)
    if mark is None:
        most = LAST_PRIVATE_CHARACTER - FIRST_PRIVATE_CHARACTER - 1
        raise TextDroppedError(f"more than {most} assistant texts in one conversation cannot be told apart")
    return mark


def _rename(call: Mapping[str, Any], mark: str) -> tuple[dict[str, Any], str]:
    """A tool call whose function's name is as many marks."""
    if "function" in call:
        return {**call, "function": _rename(call["function"], mark)[0]}, mark
    name = call.get("name")
    return {**call, "name": mark * len(name)} if isinstance(name, str) else dict(call), mark


def _replace(text: str, mark: str, literals: tuple[str, ...]) -> str:
    """Replaces text by as many ``mark``s, but for ``literals`` and white space beside them or at the ends."""
    present = tuple(literal for literal in literals if literal in text)
    kept: list[tuple[int, int]] = []
    for match in _any_of(present).finditer(text) if present else ():
        start, end = match.span(1)
        if kept and start <= kept[-1][1]:
            kept[-1] = kept[-1][0], max(end, kept[-1][1])
        else:
            kept.append((start, end))
    replaced = []
    position = 0
    for start, end in [*kept, (len(text), len(text))]:
        piece = text[position:start]
        core = piece.strip()
        lead = len(piece) - len(piece.lstrip()) if core else 0
        replaced += [piece[:lead], mark * len(core), piece[lead + len(core) :], text[start:end]]
        position = end
    return "".join(replaced)


@functools.lru_cache(maxsize=256)
def _any_of(literals: tuple[str, ...]) -> re.Pattern[str]:
    r"""Finds the longest literal at each position: one may begin inside another (``\n<`` and ``</think>``)."""
    return re.compile("(?=(" + "|".join(re.escape(text) for text in sorted(literals, key=len, reverse=True)) + "))")


@dataclass(frozen=True)
class Rendering:
    """One conversation rendered as it is, with its texts replaced, and (or ``None``) with those texts trimmed too."""

    text: str
    shadow: str
    codes: IntArray
    shadow_codes: IntArray
    trimmed_shadow: str | None

    @property
    def is_consistent(self) -> bool:
        """Whether the two renderings differ in nothing but the replaced characters."""
        if self.codes.size != self.shadow_codes.size:
            return False
        replaced = (self.shadow_codes >= FIRST_PRIVATE_CHARACTER) & (self.shadow_codes < LAST_PRIVATE_CHARACTER)
        return bool(np.all((self.codes == self.shadow_codes) | replaced))


def codepoints(text: str) -> IntArray:
    """Code points of a text, int64, shape ``(characters,)``."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.int64)


def drop(what: str) -> NoReturn:
    """Says which text the template leaves out or changes."""
    raise TextDroppedError(f"the chat template leaves out or changes {what}")
