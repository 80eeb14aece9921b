"""A row to token ids and the positions to score: the formats of data sets, and the chain that encodes their rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..tables.columns import BAD_ROW, NO_RESPONSE, TEMPLATE_DROPPED_TEXT
from .rendering import (
    REASONING_KEYS,
    ChatTemplate,
    RenderedText,
    TemplateRefusedError,
    TextDroppedError,
    locate,
    resolve_chat_template,
    training_twin,
)
from .rows import EncodedRow, UnscorableRowError
from .tokenizing import Tokens, tokenize

Turns = Literal["all", "last"]

ROLES = ("system", "developer", "user", "assistant", "tool")
_ROLE_ALIASES = {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}

# Column sets that are read, in order of preference.
FORMATS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
}
OPTIONAL_COLUMNS: dict[str, tuple[str, ...]] = {
    "messages": ("tools", "chat_template_kwargs"),
    "conversations": ("system", "tools", "chat_template_kwargs"),
    "prompt_completion": ("tools", "chat_template_kwargs"),
    "alpaca": ("input", "chat_template_kwargs"),
    "text": (),
}
STANDARD_COLUMNS = tuple(
    dict.fromkeys(name for names in (*FORMATS.values(), *OPTIONAL_COLUMNS.values()) for name in names)
)


@dataclass(frozen=True)
class RowFormat:
    """Which columns of a data set are read, and as what.

    Attributes:
        kind: A key of ``FORMATS``.
        columns: Standard column name to the name it has in the data set.
    """

    kind: str
    columns: dict[str, str]

    @property
    def names(self) -> list[str]:
        """The data set's own names of the columns that are read."""
        return list(self.columns.values())


@dataclass(frozen=True)
class _PlainText:
    prompt: str
    response: str


@dataclass(frozen=True)
class _Conversation:
    messages: list[dict[str, Any]]
    first_counted: int


def check_columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    """Checks the ``columns`` argument as far as it can be checked without a data set.

    Args:
        columns: Standard name to actual name.

    Returns:
        The same as a dict.

    Raises:
        ValueError: If it is no mapping, or maps a name that is not in ``STANDARD_COLUMNS``.
    """
    if not isinstance(columns, Mapping | None):
        raise ValueError(
            f"columns={columns!r}: must be a dict of standard to actual names, "
            'e.g. {"prompt": "question", "completion": "solution"}'
        )
    for standard in columns or {}:
        if standard not in STANDARD_COLUMNS:
            raise ValueError(f"columns={standard!r}: no standard column; must be one of {list(STANDARD_COLUMNS)}")
    return dict(columns or {})


def find_format(column_names: Iterable[str], columns: Mapping[str, str] | None = None) -> RowFormat:
    """Finds the format of a data set from its column names.

    Args:
        column_names: The data set's columns.
        columns: Standard name to actual name, where they differ, e.g. ``{"prompt": "question"}``.

    Returns:
        The first format in the order of ``FORMATS`` whose columns are all there. Where ``columns`` is given, formats
        that use one of its names come first.

    Raises:
        ValueError: If no format fits, or ``columns`` names a column that is not there.
    """
    present = list(column_names)
    renamed = check_columns(columns)
    for actual in renamed.values():
        if actual not in present:
            raise ValueError(f"columns={renamed}: the dataset has no column {actual!r}; it has {present}")
    kinds = sorted(FORMATS, key=lambda kind: not any(name in renamed for name in FORMATS[kind]))
    for kind in kinds:
        actual_names = {name: renamed.get(name, name) for name in FORMATS[kind]}
        if all(name in present for name in actual_names.values()):
            optional = {name: renamed.get(name, name) for name in OPTIONAL_COLUMNS[kind]}
            columns_read = actual_names | {k: v for k, v in optional.items() if v in present}
            if unused := [name for name in renamed if name not in columns_read]:
                raise ValueError(f"columns={renamed}: {unused} have no meaning in the format {kind!r} that was found")
            return RowFormat(kind, columns_read)
    accepted = "; ".join(" + ".join(repr(name) for name in names) for names in FORMATS.values())
    raise ValueError(
        f"no column to score: found {present}, accepted are {accepted}; "
        'name others with columns=, e.g. columns={"prompt": "question", "completion": "solution"}'
    )


def read_prompt(row: Mapping[str, Any], row_format: RowFormat, turns: Turns = "all") -> str | list[dict[str, Any]]:
    """Reads what stands before the first scored turn of a row.

    Args:
        row: Column name to value.
        row_format: Where to read, from :func:`find_format`.
        turns: Which assistant messages count.

    Returns:
        The messages before that turn, roles and content in one same form whatever the format; text for a prompt and
        completion that are both text, and for a row of the ``text`` format, where it is empty.

    Raises:
        UnscorableRowError: If the row cannot be read or has no assistant turn.
    """
    conversation = _read_conversation({k: row.get(v) for k, v in row_format.columns.items()}, row_format)
    if isinstance(conversation, _PlainText):
        return conversation.prompt
    return conversation.messages[: _counted_turns(conversation.messages, conversation.first_counted, turns)[0]]


def read_response(row: Mapping[str, Any], row_format: RowFormat, turns: Turns = "all") -> str | list[dict[str, Any]]:
    """Reads what stands from the first scored turn of a row on.

    Args:
        row: Column name to value.
        row_format: Where to read, from :func:`find_format`.
        turns: Which assistant messages count.

    Returns:
        The other part of what :func:`read_prompt` returns, in the same form.

    Raises:
        UnscorableRowError: If the row cannot be read or has no assistant turn.
    """
    conversation = _read_conversation({k: row.get(v) for k, v in row_format.columns.items()}, row_format)
    if isinstance(conversation, _PlainText):
        return conversation.response
    return conversation.messages[_counted_turns(conversation.messages, conversation.first_counted, turns)[0] :]


class ConversationEncoder:
    """Encodes rows of one format for one student.

    What counts of a conversation is told in :mod:`rsr_datasets.reading.rendering`, and which tokens hold it in
    :mod:`rsr_datasets.reading.tokenizing`. A text of nothing but white space does not count.

    Args:
        tokenizer: The student's tokenizer. One without character offsets (a "slow" one) serves too, but rows that its
            tokens do not spell exactly cannot be scored then.
        chat_template: Jinja text; ``None`` for the tokenizer's own.
        chat_template_kwargs: Passed to the template for every row; a row's own column of that name wins.
        turns: Which assistant messages count.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        turns: Turns = "all",
    ) -> None:
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self.turns = turns
        self._said_ways_out = False

    def encode(
        self, rows: Sequence[Mapping[str, Any]], row_format: RowFormat
    ) -> list[EncodedRow | UnscorableRowError]:
        """Encodes rows.

        Args:
            rows: Rows as dicts of column name to value.
            row_format: Where to read, from :func:`find_format`.

        Returns:
            For each row its encoding, or the reason why it has none. The first row whose template drops text says
            which arguments would keep it.

        Raises:
            ValueError: If a conversation needs a chat template and there is none, or the template is not valid Jinja.
        """
        outcomes: list[RenderedText | UnscorableRowError] = []
        for row in rows:
            try:
                outcomes.append(self._render(row, row_format))
            except UnscorableRowError as error:
                outcomes.append(error)
            except RecursionError:
                outcomes.append(UnscorableRowError(BAD_ROW, "a value is nested too deeply"))
        tokens = iter(tokenize(self.tokenizer, [row for row in outcomes if isinstance(row, RenderedText)]))
        return [self._to_encoded_row(next(tokens)) if isinstance(row, RenderedText) else row for row in outcomes]

    def _render(self, row: Mapping[str, Any], row_format: RowFormat) -> RenderedText:
        values = {standard: row.get(actual) for standard, actual in row_format.columns.items()}
        conversation = _read_conversation(values, row_format)
        if isinstance(conversation, _PlainText):
            rendered = self._render_text(conversation)
        else:
            rendered = self._render_messages(conversation, values)
        if not _is_utf8(rendered.text):
            _bad("text with a lone surrogate is not valid Unicode")
        return rendered

    def _render_text(self, row: _PlainText) -> RenderedText:
        own = np.zeros(len(row.prompt) + len(row.response), dtype=bool)
        own[len(row.prompt) :] = True
        text = row.prompt + row.response
        bos = self.tokenizer.bos_token
        return RenderedText(text, own, add_special_tokens=not (bos and text.startswith(bos)))

    def _render_messages(self, row: _Conversation, values: Mapping[str, Any]) -> RenderedText:
        counted = _counted_turns(row.messages, row.first_counted, self.turns)
        if not any(_is_written(row.messages[i]) for i in counted):
            raise UnscorableRowError(NO_RESPONSE, "every assistant turn is empty")
        tools = _read_tools(values.get("tools"))
        kwargs = self.chat_template_kwargs | _read_kwargs(values.get("chat_template_kwargs"))
        template = ChatTemplate(self.tokenizer, self.chat_template, tools, kwargs)
        try:
            return locate(template, row.messages, counted)
        except TemplateRefusedError as error:
            raise UnscorableRowError(BAD_ROW, str(error)) from error
        except TextDroppedError as error:
            reason = str(error)
            if not self._said_ways_out:
                self._said_ways_out = True
                reason += self._ways_out(template, row.messages, counted, tools, kwargs)
            raise UnscorableRowError(TEMPLATE_DROPPED_TEXT, reason) from error

    def _ways_out(
        self,
        template: ChatTemplate,
        messages: list[dict[str, Any]],
        counted: Sequence[int],
        tools: list[Any] | None,
        kwargs: Mapping[str, Any],
    ) -> str:
        """Names the template and the arguments under which this row keeps its text: each of them is tried."""
        twin = training_twin(template.source)
        name = (
            "chat_template=" if self.chat_template else f"template of {self.tokenizer.name_or_path or 'the student'!r}"
        )
        if twin:
            name += f", which is {twin.removesuffix('_training')}"
        ways = []
        if len(counted) > 1:
            ways.append(('turns="last" (scores the last turn alone)', template, counted[-1:]))
        if twin:
            training = ChatTemplate(self.tokenizer, resolve_chat_template(twin), tools, kwargs)
            ways.append((f'chat_template="{twin}"', training, counted))
        keeping = [way for way, other, turns in ways if _keeps_text(other, messages, turns)]
        return f" ({name}). To keep the text: {'; '.join([*keeping, 'chat_template= with one of your own'])}"

    def _to_encoded_row(self, tokens: Tokens | None) -> EncodedRow | UnscorableRowError:
        if tokens is None:
            return UnscorableRowError(
                BAD_ROW,
                f"{type(self.tokenizer).__name__} gives no character offsets and its tokens do not spell the text, so "
                "that the response cannot be found; pass tokenizer= a fast one",
            )
        positions = np.flatnonzero(tokens.counts)
        positions = positions[positions > 0]
        if not positions.size:
            return UnscorableRowError(NO_RESPONSE, "no token of the text is a response token with context before it")
        return EncodedRow(tokens.ids[: positions[-1] + 1], positions)


def _keeps_text(template: ChatTemplate, messages: list[dict[str, Any]], counted: Sequence[int]) -> bool:
    try:
        locate(template, messages, counted)
    except (TextDroppedError, TemplateRefusedError):
        return False
    return True


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bad(reason: str) -> NoReturn:
    raise UnscorableRowError(BAD_ROW, reason)


def _read_conversation(values: Mapping[str, Any], row_format: RowFormat) -> _PlainText | _Conversation:
    names = row_format.columns
    match row_format.kind:
        case "messages" | "conversations":
            messages = _read_messages(values[row_format.kind], names[row_format.kind])
            system = values.get("system")
            if system is not None and _read_text(system, names["system"]).strip() and _begins_without_system(messages):
                messages = [{"role": "system", "content": system}, *messages]
            return _Conversation(messages, 0)
        case "prompt_completion":
            prompt, completion = values["prompt"], values["completion"]
            if isinstance(prompt, str) and isinstance(completion, str):
                return _PlainText(prompt, completion)
            before = _read_messages(prompt, names["prompt"], text_role="user")
            after = _read_messages(completion, names["completion"], text_role="assistant")
            return _Conversation([*before, *after], len(before))
        case "alpaca":
            parts = [_read_text(values["instruction"], names["instruction"])]
            if values.get("input") is not None:
                parts.append(_read_text(values["input"], names["input"]))
            output = _read_text(values["output"], names["output"])
            request = {"role": "user", "content": "\n".join(part for part in parts if part)}
            return _Conversation([request, {"role": "assistant", "content": output}], 1)
        case _:
            return _PlainText("", _read_text(values["text"], names["text"]))


def _counted_turns(messages: Sequence[Mapping[str, Any]], first_counted: int, turns: Turns) -> list[int]:
    counted = [i for i, m in enumerate(messages) if i >= first_counted and m["role"] == "assistant"]
    if not counted:
        raise UnscorableRowError(NO_RESPONSE, "no assistant turn; scored rows need at least one")
    return counted[-1:] if turns == "last" else counted


def _begins_without_system(messages: Sequence[Mapping[str, Any]]) -> bool:
    return bool(messages) and messages[0]["role"] != "system"


def _read_text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        _bad(f"column {column!r}: expected text, found {_kind(value)}")
    return value


def _read_messages(value: Any, column: str, text_role: str | None = None) -> list[dict[str, Any]]:
    if isinstance(value, str) and text_role:
        return [{"role": text_role, "content": value}]
    value = _transpose(value)
    if not isinstance(value, list | tuple):
        _bad(f"column {column!r}: expected a list of messages, found {_kind(value)}")
    return [_read_message(message, f"column {column!r}, message {i}") for i, message in enumerate(value)]


def _transpose(value: Any) -> Any:
    """`datasets` stores a `Sequence` of dicts as one dict of lists: turned back; anything else is as it was."""
    if not isinstance(value, Mapping) or not value or not all(isinstance(item, list) for item in value.values()):
        return value
    if len({len(values) for values in value.values()}) > 1:
        return value
    return [dict(zip(value, values, strict=True)) for values in zip(*value.values(), strict=True)]


def _read_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        _bad(f"{where}: expected a dict with 'role' and 'content', found {_kind(message)}")
    kept = _without_nulls(message)
    if "role" not in kept and "from" in kept:
        kept = {"role": kept.pop("from"), **kept}
    if "content" not in kept and "value" in kept:
        kept["content"] = kept.pop("value")
    role = kept.get("role")
    if not isinstance(role, str) or _ROLE_ALIASES.get(role, role) not in ROLES:
        found = repr(role) if isinstance(role, str) else _kind(role)
        _bad(f"{where}: unknown role {found}; known are {[*ROLES, *_ROLE_ALIASES]}")
    kept["role"] = _ROLE_ALIASES.get(role, role)
    kept["content"] = _read_content(kept.get("content", ""), where)
    for key in REASONING_KEYS:
        if not isinstance(kept.get(key, ""), str):
            _bad(f"{where}: {key!r} must be text, found {_kind(kept[key])}")
    calls = _read_tool_calls(kept.pop("tool_calls", None), where)
    return kept | {"tool_calls": calls} if calls else kept


def _read_content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    blocks = _transpose(content)
    if isinstance(blocks, list) and all(_is_text_block(block) for block in blocks):
        return "".join(block["text"] for block in blocks)
    _bad(f"{where}: content must be text or a list of text blocks, found {_kind(content)}")


def _is_text_block(block: Any) -> bool:
    return isinstance(block, Mapping) and block.get("type") == "text" and isinstance(block.get("text"), str)


def _read_tool_calls(value: Any, where: str) -> list[Any]:
    where = f"{where}: 'tool_calls'"
    calls = _transpose(_parse_json(value, where))
    calls = [_parse_json(call, where) for call in calls] if isinstance(calls, list) else calls or []
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        _bad(f"{where} must be a list of dicts, found {_kind(calls)}")
    if not all(isinstance(call.get("function", call), Mapping) for call in calls):
        _bad(f"{where}: 'function' of a tool call must be a dict")
    return calls


def _read_tools(value: Any) -> list[Any] | None:
    where = "column 'tools'"
    tools = _parse_json(value, where)
    tools = [_parse_json(tool, where) for tool in tools] if isinstance(tools, list) else tools
    if tools is None or tools == []:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        _bad(f"{where}: expected a list of JSON schemas, found {_kind(tools)}")
    return [_without_nulls(tool) for tool in tools]


def _read_kwargs(value: Any) -> dict[str, Any]:
    where = "column 'chat_template_kwargs'"
    kwargs = _parse_json(value, where)
    if kwargs is None:
        return {}
    if not isinstance(kwargs, Mapping):
        _bad(f"{where}: expected a dict, found {_kind(kwargs)}")
    return _without_nulls(kwargs)


def _parse_json(value: Any, where: str) -> Any:
    """Values whose rows have different keys are often kept as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError:
        _bad(f"{where}: text that is not JSON")


def _without_nulls(value: Any) -> Any:
    """Drops null keys, which Arrow fills in where rows have different ones, at every depth."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(item) for item in value]
    return value


def _is_written(message: Mapping[str, Any]) -> bool:
    texts = (message.get(key, "") for key in (*REASONING_KEYS, "content"))
    return bool(message.get("tool_calls")) or any(text.strip() for text in texts)


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
