"""The parts of a format: the columns that it reads, and a row of it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..content import read_content
from ..messages import Conversation, read_messages, read_text
from ..rows import bad
from ..templates import Messages
from ..values import json_value, kind, parse_json

MEDIA = ("images", "videos")
CONTEXT = ("system", "history", "tools", "chat_template_kwargs", *MEDIA)


@dataclass(frozen=True)
class RowFormat:
    """Which columns of a data set are read: ``columns`` maps a standard name to the name in the data set.

    ``kind`` is the name of a format.
    """

    kind: str
    columns: dict[str, str]

    @property
    def names(self) -> list[str]:
        """The data set's own names of the columns that are read."""
        return list(self.columns.values())


@dataclass(frozen=True)
class Row:
    """The values that a format reads of a row, by standard name, and ``columns`` with their names in the data set."""

    values: Mapping[str, Any]
    columns: Mapping[str, str]

    def text(self, name: str) -> str:
        """A column that must be text."""
        return read_text(self.values.get(name), self.columns[name])

    def one_text(self, name: str) -> str:
        """A column that must be text, or a list with one text."""
        return read_text(self._single(name), self.columns[name])

    def written(self, name: str) -> bool:
        """Whether a column is there and holds something in this row."""
        value = self.values.get(name)
        return bool(value.strip()) if isinstance(value, str) else bool(value)

    def messages(self, name: str, text_role: str | None = None) -> tuple[Messages, set[int]]:
        """A column of messages, and which messages are masked; text is one message of the role ``text_role``."""
        return read_messages(self._single(name) if text_role else self.values.get(name), self.columns[name], text_role)

    def conversation(self, messages: Messages, masked: Collection[int] = (), first_counted: int = 0) -> Conversation:
        """A conversation after the system prompt and the history of the row, which are context."""
        has_system = bool(messages) and messages[0]["role"] == "system"
        lead = [*messages[:1]] if has_system else []
        lead += self._history()
        if self.values.get("system") is not None:
            system = self._system()
            if system.strip() and (not lead or lead[0]["role"] != "system"):
                lead.insert(0, {"role": "system", "content": system})
        own = messages[1:] if has_system else messages
        shift = len(lead) - has_system
        first = max(first_counted + shift, len(lead))
        return Conversation([*lead, *own], first, frozenset(i + shift for i in masked))

    def _system(self) -> str:
        value, column = self.values["system"], self.columns["system"]
        if not isinstance(value, list):
            return read_text(value, column)
        return "".join(part["content"] for part in read_content(value, "system", f"column {column!r}"))

    def _single(self, name: str) -> Any:
        value = self.values.get(name)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            return value
        if len(value) > 1 and json_value(value[0]) is None:
            bad(f"column {self.columns[name]!r}: a list of {len(value)} texts; explode_candidates makes a row of each")
        return value[0] if json_value(value[0]) is None else value

    def _history(self) -> Messages:
        name = self.columns.get("history", "")
        where = f"column {name!r}"
        value = self.values.get("history")
        value = value if json_value(value, "[") is None else parse_json(value, where)
        if not value:
            return []
        if not isinstance(value, list | tuple):
            bad(f"{where}: expected a list of pairs or of messages, found {kind(value)}")
        if all(isinstance(item, Mapping) for item in value):
            return read_messages(value, name)[0]
        found: Messages = []
        for i, pair in enumerate(value):
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                bad(f"{where}, entry {i}: expected a question and its answer, found {kind(pair)}")
            for role, text in zip(("user", "assistant"), pair, strict=True):
                if text is not None:
                    found.append({"role": role, "content": read_text(text, f"{name}, entry {i}")})
        return found


@dataclass(frozen=True)
class Format:
    """A format of rows.

    Attributes:
        kind: Its name.
        rank: The format of the lowest rank is read where a data set has the columns of several.
        needed: Standard names of the columns that it needs; the response is in the last one.
        read: A row to its conversation, or to a prompt and a response that pass no template.
        optional: Standard names of the columns that it reads where they are.
    """

    kind: str
    rank: int
    needed: tuple[str, ...]
    read: Callable[[Row], Conversation | tuple[str, str]]
    optional: tuple[str, ...] = CONTEXT
