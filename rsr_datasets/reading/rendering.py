"""Chat templates: renders a conversation and finds the characters that the row itself wrote.

This is found without knowing the template: the conversation is rendered twice, as it is and with every text replaced
by a private-use character of its own, length for length. Where the second rendering shows such a character, the first
shows a character of the row. Text that a template may test for or split at (its own string constants, special tokens,
white space at the edges) stays as it is and is aligned afterwards. Tool calls are anchored at their function's name
in the same way, and reach as far as renderings with one call less or one call more differ.

What counts as the row's own:

* reasoning and content: their own characters, also tags such as ``<think>`` and markers of the template itself where
  the row's text contains them; white space at the ends as far as the template keeps it;
* each tool call as the template renders it, with the tags around it and around all calls of the message, but not what
  stands between two calls;
* never what the template inserts besides: headers, end-of-turn tokens, tags around reasoning that the row holds in a
  field of its own, empty think blocks, dates, default system prompts.

Where the template marks what the assistant generates (``{% generation %}``), only what lies inside the marks counts.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

PRESETS = ("chatml", "llama3", "plain")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")

_FIRST_PRIVATE_CHARACTER = 0xF0100
_LAST_PRIVATE_CHARACTER = 0xFFFFD
# How many characters a template may put between a field's text and white space or a tag of the same field.
_INSERTED = 64
_MARKER = re.compile(r"<[^<>\s]{1,64}>")
_LONGEST_MARKER = 66

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
Messages = list[dict[str, Any]]


class TextDroppedError(Exception):
    """The template does not render all of the row's own text as it is, or what it renders cannot be told apart."""


class TemplateRefusedError(Exception):
    """The template raised an error for this row."""


@dataclass(frozen=True)
class RenderedText:
    """A text for the student.

    Attributes:
        text: The text.
        own: Which of its characters count, bool, shape ``(characters,)``.
        add_special_tokens: Whether the tokenizer is to add what it adds around a text, such as a BOS token.
    """

    text: str
    own: BoolArray
    add_special_tokens: bool


def resolve_chat_template(spec: str | None) -> str | None:
    """Turns the ``chat_template`` argument into Jinja text.

    Args:
        spec: ``None`` (the tokenizer's own), a preset's name, ``"trl:NAME"`` for ``NAME.jinja`` of the installed trl
            package, a path to a file, or Jinja text.

    Raises:
        ValueError: If it is none of these.
    """
    if spec is None:
        return None
    if spec in PRESETS:
        return (resources.files(__package__) / "chat_templates" / f"{spec}.jinja").read_text(encoding="utf-8")
    if spec.startswith("trl:"):
        return _trl_template(spec.removeprefix("trl:"))
    if "{" in spec:
        return spec
    path = Path(spec).expanduser()
    if path.is_file():
        return path.read_text(encoding="utf-8")
    raise ValueError(
        f"chat_template={spec!r}: neither Jinja text, nor a file, nor one of {[*PRESETS, 'trl:NAME']} "
        "(a template file of the installed trl package)"
    )


@functools.cache
def training_twin(source: str) -> str | None:
    """Names the installed trl package's training template for a chat template.

    Args:
        source: Jinja text of the template in use.

    Returns:
        ``"trl:NAME_training"`` if trl has the same template as ``NAME`` and a training form of it, else ``None``.
    """
    templates = {name: file for name, file in _trl_templates().items() if f"{name}_training" in _trl_templates()}
    same = (name for name, file in templates.items() if file.read_text(encoding="utf-8").strip() == source.strip())
    return next((f"trl:{name}_training" for name in same), None)


@functools.cache
def _trl_templates() -> dict[str, Path]:
    package = importlib.util.find_spec("trl")
    folders = package.submodule_search_locations if package else None
    return {file.stem: file for folder in folders or () for file in Path(folder).glob("chat_templates/*.jinja")}


def _trl_template(name: str) -> str:
    templates = _trl_templates()
    if not templates:
        raise ValueError(f'chat_template="trl:{name}" needs the package trl: pip install trl')
    if name not in templates:
        known = sorted(templates)
        raise ValueError(f'chat_template="trl:{name}": the installed trl has no such template; it has {known}')
    return templates[name].read_text(encoding="utf-8")


class ChatTemplate:
    """A chat template with all that the renderings of one row have in common.

    Args:
        tokenizer: Whose special tokens the template sees, and whose template it is unless one is given.
        chat_template: Jinja text; ``None`` for the tokenizer's own.
        tools: JSON schemas of the row's tools.
        kwargs: Further variables of the template.

    Attributes:
        source: The Jinja text.

    Raises:
        ValueError: If there is no template, or it is not valid Jinja.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        tools: list[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            self.source: str = tokenizer.get_chat_template(chat_template, tools)
        except ValueError as error:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path or 'the student'!r} has no chat template, and the rows are "
                f"conversations: give one with chat_template= (Jinja text, a file, one of {list(PRESETS)}, or "
                '"trl:NAME")'
            ) from error
        special_tokens = {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
        self._tools = tools
        self._kwargs = {**special_tokens, **(kwargs or {})}
        self.literals, self.marks_generation = _constants(self.source, tuple(special_tokens.values()))
        self._wants_blocks = _wants_blocks(self.source, tuple(special_tokens.items()))

    def render(self, messages: Messages) -> tuple[str, list[tuple[int, int]]]:
        """Renders one conversation whose contents are texts.

        Args:
            messages: The conversation.

        Returns:
            The text, and the spans that the template marks as generated.

        Raises:
            ValueError: If the template is not valid Jinja.
            TemplateRefusedError: If it raises an error.
        """
        if self._wants_blocks:
            messages = [_in_blocks(message) for message in messages]
        return _render(self.source, messages, self._tools, self.marks_generation, self._kwargs)


def _render(
    source: str, messages: Messages, tools: list[Any] | None, with_spans: bool, kwargs: Mapping[str, Any]
) -> tuple[str, list[tuple[int, int]]]:
    try:
        texts, spans = render_jinja_template(
            conversations=[messages],
            tools=tools,
            chat_template=source,
            return_assistant_tokens_mask=with_spans,
            **kwargs,
        )
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"the chat template is not valid Jinja, line {error.lineno}: {error.message}") from error
    except Exception as error:  # a template is a program of its own: whatever it raises concerns this row
        raise TemplateRefusedError(f"the chat template refused the row: {error}") from error
    return texts[0], list(spans[0]) if spans else []


@functools.lru_cache(maxsize=64)
def _constants(source: str, tokens: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """What a template could look for in a message (its string constants, special tokens); if it marks generation."""
    found = set(tokens)
    marks_generation = False
    before = ""
    try:
        for _, kind, value in jinja2.Environment().lex(source):
            if kind == "string":
                found.add(value[1:-1].encode("ascii", "backslashreplace").decode("unicode-escape"))
            marks_generation |= (before, kind, value) == ("block_begin", "name", "generation")
            before = before if kind == "whitespace" else kind
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"the chat template is not valid Jinja, line {error.lineno}: {error.message}") from error
    return tuple(sorted(literal for literal in found if literal.strip())), marks_generation


@functools.lru_cache(maxsize=64)
def _wants_blocks(source: str, special_tokens: tuple[tuple[str, str], ...]) -> bool:
    """Whether a template renders content only where it is a list of blocks, as those of vision models do."""
    question, answer = chr(_FIRST_PRIVATE_CHARACTER), chr(_FIRST_PRIVATE_CHARACTER + 1)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def shows_all(messages: Messages) -> bool:
        try:
            text, _ = _render(source, messages, None, False, dict(special_tokens))
        except TemplateRefusedError:
            return False
        return question in text and answer in text

    return not shows_all(messages) and shows_all([_in_blocks(message) for message in messages])


def _in_blocks(message: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(message["content"], str):
        return message
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def locate(template: ChatTemplate, messages: Messages, counted: Sequence[int]) -> RenderedText:
    """Renders a conversation and finds the characters that the counted messages wrote.

    Args:
        template: The template.
        messages: The conversation; contents are texts.
        counted: Indices of the messages that count.

    Raises:
        TextDroppedError: If the template leaves out or changes text of a counted message.
        TemplateRefusedError: If the template raises an error.
    """
    failure: Exception | None = None
    for form in _forms(messages):
        try:
            return _locate(template, form, counted)
        except (TextDroppedError, TemplateRefusedError) as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _forms(messages: Messages) -> Iterator[Messages]:
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
        if as_text is False and isinstance(arguments, str) and isinstance(_from_json(arguments), Mapping):
            return {**call, "arguments": _from_json(arguments)}
        return call

    calls = [change(call) for call in message["tool_calls"]]
    return {**message, "content": message["content"] or no_content, "tool_calls": calls}


def _to_json(value: Any) -> Any:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return value


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class _Field:
    """One text of a message: what stands for it in the shadow rendering, and how to report it."""

    text: str
    mark: str
    shadow: str
    key: str
    label: str


@dataclass(frozen=True)
class _Shadow:
    """A conversation with private-use characters for its texts.

    Attributes:
        messages: The conversation.
        fields: Counted message to its texts.
        names: Counted message to the character that stands for the function's name, for each of its tool calls.
    """

    messages: Messages
    fields: dict[int, list[_Field]]
    names: dict[int, list[str]]


def _locate(template: ChatTemplate, messages: Messages, counted: Sequence[int]) -> RenderedText:
    text, spans = template.render(messages)
    shadow = _shadow(messages, counted, template.literals)
    shadow_text, _ = template.render(shadow.messages)
    rendering = _Rendering(
        text, shadow_text, _codepoints(text), _codepoints(shadow_text), _render_trimmed(template, shadow)
    )
    if not rendering.is_consistent:
        raise TextDroppedError("the chat template rewrites the text of the messages")
    own = np.zeros(len(text), dtype=bool)
    cursor = 0
    for i in counted:
        for field in shadow.fields[i]:
            if field.mark in field.shadow:
                cursor = max(cursor, _mark_field(field, rendering, own, cursor))
            else:
                cursor = max(cursor, _mark_bare_field(template, shadow.messages, i, field, shadow_text, own))
        if messages[i].get("tool_calls"):
            cursor = _mark_tool_calls(template, messages[i], i, shadow, rendering, own, cursor)
    if template.marks_generation:
        generated = np.zeros(len(text), dtype=bool)
        for start, end in spans:
            generated[start:end] = True
        own &= generated
    return RenderedText(text, own, add_special_tokens=False)


def _shadow(messages: Messages, counted: Sequence[int], literals: tuple[str, ...]) -> _Shadow:
    marks = (chr(code) for code in range(_FIRST_PRIVATE_CHARACTER, _LAST_PRIVATE_CHARACTER))
    others = next(marks)
    shadow = _Shadow([], {i: [] for i in counted}, {i: [] for i in counted})
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
            shadow.fields[i].append(_Field(text, mark, copy[key], key, f"message {i}, {key!r}"))
        if i in shadow.names and message.get("tool_calls"):
            calls = [_rename(call, _next_mark(marks)) for call in message["tool_calls"]]
            copy["tool_calls"] = [call for call, _ in calls]
            shadow.names[i].extend(mark for _, mark in calls)
        shadow.messages.append(copy)
    return shadow


def _next_mark(marks: Iterator[str]) -> str:
    mark = next(marks, None)
    if mark is None:
        most = _LAST_PRIVATE_CHARACTER - _FIRST_PRIVATE_CHARACTER - 1
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
class _Rendering:
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
        replaced = (self.shadow_codes >= _FIRST_PRIVATE_CHARACTER) & (self.shadow_codes < _LAST_PRIVATE_CHARACTER)
        return bool(np.all((self.codes == self.shadow_codes) | replaced))


def _render_trimmed(template: ChatTemplate, shadow: _Shadow) -> str | None:
    """Renders the counted texts without white space at their ends: what of it the template keeps then shows."""
    trimmed = list(shadow.messages)
    for i, fields in shadow.fields.items():
        for field in fields:
            if field.shadow != field.shadow.strip():
                trimmed[i] = {**trimmed[i], field.key: field.shadow.strip()}
    return None if trimmed == shadow.messages else template.render(trimmed)[0]


def _mark_field(field: _Field, rendering: _Rendering, own: BoolArray, cursor: int) -> int:
    """Marks where one field was rendered; returns the position after it."""
    text = rendering.text
    in_text = np.flatnonzero(rendering.shadow_codes == ord(field.mark))
    in_field = np.flatnonzero(_codepoints(field.shadow) == ord(field.mark))
    if in_text.size != in_field.size or not np.array_equal(
        rendering.codes[in_text], _codepoints(field.text)[in_field]
    ):
        _drop(f"text of {field.label}")
    own[in_text] = True
    breaks = np.flatnonzero(np.diff(in_field) > 1)
    gaps = [(in_field[k] + 1, in_field[k + 1], in_text[k] + 1, in_text[k + 1]) for k in breaks]
    for field_start, field_end, start, end in gaps:
        _mark_aligned(field, field.text[field_start:field_end], text[start:end], int(start), own)
    first, last = int(in_text[0]), int(in_text[-1]) + 1
    before = field.text[: in_field[0]].lstrip()
    after = field.text[in_field[-1] + 1 :].rstrip()
    window = max(cursor, first - 2 * len(before) - _INSERTED)
    head = _mark_aligned(field, before, text[window:first], window, own, backwards=True)
    tail = _mark_aligned(field, after, text[last : last + 2 * len(after) + _INSERTED], last, own)
    if rendering.trimmed_shadow is not None:
        trimmed = rendering.trimmed_shadow
        if field.mark not in trimmed:
            raise TextDroppedError(f"the chat template treats {field.label} otherwise without white space at its ends")
        kept_before = _spaces_before(text, first - head) - _spaces_before(trimmed, trimmed.index(field.mark) - head)
        kept_after = _spaces_after(text, last + tail) - _spaces_after(trimmed, trimmed.rindex(field.mark) + 1 + tail)
        own[first - head - kept_before : first - head] = True
        own[last + tail : last + tail + kept_after] = True
        tail += kept_after
    return last + tail


def _spaces_before(text: str, position: int) -> int:
    start = position
    while start > 0 and text[start - 1].isspace():
        start -= 1
    return position - start


def _spaces_after(text: str, position: int) -> int:
    end = position
    while end < len(text) and text[end].isspace():
        end += 1
    return end - position


def _mark_bare_field(
    template: ChatTemplate,
    shadow_messages: Messages,
    message: int,
    field: _Field,
    shadow: str,
    own: BoolArray,
) -> int:
    """Marks a text that is one of the template's own strings (or only white space, which does not count).

    Such a text may stand anywhere in the rendering. It is replaced after all, alone: where that changes nothing else,
    the place is sure; where the template behaves otherwise then, the row is refused.
    """
    wanted = field.text.strip()
    if not wanted:
        return 0
    replaced = {**shadow_messages[message], field.key: field.text.replace(wanted, field.mark * len(wanted))}
    probe, _ = template.render([*shadow_messages[:message], replaced, *shadow_messages[message + 1 :]])
    start = probe.find(field.mark)
    end = start + len(wanted)
    if start < 0 or shadow != probe[:start] + wanted + probe[end:]:
        raise TextDroppedError(
            f"the chat template leaves out {field.label}, or it cannot be told from the template's own text"
        )
    own[start:end] = True
    return end


def _mark_aligned(
    field: _Field, wanted: str, rendered: str, start: int, own: BoolArray, backwards: bool = False
) -> int:
    """Marks the characters of ``rendered``, which begins at ``start``, that are those of ``wanted``.

    White space may differ: what the template trimmed is passed over in ``wanted``, what it inserted in ``rendered``.

    Returns:
        How many characters of ``rendered`` were used, from the side where the alignment begins.
    """
    step = -1 if backwards else 1
    i, j = (len(wanted) - 1, len(rendered) - 1) if backwards else (0, 0)
    seen = used = 0
    while 0 <= i < len(wanted):
        inside = 0 <= j < len(rendered)
        if inside and wanted[i] == rendered[j]:
            own[start + j] = True
            i, j, seen = i + step, j + step, seen + 1
            used = seen
        elif wanted[i].isspace():
            i += step
        elif inside and rendered[j].isspace():
            j, seen = j + step, seen + 1
        else:
            _drop(f"{wanted[max(0, i - 20) : i + 20]!r} of {field.label}")
    return used


def _mark_tool_calls(
    template: ChatTemplate,
    message: Mapping[str, Any],
    index: int,
    shadow: _Shadow,
    rendering: _Rendering,
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
            _drop(f"tool call {k} of message {index}")
        if missing := _missing_part(message["tool_calls"][k], rendering.text[start:end]):
            _drop(f"tool call {k} of message {index}, e.g. {missing!r}")
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

    no_call, _ = template.render([*context, without | {"content": chr(_LAST_PRIVATE_CHARACTER)}])
    end_of_turn = no_call[no_call.find(chr(_LAST_PRIVATE_CHARACTER)) + 1 :].strip()
    upto = [render(calls[: k + 1]) for k in range(len(calls))]
    names = [upto[-1].find(mark) for mark in marks]
    start = _parting(upto[0], no_call)
    if min(names) < start:
        _drop(f"tool calls of message {index}")
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
    differs = _codepoints(text)[:length] != _codepoints(other)[:length]
    return int(differs.argmax()) if differs.any() else length


def _common_suffix(text: str, other: str) -> int:
    return _common_prefix(text[::-1], other[::-1])


def _missing_part(call: Mapping[str, Any], rendered: str) -> str | None:
    """The first text of a tool call that its rendering does not show: its name, and arguments' names and texts."""
    function = call.get("function", call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        if isinstance(_from_json(arguments), Mapping):
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


def _codepoints(text: str) -> IntArray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.int64)


def _drop(what: str) -> NoReturn:
    raise TextDroppedError(f"the chat template leaves out or changes {what}")
