"""The trajectories whose text the report holds: which problems they belong to, and their tokens or their text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..reading.formats import RowFormat
from ..reading.messages import Turns, read_prompt, read_response
from ..reading.rows import UnscorableRowError
from ..reading.token_texts import split_text
from ..tables.columns import ScoreColumns

IntArray = npt.NDArray[np.int64]

MOST_CANDIDATES = 64

# What a token takes on the page: its text alone, or with its length, its rank and its surprisal.
BYTES_PER_TOKEN_OF_TEXT = 5
BYTES_PER_TOKEN = 16
_BYTES_PER_ROW = 400
_CHARACTERS_PER_TOKEN = 5
_TOKENS_OF_UNSCORED = 400
_TOKEN_LIMITS = (16_000, 8_000, 4_000, 2_000, 1_000, 500)
_PROBLEMS_WANTED = 12
_LONGEST_PROMPT = 6_000
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


def choose_problems(
    problems: IntArray,
    num_tokens: npt.NDArray[np.float64],
    has_score: npt.NDArray[np.bool_],
    budget: int,
    bytes_per_token: int,
    seed: int,
) -> tuple[list[IntArray], int]:
    """Chooses problems whose candidates are shown in full: at random, those with several scored candidates first.

    Args:
        problems: Problem of each row, -1 for none, shape ``(rows,)``.
        num_tokens: Scored tokens of each row, shape ``(rows,)``.
        has_score: Which rows have a score, shape ``(rows,)``.
        budget: Bytes that their text may take.
        bytes_per_token: What a token takes of them.
        seed: Of the choice.

    Returns:
        The rows of each chosen problem, and the number of tokens after which a trajectory is cut off, which is
        lowered as far as a dozen problems need it.
    """
    rows = np.flatnonzero(problems >= 0)
    rows = rows[np.argsort(problems[rows], kind="stable")]
    if not rows.size:
        return [], _TOKEN_LIMITS[0]
    starts = np.flatnonzero(np.diff(problems[rows], prepend=-1))
    sizes = np.diff(np.append(starts, rows.size))
    scored = np.add.reduceat(has_score[rows].astype(np.int64), starts)
    # As few as fill the budget with the shortest texts: there can be a problem for each of a million rows.
    drawn = np.random.default_rng(seed).permutation(starts.size)
    drawn = drawn[np.argsort(np.minimum(scored[drawn], 2) * -1, kind="stable")][: budget // _BYTES_PER_ROW + 1]
    candidates = [_spread(rows[starts[i] : starts[i] + sizes[i]]) for i in drawn]
    lengths = [np.where(has_score[some], num_tokens[some], _TOKENS_OF_UNSCORED) for some in candidates]
    for limit in _TOKEN_LIMITS:
        costs = [
            bytes_per_token * np.minimum(length, limit).sum() + _BYTES_PER_ROW * length.size for length in lengths
        ]
        if sum(costs[:_PROBLEMS_WANTED]) <= budget:
            break
    total, chosen = 0.0, []
    for some, cost in zip(candidates, costs, strict=True):
        if total + cost <= budget:
            total += cost
            chosen.append(some)
    return chosen, limit


class TrajectoryReader:
    """Reads rows of a data set as what the page shows of them.

    Args:
        dataset: The scored rows.
        columns: Their score columns.
        row_format: Where their text is; ``None`` if they have none.
        turns: Which assistant turns were scored.
        tokenizer: Decodes their token columns; ``None`` if they have none.
        token_limit: Tokens after which a trajectory is cut off.
    """

    def __init__(
        self,
        dataset: Dataset,
        columns: ScoreColumns,
        row_format: RowFormat | None,
        turns: Turns,
        tokenizer: PreTrainedTokenizerBase | None,
        token_limit: int,
    ) -> None:
        names = [*(row_format.names if row_format else []), *(columns.token_types if tokenizer else [])]
        self._dataset = dataset.select_columns(names).with_format(None)
        self._columns = columns
        self._format = row_format
        self._turns = turns
        self._tokenizer = tokenizer
        self._limit = token_limit

    def read(self, problems: Sequence[IntArray]) -> list[tuple[list[dict[str, str]], list[dict[str, Any]]]]:
        """Reads the candidates of some problems.

        Args:
            problems: The rows of each.

        Returns:
            For each problem the messages of its prompt, each with its role and text, and for each candidate a dict
            with its ``tokens`` or else its ``messages``, and how much of them is left out.
        """
        values = iter(dict(row) for row in self._dataset.select(np.concatenate(problems)))
        read = []
        for rows in problems:
            candidates = list(itertools.islice(values, rows.size))
            prompt = next((messages for row in candidates if (messages := self._messages(read_prompt, row))), [])
            read.append((_cut(prompt, _LONGEST_PROMPT)[0], [self._candidate(row) for row in candidates]))
        return read

    def _candidate(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if self._tokenizer is not None and row[self._columns.token_ids] is not None:
            return self._tokens(row, self._tokenizer)
        messages, omitted = _cut(self._messages(read_response, row), self._limit * _CHARACTERS_PER_TOKEN)
        return {"messages": messages, "omittedCharacters": omitted}

    def _tokens(self, row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        ids = row[self._columns.token_ids]
        parts = split_text(tokenizer, ids[: self._limit])
        return {
            "tokens": {
                "text": "".join(parts),
                "lengths": [utf16_length(part) for part in parts],
                "ranks": row[self._columns.token_ranks][: self._limit],
                "surprisals": [short(s) for s in row[self._columns.token_surprisals][: self._limit]],
            },
            "omittedTokens": max(0, len(ids) - self._limit),
        }

    def _messages(self, read: Callable[..., Any], row: Mapping[str, Any]) -> list[dict[str, str]]:
        if self._format is None:
            return []
        try:
            found = read(row, self._format, self._turns)
        except UnscorableRowError:
            return []
        if isinstance(found, str):
            return [{"role": "", "text": found}] if found else []
        return [{"role": message["role"], "text": text_of(message)} for message in found]


def utf16_length(text: str) -> int:
    """Length of a text as JavaScript counts it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def short(value: float) -> float:
    """A number with as many digits as the page shows."""
    return float(f"{value:.4g}")


def _spread(rows: IntArray) -> IntArray:
    """At most ``MOST_CANDIDATES`` of the rows, evenly."""
    if rows.size <= MOST_CANDIDATES:
        return rows
    return rows[np.linspace(0, rows.size - 1, MOST_CANDIDATES).astype(np.int64)]


def text_of(message: Mapping[str, Any]) -> str:
    """A message as text: its reasoning, its content and its tool calls.

    Args:
        message: A message of :func:`rsr_datasets.reading.messages.read_response`.
    """
    parts = [message[key] for key in (*_REASONING_KEYS, "content") if message.get(key)]
    parts += [json.dumps(call, ensure_ascii=False, default=str) for call in message.get("tool_calls", [])]
    return "\n\n".join(parts)


def _cut(messages: Sequence[Mapping[str, str]], limit: int) -> tuple[list[dict[str, str]], int]:
    """The first ``limit`` characters of some messages, and how many are left out."""
    kept = []
    left = limit
    for message in messages:
        if left > 0 or not message["text"]:
            kept.append({**message, "text": message["text"][:left]})
        left -= len(message["text"])
    return kept, max(0, -left)
