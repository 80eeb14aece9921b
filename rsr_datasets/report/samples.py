"""The rows that are in the page: points of the plots, and problems with the tokens or text of their candidates."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..figures.plotting import BoolArray, FloatArray, IntArray, sample_evenly
from ..reading.rows import UnscorableRowError
from ..reading.split import split_row, text_of
from ..reading.steps import split_text
from ..tables import arrays
from .rows import KeptRows, ReportRows, rounded, shown
from .summary import json_size
from .thumbnails import thumbnails

_BYTES_PER_ROW = 400  # of the page, without text or tokens
_ROWS_IN_MEMORY = 64
_TOKEN_LIMITS = (16_000, 8_000, 4_000, 2_000, 1_000, 500)


def draw_samples(
    rows: ReportRows, kept: KeptRows | None, max_points: int, tokenizer: PreTrainedTokenizerBase | None, budget: int
) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """Draws the points, the problems shown within ``budget`` bytes, and the tokens after which text is cut."""
    scores, scored = rows.scores, np.flatnonzero(rows.scores.has_score)
    marks = None if kept is None else kept.marks
    drawn = sample_evenly(scored, rows.teacher_codes[scored], max_points, rows.seed)
    budget -= json_size(_points(rows, marks, drawn))
    problems: list[dict[str, Any]] = []
    limit = 0
    if rows.row_format is not None or tokenizer is not None:
        per_token = 16 if tokenizer is not None else 5  # bytes for its text, and its length, rank and surprisal
        codes = rows.problems.codes
        chosen, limit = choose_problems(codes, scores.num_tokens, scores.has_score, budget, per_token, rows.seed)
        for problem in _read_problems(rows, marks, chosen, tokenizer, limit):
            budget -= json_size(problem) + json_size(problem["label"]) + 80 * len(problem["candidates"])
            if budget < 0:
                break
            problems.append(problem)
    problems.sort(key=lambda problem: problem["candidates"][0]["row"])
    with_text = np.array([text["row"] for problem in problems for text in problem["candidates"]], dtype=np.int64)
    drawn = np.union1d(drawn, with_text[scores.has_score[with_text]])
    for problem in problems:
        problem["candidates"].sort(key=lambda candidate: (candidate["rsr"] is None, candidate["rsr"] or 0.0))
    return _points(rows, marks, np.random.default_rng(rows.seed).permutation(drawn)), problems, limit


def choose_problems(
    problems: IntArray, num_tokens: FloatArray, has_score: BoolArray, budget: int, bytes_per_token: int, seed: int
) -> tuple[list[IntArray], int]:
    """Rows of random problems within ``budget`` bytes, several scored candidates first; and a limit of tokens."""
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
    places = [np.unique(np.linspace(0, sizes[i] - 1, 64).astype(np.int64)) for i in drawn]
    candidates = [rows[starts[i] + spread] for i, spread in zip(drawn, places, strict=True)]
    lengths = [np.where(has_score[some], num_tokens[some], 400) for some in candidates]
    for limit in _TOKEN_LIMITS:
        costs = [bytes_per_token * np.minimum(some, limit).sum() + _BYTES_PER_ROW * some.size for some in lengths]
        if sum(costs[:12]) <= budget:
            break
    total, chosen = 0.0, []
    for some, cost in zip(candidates, costs, strict=True):
        if total + cost <= budget:
            total += cost
            chosen.append(some)
    return chosen, limit


def _points(rows: ReportRows, marks: BoolArray | None, chosen: IntArray) -> dict[str, Any]:
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
        "selected": [] if marks is None else np.flatnonzero(marks[chosen]).tolist(),
        "correct": np.flatnonzero(rows.correct[chosen] > 0).tolist(),
        "incorrect": np.flatnonzero(rows.correct[chosen] <= 0).tolist(),
    }


def _read_problems(
    rows: ReportRows,
    marks: BoolArray | None,
    chosen: Sequence[IntArray],
    tokenizer: PreTrainedTokenizerBase | None,
    token_limit: int,
) -> Iterator[dict[str, Any]]:
    """Reads problems as the page shows them: prompt, and numbers and text of each candidate."""
    if not chosen:
        return
    scores, columns, codes = rows.scores, rows.columns, rows.problems.codes
    statuses = arrays.read_categories(rows.dataset, columns.status)
    names = [*(rows.row_format.names if rows.row_format else []), *(columns.token_types if tokenizer else [])]
    texts = _read(rows.dataset.select_columns(names).select(np.concatenate(chosen)))
    sizes = np.bincount(codes[codes >= 0])
    values = {"rsr": scores.rsr, "rank": scores.avg_rank, "surprisal": scores.avg_surprisal}

    def candidate(i: int, row: Mapping[str, Any]) -> dict[str, Any]:
        numbers = {
            "row": int(i),
            "teacher": int(rows.teacher_codes[i]),
            "status": shown([*statuses.values, None][statuses.codes[i]]),
            **{name: rounded(value[i]) if scores.has_score[i] else None for name, value in values.items()},
            "numTokens": int(scores.num_tokens[i]),
            "selected": bool(marks is not None and marks[i]),
            "correct": bool(rows.correct[i] > 0) if np.isfinite(rows.correct[i]) else None,
        }
        ids = row[columns.token_ids] if tokenizer is not None else None
        if ids is None:
            messages, omitted = _cut(_messages(rows, row, 1), 5 * token_limit)  # characters of a token
            return numbers | {"messages": messages, "omittedCharacters": omitted}
        parts = split_text(tokenizer, ids[:token_limit])
        tokens = {
            "text": "".join(parts),
            # JavaScript counts units of UTF-16.
            "lengths": [len(part.encode("utf-16-le", "surrogatepass")) // 2 for part in parts],
            "ranks": row[columns.token_ranks][:token_limit],
            "surprisals": [rounded(surprisal, 4) for surprisal in row[columns.token_surprisals][:token_limit]],
        }
        return numbers | {"tokens": tokens, "omittedTokens": max(0, len(ids) - token_limit)}

    for members, label in zip(chosen, rows.labels(np.array([members[0] for members in chosen])), strict=True):
        texts_of_problem = list(itertools.islice(texts, members.size))
        prompt = next((found for row in texts_of_problem if (found := _messages(rows, row, 0))), [])
        yield {
            "label": label,
            "prompt": _cut(prompt, 6_000)[0],
            "images": thumbnails(texts_of_problem[0], rows.row_format, rows.media_root),
            "numCandidates": int(sizes[codes[members[0]]]),
            "candidates": [candidate(i, row) for i, row in zip(members, texts_of_problem, strict=True)],
        }


def _read(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Rows whose files of images are not decoded, some of them in memory at a time."""
    for table in dataset.with_format("arrow").iter(_ROWS_IN_MEMORY):
        yield from arrays.read_rows(table, dataset.features)


def _messages(rows: ReportRows, row: Mapping[str, Any], part: int) -> list[dict[str, str]]:
    """The prompt of a row, part 0, or its response, part 1."""
    try:
        found = split_row(row, rows.row_format, rows.turns)[part] if rows.row_format else ""
    except UnscorableRowError:
        return []
    if isinstance(found, str):
        return [{"role": "", "text": found}] if found else []
    return [{"role": message["role"], "text": text_of(message)} for message in found]


def _cut(messages: Sequence[dict[str, str]], limit: int) -> tuple[list[dict[str, str]], int]:
    """The first ``limit`` characters of some messages, and how many are left out."""
    kept, left = [], limit
    for message in messages:
        if left > 0 or not message["text"]:
            kept.append({**message, "text": message["text"][:left]})
        left -= len(message["text"])
    return kept, max(0, -left)
