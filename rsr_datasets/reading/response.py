"""The response: the characters of a rendered conversation that the student itself would have to write.

In turn ``i`` let *asked* be the rendering of the messages before the turn with the generation prompt, and *told* the
rendering up to the turn and including it.

* Start. The part of *asked* after the last character of the earlier messages is cut into pieces: a tag ``<...>`` with
  the text up to the next tag. The response begins after as many whole pieces as stand, in order, after the last
  character of the earlier messages.
* End. The response ends before the text that the template puts after the content of a turn of content alone, if *told*
  ends with that text; else before the last tag of *told*.
* Between, all characters count, also headers that the template writes inside one turn. The text of another message
  there, and the template's text around it, does not count.

The same pieces and the same end are looked for where the turn stands in the rendering of the whole conversation.
*Asked* and *told* are rendered after the few messages that a template can look back at; where the result does not fit
the whole rendering, after all earlier messages.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .calls import call_forms, missing_part
from .marks import TextDroppedError, drop, mark, rendered, wanted
from .rows import BoolArray, IntArray
from .templates import REASONING_KEYS, ChatTemplate, Messages, TemplateRefusedError
from .videos import Media

_TAG = re.compile(r"<[^<>\s]{1,64}>")
_LONGEST_TAG = 66
_LONGEST_PROMPT = 400
_SUPPLIED = re.compile(r"(?:\s|<[^<>\s]{1,64}>)*")
_LAST_TAG = re.compile(r"(?:<[^<>\s]{1,64}>)?\s*\Z")
_CONTENT = chr(0xFFFFC)


@dataclass(frozen=True)
class RenderedText:
    """A text for the student: ``own`` says which characters count, bool, shape ``(characters,)``.

    ``add_special_tokens`` says whether the tokenizer is to add what it adds around a text, such as a BOS token;
    ``images``, videos among them, are shown in the text, each in one place that the student's processor knows.
    """

    text: str
    own: BoolArray
    add_special_tokens: bool
    images: tuple[Media, ...] = ()

    @classmethod
    def after(cls, prompt: str, response: str, add_special_tokens: bool) -> "RenderedText":
        """A prompt and a response of which all characters count."""
        return cls(prompt + response, np.repeat([False, True], [len(prompt), len(response)]), add_special_tokens)


def locate(template: ChatTemplate, messages: Messages, counted: Sequence[int]) -> RenderedText:
    """Renders a conversation and finds the responses of the assistant messages ``counted``, each with text or calls.

    Raises:
        TextDroppedError: If the template leaves out or changes text of a counted message.
        TemplateRefusedError: If the template raises an error.
    """
    found: list[RenderedText] = []
    failures: list[Exception] = []
    for form in call_forms(messages):
        try:
            whole = _Whole(template, form)
            found.append(whole.responses(counted))
            if whole.shows_calls():
                return found[-1]
        except (TextDroppedError, TemplateRefusedError) as error:
            failures.append(error)
    if not found:
        raise next((error for error in failures if isinstance(error, TextDroppedError)), failures[0])
    return found[0]


def locate_turn(template: ChatTemplate, messages: Messages, i: int) -> RenderedText:
    """Renders a conversation up to turn ``i``, as the student sees it, and finds its response. Raises as ``locate``.

    Where the rendering drops text of a turn without tool calls whose reasoning is in its content, the text is the
    generation prompt's rendering and the content, less an opening tag with which that rendering ends.
    """
    try:
        return locate(template, messages[: i + 1], [i])
    except TextDroppedError:
        message = messages[i]
        if message.get("tool_calls") or any(message.get(key) for key in REASONING_KEYS):
            raise
        asked = template.render(messages[:i], add_generation_prompt=True)
        content = str(message["content"])
        tag = asked[_last_tag(asked) :].strip()
        if tag and content.lstrip().startswith(tag):
            content = content.lstrip().removeprefix(tag).lstrip()
        return RenderedText.after(asked, content, add_special_tokens=False)


class _Whole:
    """A conversation in one rendering."""

    def __init__(self, template: ChatTemplate, messages: Messages) -> None:
        self.template = template
        self.messages = messages
        self.marked = mark(messages, template.literals)
        self.text = template.render(messages)
        self.rendering = rendered(template, self.marked)
        if not self.rendering.is_rendering_of(self.text):
            self.marked = mark(messages, template.literals, "replaced")
            self.rendering = rendered(template, mark(messages, template.literals, "as they are"))
            if not self.rendering.is_rendering_of(self.text) or not self.rendering.take_marks(
                rendered(template, self.marked)
            ):
                raise TextDroppedError("the chat template rewrites the text of the messages")
        self._after_content: dict[str, str] = {}
        self._between: dict[tuple[Any, ...], str] = {}
        self._asked: dict[str, tuple[str, str, int]] = {}

    def responses(self, counted: Sequence[int]) -> RenderedText:
        own = np.zeros(len(self.text), dtype=bool)
        for i in counted:
            try:
                spans = list(self._spans(i, short=True))
            except (TextDroppedError, TemplateRefusedError):
                if _short_context(self.marked, i) is None:
                    raise
                spans = list(self._spans(i, short=False))
            for start, end in spans:
                own[start:end] = True
        return RenderedText(self.text, own, add_special_tokens=False)

    def shows_calls(self) -> bool:
        """Whether the rendering shows the calls of all messages, whichever count.

        JSON text must stand as it is, not escaped a second time.
        """
        for i, message in enumerate(self.messages):
            calls = message.get("tool_calls") or ()
            if calls and self.rendering.places_of(i)[1].size < wanted(self.marked[i], i)[1]:
                return False
            texts = (call.get("function", call).get("arguments") for call in calls)
            if any(isinstance(text, str) and text.strip() not in self.text for text in texts):
                return False
        return True

    def _spans(self, i: int, short: bool) -> Iterator[tuple[int, int]]:
        """The response of turn ``i``, cut where other messages stand inside."""
        if short and (span := self._span_between(i)):
            yield span
            return
        context = (_short_context(self.marked, i) if short else None) or self.marked[:i]
        told = self.rendering
        if i + 1 < len(self.messages):
            told = rendered(self.template, [*context, self.marked[i]])
        places = told.all_of(i, self.marked[i])
        shown = zip(self.rendering.places_of(i), told.places_of(i), strict=True)
        here = np.sort(np.concatenate([some[: each.size] for some, each in shown]))
        if places is None or here.size != places.size:
            drop(f"text of message {i}")
        tail = told.text[places[-1] + 1 : self._end(told.text, context)]
        end = int(here[-1]) + 1 + len(tail)
        if self.text[int(here[-1]) + 1 : end] != tail:
            drop(f"the end of message {i}")
        start = self._start(i, context, int(here[0]))
        self._check_edges(i, start, here, end)
        positions, owners = self.rendering.ends
        others = positions[owners != i]
        if (after := self.rendering.begin_of(i + 1)) is not None and end <= after:
            self._between[self._kinds(i)] = self.text[end:after]
        for k in np.flatnonzero(np.diff(here) > 1):
            first, last = int(here[k]) + 1, int(here[k + 1])
            if np.any((others > first) & (others <= last)):
                gap = told.text[places[k] + 1 : places[k + 1]]
                yield start, first + (len(gap) if self.text.startswith(gap, first) else 0)
                start = last
        yield start, end

    def _kinds(self, i: int) -> tuple[Any, ...]:
        """All that the text between turn ``i`` and the next message depends on."""
        return tuple(
            (message["role"], *(bool(message.get(key)) for key in (*REASONING_KEYS, "content", "tool_calls")))
            for message in self.messages[max(0, i - 1) : i + 2]
        )

    def _span_between(self, i: int) -> tuple[int, int] | None:
        """The response of a turn that ends as an earlier turn of its kind did, for which nothing is rendered."""
        between, after = self._between.get(self._kinds(i)), self.rendering.begin_of(i + 1)
        if between is None or after is None or not self.text.endswith(between, 0, after):
            return None
        end = after - len(between)
        here = self.rendering.all_of(i, self.marked[i], end)
        if here is None:
            return None
        positions, owners = self.rendering.ends
        first, last = np.searchsorted(positions, [here[0], here[-1]], side="right")
        if np.any(owners[first:last] != i):
            return None
        start = self._start(i, _short_context(self.marked, i) or self.marked[:i], int(here[0]))
        self._check_edges(i, start, here, end)
        return start, end

    def _end(self, told: str, context: Messages) -> int:
        after = self._after_content.get(_role(context))
        if after is None:
            probe = rendered(self.template, [*context, {"role": "assistant", "content": _CONTENT}]).text
            after = self._after_content[_role(context)] = probe[probe.rfind(_CONTENT) + 1 :]
        return len(told) - len(after) if told.endswith(after) else _last_tag(told)

    def _start(self, i: int, context: Messages, own: int) -> int:
        positions, owners = self.rendering.ends
        before = int(np.searchsorted(positions, own, side="right"))
        while before and owners[before - 1] == i:
            before -= 1
        start = int(positions[before - 1]) if before else 0
        tail, prompt, owner = self._prompt(context)
        found = _supplied(tail, self.text, start)
        short = len(context) < i
        if short and (owner != i - 1 or owners[before - 1] != i - 1 or found < len(tail)):
            tail, prompt, _ = self._prompt(self.marked[:i], f"all before {self.marked[i - 1]['role']}")
            found = _supplied(tail, self.text, start)
        if before:
            start += found
            if tail and found == len(tail):
                return start
        return max(_places_of(prompt, self.text, start, own), default=(0, start))[1]

    def _prompt(self, context: Messages, key: str | None = None) -> tuple[str, str, int]:
        """*Asked* after the last character of the earlier messages, the prompt alone, and whose that character is."""
        key = key or _role(context)
        if key not in self._asked:
            try:
                asked, told = (rendered(self.template, context, prompt) for prompt in (True, False))
            except TemplateRefusedError:
                question = [{"role": "user", "content": _CONTENT}]
                asked, told = (rendered(self.template, question, prompt) for prompt in (True, False))
            ends, owners = asked.ends
            tail = asked.text[int(ends[-1]) :] if ends.size else ""
            prompt = asked.text[_common_prefix(asked.text, told.text) :]
            self._asked[key] = tail, prompt, int(owners[-1]) if ends.size else -1
        return self._asked[key]

    def _check_edges(self, i: int, start: int, places: IntArray, end: int) -> None:
        """Checks the row's text that is not marked: the template's own strings at the ends and inside of texts."""
        if end <= places[-1] or not _SUPPLIED.fullmatch(self.text, int(places[0]), max(start, int(places[0]))):
            drop(f"text of message {i}")
        message = self.messages[i]
        shown = _squeezed(self.text[max(0, start - _LONGEST_PROMPT) : end])
        for key in (*REASONING_KEYS, "content"):
            if isinstance(text := message.get(key), str) and _squeezed(text) not in shown:
                drop(f"text of message {i}, {key!r}")
        for k, call in enumerate(message.get("tool_calls") or ()):
            if missing := missing_part(call, self.text[start:end]):
                drop(f"tool call {k} of message {i}, e.g. {missing[:60]!r}")


def _short_context(messages: Messages, i: int) -> Messages | None:
    """The messages that a template can look back at from turn ``i``; ``None`` where these are all."""
    first = next((k for k in range(i) if messages[k]["role"] == "user"), i)
    last = next((k for k in range(i - 1, first, -1) if messages[k]["role"] != "tool"), first)
    return [*messages[: first + 1], *messages[last:i]] if last > first + 1 else None


def _role(context: Messages) -> str:
    return str(context[-1]["role"]) if context else ""


def _last_tag(text: str) -> int:
    found = _LAST_TAG.search(text)
    return found.start() if found else len(text)


def _pieces(prompt: str) -> list[str]:
    cuts = [0, *(tag.start() for tag in _TAG.finditer(prompt)), len(prompt)]
    return [prompt[a:b] for a, b in itertools.pairwise(cuts) if b > a]


def _supplied(prompt: str, text: str, start: int) -> int:
    """How many characters of ``text`` from ``start`` on are whole pieces of a generation prompt."""
    length = 0
    for piece in _pieces(prompt):
        if not text.startswith(piece, start + length):
            break
        length += len(piece)
    return length


def _places_of(prompt: str, text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where pieces of the generation prompt stand between two positions: their length, and the position after them."""
    first = next(iter(_pieces(prompt)), "")
    place = text.find(first, start, end + len(first)) if first else -1
    while 0 <= place <= end:
        length = _supplied(prompt, text, place)
        yield length, place + length
        place = text.find(first, place + 1, end + len(first))


def common_length(text: str, other: str) -> int:
    """The length of what two texts begin with."""
    equal, most = 0, min(len(text), len(other))
    while equal < most:
        middle = (equal + most + 1) // 2
        if text.startswith(other[equal:middle], equal):
            equal = middle
        else:
            most = middle - 1
    return equal


def _common_prefix(text: str, other: str) -> int:
    """The length of what two texts begin with, but never inside a tag of either text."""
    length = common_length(text, other)
    for each in (text, other):
        around = _TAG.finditer(each, max(0, length - _LONGEST_TAG), length + _LONGEST_TAG)
        length = next((tag.start() for tag in around if tag.start() < length < tag.end()), length)
    return length


def _squeezed(text: str) -> str:
    return "".join(text.split())
