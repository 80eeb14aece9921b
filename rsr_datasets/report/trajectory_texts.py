"""The text of a trajectory on the page: its tokens, or its messages."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..reading.messages import read_prompt, read_response
from ..reading.rows import UnscorableRowError
from ..reading.templates import REASONING_KEYS
from ..reading.token_texts import split_text
from .rows import IntArray, ReportRows, rounded

_CHARACTERS_PER_TOKEN = 5
_LONGEST_PROMPT = 6_000

Message = dict[str, str]


class TrajectoryReader:
    """Reads the prompts and responses that the page shows.

    Args:
        rows: The scored rows.
        tokenizer: Decodes their token columns; ``None`` if messages are shown.
        token_limit: Tokens after which a trajectory is cut off.
    """

    def __init__(self, rows: ReportRows, tokenizer: PreTrainedTokenizerBase | None, token_limit: int) -> None:
        self._columns, self._format, self._turns = rows.columns, rows.row_format, rows.turns
        self._tokenizer, self._limit = tokenizer, token_limit
        names = [*(self._format.names if self._format else []), *(rows.columns.token_types if tokenizer else [])]
        self._dataset = rows.dataset.select_columns(names).with_format(None)

    def read(self, problems: Sequence[IntArray]) -> list[tuple[list[Message], list[dict[str, Any]]]]:
        """Reads the rows of some problems: the messages of each prompt, and a dict for each candidate."""
        values = iter(dict(row) for row in self._dataset.select(np.concatenate(problems)))
        read = []
        for rows in problems:
            candidates = list(itertools.islice(values, rows.size))
            prompt = next((messages for row in candidates if (messages := self._messages(read_prompt, row))), [])
            read.append((_cut(prompt, _LONGEST_PROMPT)[0], [self._candidate(row) for row in candidates]))
        return read

    def _candidate(self, row: Mapping[str, Any]) -> dict[str, Any]:
        ids = row[self._columns.token_ids] if self._tokenizer is not None else None
        if ids is None:
            messages, omitted = _cut(self._messages(read_response, row), self._limit * _CHARACTERS_PER_TOKEN)
            return {"messages": messages, "omittedCharacters": omitted}
        parts = split_text(self._tokenizer, ids[: self._limit])
        tokens = {
            "text": "".join(parts),
            # JavaScript counts units of UTF-16.
            "lengths": [len(part.encode("utf-16-le", "surrogatepass")) // 2 for part in parts],
            "ranks": row[self._columns.token_ranks][: self._limit],
            "surprisals": [rounded(s, 4) for s in row[self._columns.token_surprisals][: self._limit]],
        }
        return {"tokens": tokens, "omittedTokens": max(0, len(ids) - self._limit)}

    def _messages(self, read: Callable[..., Any], row: Mapping[str, Any]) -> list[Message]:
        if self._format is None:
            return []
        try:
            found = read(row, self._format, self._turns)
        except UnscorableRowError:
            return []
        if isinstance(found, str):
            return [{"role": "", "text": found}] if found else []
        return [{"role": message["role"], "text": text_of(message)} for message in found]


def text_of(message: Mapping[str, Any]) -> str:
    """A message as text: its reasoning, its content and its tool calls."""
    parts = [message[key] for key in (*REASONING_KEYS, "content") if message.get(key)]
    parts += [json.dumps(call, ensure_ascii=False, default=str) for call in message.get("tool_calls", [])]
    return "\n\n".join(parts)


def _cut(messages: Sequence[Message], limit: int) -> tuple[list[Message], int]:
    """The first ``limit`` characters of some messages, and how many are left out."""
    kept, left = [], limit
    for message in messages:
        if left > 0 or not message["text"]:
            kept.append({**message, "text": message["text"][:left]})
        left -= len(message["text"])
    return kept, max(0, -left)
