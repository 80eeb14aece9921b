"""The rows that are in the page: points of the plots, and problems with the tokens or text of their candidates."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..figures.plotting import BoolArray, FloatArray, IntArray, sample_evenly
from ..reading.messages import read_prompt, read_response
from ..reading.rows import UnscorableRowError
from ..reading.texts import text_of
from ..reading.token_texts import split_text
from ..tables import arrays
from .rows import ReportRows, json_size, rounded, shown

_MOST_CANDIDATES = 64
_PROBLEMS_WANTED = 12
_PROBLEMS_AT_ONCE = 64
_LONGEST_PROMPT = 6_000

# A token takes bytes of the page for its text, and with token columns for its length, rank and surprisal too.
_BYTES_PER_TOKEN_OF_TEXT = 5
_BYTES_PER_TOKEN = 16
_BYTES_PER_ROW = 400
_BYTES_PER_POINT = 80
_CHARACTERS_PER_TOKEN = 5
_TOKENS_OF_UNSCORED = 400
_TOKEN_LIMITS = (16_000, 8_000, 4_000, 2_000, 1_000, 500)

Message = dict[str, str]


def draw_samples(
    rows: ReportRows, max_points: int, tokenizer: PreTrainedTokenizerBase | None, budget: int
) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """Draws the points, and the problems whose candidates are shown in full, within ``budget`` bytes.

    Scored rows of the drawn problems are points too. Without a tokenizer the page shows plain text.

    Returns:
        The points, the problems, and the number of tokens after which a trajectory is cut off.
    """
    scores = rows.scores
    scored = np.flatnonzero(scores.has_score)
    drawn = sample_evenly(scored, rows.teacher_codes[scored], max_points, rows.seed)
    budget -= json_size(_points(rows, drawn))
    problems: list[dict[str, Any]] = []
    limit = 0
    if rows.row_format is not None or tokenizer is not None:
        per_token = _BYTES_PER_TOKEN if tokenizer is not None else _BYTES_PER_TOKEN_OF_TEXT
        codes = rows.problems.codes
        chosen, limit = choose_problems(codes, scores.num_tokens, scores.has_score, budget, per_token, rows.seed)
        for problem in _Reader(rows, tokenizer, limit).problems(chosen):
            budget -= json_size(problem) + json_size(problem["label"]) + _BYTES_PER_POINT * len(problem["candidates"])
            if budget < 0:
                break
            problems.append(problem)
    problems.sort(key=lambda problem: problem["candidates"][0]["row"])
    with_text = np.array([text["row"] for problem in problems for text in problem["candidates"]], dtype=np.int64)
    drawn = np.union1d(drawn, with_text[scores.has_score[with_text]])
    for problem in problems:
        problem["candidates"].sort(key=lambda candidate: (candidate["rsr"] is None, candidate["rsr"] or 0.0))
    return _points(rows, np.random.default_rng(rows.seed).permutation(drawn)), problems, limit


def choose_problems(
    problems: IntArray, num_tokens: FloatArray, has_score: BoolArray, budget: int, bytes_per_token: int, seed: int
) -> tuple[list[IntArray], int]:
    """Chooses problems that fit in ``budget`` bytes: at random, those with several scored candidates first.

    The first three arguments are values of each row, shape ``(rows,)``; a row of no problem has -1.

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
    # Only as many as fill the budget with the shortest texts: each of a million rows can be a problem.
    drawn = np.random.default_rng(seed).permutation(starts.size)
    drawn = drawn[np.argsort(-np.minimum(scored[drawn], 2), kind="stable")][: budget // _BYTES_PER_ROW + 1]
    places = [np.unique(np.linspace(0, sizes[i] - 1, _MOST_CANDIDATES).astype(np.int64)) for i in drawn]
    candidates = [rows[starts[i] + spread] for i, spread in zip(drawn, places, strict=True)]
    lengths = [np.where(has_score[some], num_tokens[some], _TOKENS_OF_UNSCORED) for some in candidates]
    for limit in _TOKEN_LIMITS:
        costs = [bytes_per_token * np.minimum(some, limit).sum() + _BYTES_PER_ROW * some.size for some in lengths]
        if sum(costs[:_PROBLEMS_WANTED]) <= budget:
            break
    total, chosen = 0.0, []
    for some, cost in zip(candidates, costs, strict=True):
        if total + cost <= budget:
            total += cost
            chosen.append(some)
    return chosen, limit


def _points(rows: ReportRows, chosen: IntArray) -> dict[str, Any]:
    scores, labels = rows.scores, rows.labels(chosen)
    distinct = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    columns = {"rsr": scores.rsr, "surprisal": scores.avg_surprisal, "rank": scores.avg_rank}
    return {
        "row": chosen.tolist(),
        "teacher": rows.teacher_codes[chosen].tolist(),
        "problem": [distinct[label] for label in labels],
        "problemLabels": list(distinct),
        **{name: [rounded(value) for value in values[chosen]] for name, values in columns.items()},
        "tokens": scores.num_tokens[chosen].astype(int).tolist(),
        "truncated": np.flatnonzero(scores.truncated[chosen]).tolist(),
    }


class _Reader:
    """Reads problems as the page shows them: prompt, and numbers and text of each candidate."""

    def __init__(self, rows: ReportRows, tokenizer: PreTrainedTokenizerBase | None, token_limit: int) -> None:
        self._rows, self._tokenizer, self._limit = rows, tokenizer, token_limit
        self._statuses = arrays.read_categories(rows.dataset, rows.columns.status)
        names = [*(rows.row_format.names if rows.row_format else []), *(rows.columns.token_types if tokenizer else [])]
        self._texts = rows.dataset.select_columns(names).with_format(None)

    def problems(self, chosen: Sequence[IntArray]) -> Iterator[dict[str, Any]]:
        codes = self._rows.problems.codes
        sizes = np.bincount(codes[codes >= 0])
        for start in range(0, len(chosen), _PROBLEMS_AT_ONCE):
            some = chosen[start : start + _PROBLEMS_AT_ONCE]
            labels = self._rows.labels(np.array([members[0] for members in some]))
            texts = iter(dict(row) for row in self._texts.select(np.concatenate(some)))
            for members, label in zip(some, labels, strict=True):
                candidates = list(itertools.islice(texts, members.size))
                prompt = next((found for row in candidates if (found := self._messages(read_prompt, row))), [])
                yield {
                    "label": label,
                    "prompt": _cut(prompt, _LONGEST_PROMPT)[0],
                    "numCandidates": int(sizes[codes[members[0]]]),
                    "candidates": [
                        self._numbers(i) | self._text(row) for i, row in zip(members, candidates, strict=True)
                    ],
                }

    def _numbers(self, row: int) -> dict[str, Any]:
        scores = self._rows.scores
        values = {"rsr": scores.rsr, "rank": scores.avg_rank, "surprisal": scores.avg_surprisal}
        return {
            "row": int(row),
            "teacher": int(self._rows.teacher_codes[row]),
            "status": shown([*self._statuses.values, None][self._statuses.codes[row]]),
            **{name: rounded(value[row]) if scores.has_score[row] else None for name, value in values.items()},
            "numTokens": int(scores.num_tokens[row]),
        }

    def _text(self, row: Mapping[str, Any]) -> dict[str, Any]:
        columns, limit = self._rows.columns, self._limit
        ids = row[columns.token_ids] if self._tokenizer is not None else None
        if ids is None:
            messages, omitted = _cut(self._messages(read_response, row), limit * _CHARACTERS_PER_TOKEN)
            return {"messages": messages, "omittedCharacters": omitted}
        parts = split_text(self._tokenizer, ids[:limit])
        tokens = {
            "text": "".join(parts),
            # JavaScript counts units of UTF-16.
            "lengths": [len(part.encode("utf-16-le", "surrogatepass")) // 2 for part in parts],
            "ranks": row[columns.token_ranks][:limit],
            "surprisals": [rounded(surprisal, 4) for surprisal in row[columns.token_surprisals][:limit]],
        }
        return {"tokens": tokens, "omittedTokens": max(0, len(ids) - limit)}

    def _messages(self, read: Callable[..., Any], row: Mapping[str, Any]) -> list[Message]:
        try:
            found = read(row, self._rows.row_format, self._rows.turns) if self._rows.row_format else ""
        except UnscorableRowError:
            return []
        if isinstance(found, str):
            return [{"role": "", "text": found}] if found else []
        return [{"role": message["role"], "text": text_of(message)} for message in found]


def _cut(messages: Sequence[Message], limit: int) -> tuple[list[Message], int]:
    """The first ``limit`` characters of some messages, and how many are left out."""
    kept, left = [], limit
    for message in messages:
        if left > 0 or not message["text"]:
            kept.append({**message, "text": message["text"][:left]})
        left -= len(message["text"])
    return kept, max(0, -left)
