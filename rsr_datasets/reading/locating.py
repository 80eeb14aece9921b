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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .shadow import BoolArray, Field, Rendering, Shadow, TextDroppedError, codepoints, drop, make_shadow
from .templates import ChatTemplate, Messages, TemplateRefusedError
from .tool_calls import forms, mark_tool_calls

# How many characters a template may put between a field's text and white space or a tag of the same field.
_INSERTED = 64


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
    for form in forms(messages):
        try:
            return _locate(template, form, counted)
        except (TextDroppedError, TemplateRefusedError) as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _locate(template: ChatTemplate, messages: Messages, counted: Sequence[int]) -> RenderedText:
    text, spans = template.render(messages)
    shadow = make_shadow(messages, counted, template.literals)
    shadow_text, _ = template.render(shadow.messages)
    rendering = Rendering(
        text, shadow_text, codepoints(text), codepoints(shadow_text), _render_trimmed(template, shadow)
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
            cursor = mark_tool_calls(template, messages[i], i, shadow, rendering, own, cursor)
    if template.marks_generation:
        generated = np.zeros(len(text), dtype=bool)
        for start, end in spans:
            generated[start:end] = True
        own &= generated
    return RenderedText(text, own, add_special_tokens=False)


def _render_trimmed(template: ChatTemplate, shadow: Shadow) -> str | None:
    """Renders the counted texts without white space at their ends: what of it the template keeps then shows."""
    trimmed = list(shadow.messages)
    for i, fields in shadow.fields.items():
        for field in fields:
            if field.shadow != field.shadow.strip():
                trimmed[i] = {**trimmed[i], field.key: field.shadow.strip()}
    return None if trimmed == shadow.messages else template.render(trimmed)[0]


def _mark_field(field: Field, rendering: Rendering, own: BoolArray, cursor: int) -> int:
    """Marks where one field was rendered; returns the position after it."""
    text = rendering.text
    in_text = np.flatnonzero(rendering.shadow_codes == ord(field.mark))
    in_field = np.flatnonzero(codepoints(field.shadow) == ord(field.mark))
    if in_text.size != in_field.size or not np.array_equal(rendering.codes[in_text], codepoints(field.text)[in_field]):
        drop(f"text of {field.label}")
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
    field: Field,
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
    field: Field, wanted: str, rendered: str, start: int, own: BoolArray, backwards: bool = False
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
            drop(f"{wanted[max(0, i - 20) : i + 20]!r} of {field.label}")
    return used
