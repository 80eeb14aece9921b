"""A conversation whose texts are marked by private-use characters, which show where a template puts each text.

Every text of an assistant message is replaced by a character of this message, length for length. The text of another
message stands between two characters of that message. Where a template changes these texts, so that the characters
around a text show, they replace the text in one rendering, and a second rendering has the text as it is.

Text that a template may test for or split at (its own string constants, special tokens, white space at the edges)
stays.
"""

import bisect
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

import numpy as np

from .rows import IntArray
from .templates import IMAGE, REASONING_KEYS, VIDEO, ChatTemplate, Messages, count_media

Others = Literal["enclosed", "replaced", "as they are"]

# Message k has a character for its text, one for the functions that it calls, and one on either side of its text.
_TEXTS, _NAMES, _ENDS, _BEGINS = 0xF0100, 0xF4000, 0xF8000, 0xFC000
_MOST_MESSAGES = _NAMES - _TEXTS


class TextDroppedError(Exception):
    """The template does not render all of the row's own text as it is, or what it renders cannot be told apart."""


def drop(what: str) -> NoReturn:
    """Says which text the template leaves out or changes."""
    raise TextDroppedError(f"the chat template leaves out or changes {what}")


def mark(messages: Messages, literals: tuple[str, ...], others: Others = "enclosed") -> Messages:
    """Marks a conversation whose contents are texts; ``literals`` are texts that the template may look for."""
    if len(messages) > _MOST_MESSAGES:
        raise TextDroppedError(f"more than {_MOST_MESSAGES} messages in one conversation cannot be told apart")
    return [_mark_message(i, message, literals, others) for i, message in enumerate(messages)]


def _mark_message(i: int, message: Mapping[str, Any], literals: tuple[str, ...], others: Others) -> dict[str, Any]:
    texts = {key: message[key] for key in (*REASONING_KEYS, "content") if isinstance(message.get(key), str)}
    if message["role"] != "assistant":
        change = {"enclosed": _enclosed, "replaced": _covered}.get(others)
        return (
            {**message, **{key: change(text, i, literals) for key, text in texts.items()}} if change else dict(message)
        )
    marked: dict[str, Any] = {key: _replaced(text, chr(_TEXTS + i), literals) for key, text in texts.items()}
    if calls := message.get("tool_calls"):
        marked["tool_calls"] = [_rename(call, chr(_NAMES + i)) for call in calls]
    return {**message, **marked}


def _rename(call: Mapping[str, Any], character: str) -> dict[str, Any]:
    if "function" in call:
        return {**call, "function": _rename(call["function"], character)}
    name = call.get("name")
    return {**call, "name": character * len(name)} if isinstance(name, str) else dict(call)


def _enclosed(text: str, i: int, literals: tuple[str, ...]) -> str:
    begin, end = chr(_BEGINS + i), chr(_ENDS + i)
    core = _replaced(text, end, literals)
    first, last = core.find(end), core.rfind(end) + 1
    return f"{text[:first]}{begin}{text[first:last]}{end}{text[last:]}" if last else _after_images(text, begin + end)


def _covered(text: str, i: int, literals: tuple[str, ...]) -> str:
    begin, end = chr(_BEGINS + i), chr(_ENDS + i)
    covered = _replaced(text, end, literals)
    covered = covered.replace(end, begin, 1) if covered.count(end) > 1 else covered
    return covered if end in covered else _after_images(covered, begin + end)


def _after_images(text: str, marks: str) -> str:
    """A text that is nothing but images and white space, with marks behind it."""
    return text + marks if count_media(text) else text


def _replaced(text: str, character: str, literals: tuple[str, ...]) -> str:
    """Replaces a text, also one that is nothing but the template's own strings, but no image.

    If the template treats such a text otherwise then, the two renderings differ and the row is refused.
    """
    replaced = _replace(text, character, literals)
    return (
        replaced if character in replaced else _replace(text, character, (IMAGE, VIDEO) if IMAGE in literals else ())
    )


def _replace(text: str, character: str, literals: tuple[str, ...]) -> str:
    """Replaces text length for length, but for ``literals`` and white space beside them or at the ends."""
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
        replaced += [piece[:lead], character * len(core), piece[lead + len(core) :], text[start:end]]
        position = end
    return "".join(replaced)


@functools.lru_cache(maxsize=256)
def _any_of(literals: tuple[str, ...]) -> re.Pattern[str]:
    r"""Finds the longest literal at each position: one may begin inside another (``\n<`` and ``</think>``)."""
    return re.compile("(?=(" + "|".join(re.escape(text) for text in sorted(literals, key=len, reverse=True)) + "))")


class Marked:
    """A rendering of marked messages: ``text`` is the rendering without the characters around texts."""

    def __init__(self, rendered: str) -> None:
        codes = _codepoints(rendered)
        added = (codes >= _ENDS) & (codes < _BEGINS + _MOST_MESSAGES)
        places = np.flatnonzero(added)
        self._codes = codes[~added]
        self.text = rendered
        if places.size:
            self.text = self._codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
        owners, positions = codes[places], places - np.arange(places.size)
        ends = owners < _BEGINS
        self._ends = positions[ends], owners[ends] - _ENDS
        self._begins = dict(zip((owners[~ends] - _BEGINS).tolist(), positions[~ends].tolist(), strict=True))

    @functools.cached_property
    def _own(self) -> dict[int, IntArray]:
        """Assistant message to the positions of its characters, ascending."""
        places = np.flatnonzero((self._codes >= _TEXTS) & (self._codes < _ENDS))
        codes = self._codes[places]
        owners = np.where(codes < _NAMES, codes - _TEXTS, codes - _NAMES)
        order = np.argsort(owners, kind="stable")
        numbers, starts = np.unique(owners[order], return_index=True)
        return dict(zip(numbers.tolist(), np.split(places[order], starts[1:]), strict=bool(numbers.size)))

    def places_of(self, i: int) -> tuple[IntArray, IntArray]:
        """Positions of the text of assistant message ``i``, and of the names of the functions that it calls."""
        own = self._own.get(i, np.empty(0, dtype=np.int64))
        is_name = self._codes[own] >= _NAMES
        return own[~is_name], own[is_name]

    def all_of(self, i: int, message: Mapping[str, Any], end: int | None = None) -> IntArray | None:
        """Positions of a marked message's characters before ``end``; ``None`` where there are fewer than it has."""
        own = self._own.get(i, np.empty(0, dtype=np.int64))
        own = own if end is None else own[own < end]
        names = np.count_nonzero(self._codes[own] >= _NAMES)
        least_texts, least_names = wanted(message, i)
        return own if own.size and own.size - names >= least_texts and names >= least_names else None

    def begin_of(self, i: int) -> int | None:
        """The position of the first character of message ``i``; ``None`` if the rendering shows no text of it."""
        own = self._own.get(i)
        return self._begins.get(i) if own is None else int(own[0])

    @functools.cached_property
    def ends(self) -> tuple[IntArray, IntArray]:
        """Positions behind characters of messages, ascending, and the message of each."""
        parts = [(places + 1, np.full(places.size, i)) for i, places in self._own.items()]
        positions, owners = (np.concatenate(each) for each in zip(self._ends, *parts, strict=True))
        order = np.argsort(positions, kind="stable")
        return positions[order], owners[order]

    def is_rendering_of(self, text: str) -> bool:
        """Whether a text differs from this rendering in nothing but the marked characters."""
        codes, own = _codepoints(text), (self._codes >= _TEXTS) & (self._codes < _ENDS)
        return codes.size == own.size and bool(np.all(own | (codes == self._codes)))

    def take_marks(self, other: "Marked") -> bool:
        """Takes from another rendering where other messages stand; ``False`` where that cannot be told.

        This rendering has the texts of these messages as they are, the other rendering has marks for them. Between two
        characters of the assistant's, both begin alike up to the first mark and end alike after the last mark.
        """
        own, others = (np.flatnonzero((each._codes >= _TEXTS) & (each._codes < _ENDS)) for each in (self, other))
        if not np.array_equal(self._codes[own], other._codes[others]):
            return False
        ends = zip(*(each.tolist() for each in other._ends), strict=True)
        marks = sorted([*ends, *((place, i) for i, place in other._begins.items())])
        own, others = (
            np.concatenate(([-1], places, [each._codes.size])) for places, each in ((own, self), (others, other))
        )
        found = []
        self._begins = {}
        for k in np.flatnonzero((np.diff(own) > 1) | (np.diff(others) > 1)).tolist():
            gap = self._codes[own[k] + 1 : own[k + 1]]
            first, last = int(others[k]) + 1, int(others[k + 1])
            marked = other._codes[first:last]
            inside = marks[bisect.bisect_left(marks, (first,)) : bisect.bisect_left(marks, (last + 1,))]
            lead, tail = (inside[0][0] - first, last - inside[-1][0]) if inside else (gap.size, 0)
            if gap.size < lead + tail or not (inside or gap.size == marked.size):
                return False
            alike = gap[:lead] == marked[:lead], gap[gap.size - tail :] == marked[marked.size - tail :]
            if not all(each.all() for each in alike):
                return False
            if inside:
                self._begins.setdefault(inside[0][1], int(own[k]) + 1 + lead)
                found.append((int(own[k + 1]) - tail, inside[-1][1]))
        ends_found = np.array(found, dtype=np.int64).reshape(-1, 2)
        self._ends = ends_found[:, 0], ends_found[:, 1]
        return True


def _codepoints(text: str) -> IntArray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.int64)


def wanted(message: Mapping[str, Any], i: int) -> tuple[int, int]:
    """How many characters of its texts and of its functions' names a marked message must show.

    The same reasoning under several keys need stand once.
    """
    character = chr(_TEXTS + i)
    texts = {text for key in REASONING_KEYS if isinstance(text := message.get(key), str)}
    count = sum(text.count(character) for text in texts) + str(message.get("content") or "").count(character)
    names = [call.get("function", call).get("name") for call in message.get("tool_calls") or ()]
    return count, sum(name.count(chr(_NAMES + i)) for name in names if isinstance(name, str))


def rendered(template: ChatTemplate, messages: Sequence[dict[str, Any]], prompt: bool = False) -> Marked:
    """Renders marked messages, with the generation prompt if asked."""
    return Marked(template.render(list(messages), add_generation_prompt=prompt))
