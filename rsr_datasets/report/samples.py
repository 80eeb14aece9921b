"""The rows that are in the page: points of the plots, and problems with the tokens or text of their candidates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from ..figures.plotting import sample_evenly
from ..tables import arrays
from .rows import IntArray, ReportRows, json_size, rounded, shown
from .trajectory_texts import TrajectoryReader

MOST_CANDIDATES = 64
_PROBLEMS_WANTED = 12
_PROBLEMS_AT_ONCE = 64

# A token takes bytes of the page for its text, and with token columns for its length, rank and surprisal too.
_BYTES_PER_TOKEN_OF_TEXT = 5
_BYTES_PER_TOKEN = 16
_BYTES_PER_ROW = 400
_BYTES_PER_POINT = 80
_TOKENS_OF_UNSCORED = 400
_TOKEN_LIMITS = (16_000, 8_000, 4_000, 2_000, 1_000, 500)


def draw_samples(
    rows: ReportRows, max_points: int, tokenizer: PreTrainedTokenizerBase | None, budget: int
) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """Draws the points, and the problems whose candidates are shown in full.

    Args:
        rows: The scored rows.
        max_points: The most points; scored rows of the drawn problems are points too.
        tokenizer: Decodes the token columns; ``None`` if the page shows plain text.
        budget: Bytes that points and problems may take.

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
        chosen, limit = choose_problems(
            rows.problems.codes, scores.num_tokens, scores.has_score, budget, per_token, rows.seed
        )
        for problem in _problems(rows, chosen, TrajectoryReader(rows, tokenizer, limit)):
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
    problems: IntArray,
    num_tokens: npt.NDArray[np.float64],
    has_score: npt.NDArray[np.bool_],
    budget: int,
    bytes_per_token: int,
    seed: int,
) -> tuple[list[IntArray], int]:
    """Chooses problems that fit in ``budget`` bytes: at random, those with several scored candidates first.

    Args:
        problems: Problem of each row, -1 for none, shape ``(rows,)``; the next two likewise by row.
        num_tokens: Scored tokens.
        has_score: Whether the row has a score.
        budget: Bytes that the text of the problems may take.
        bytes_per_token: Bytes of a token.
        seed: Seed of the choice.

    Returns:
        The rows of each chosen problem, and the number of tokens after which a trajectory is cut off, which is
        lowered as far as a dozen problems need it.
    """
    rows = np.flatnonzero(problems >= 0)
    rows = rows[np.argsort(problems[rows], kind="stable")]
    if not rows.size:
        return [], _TOKEN_LIMITS[0]
    starts = np.flatnonzero(np.diff(problems[rows], prepend=-1))
    ends = np.append(starts[1:], rows.size)
    scored = np.add.reduceat(has_score[rows].astype(np.int64), starts)
    # Only as many as fill the budget with the shortest texts: each of a million rows can be a problem.
    drawn = np.random.default_rng(seed).permutation(starts.size)
    drawn = drawn[np.argsort(-np.minimum(scored[drawn], 2), kind="stable")][: budget // _BYTES_PER_ROW + 1]
    candidates = [_spread(rows[starts[i] : ends[i]]) for i in drawn]
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


def _spread(rows: IntArray) -> IntArray:
    """At most ``MOST_CANDIDATES`` of the rows, evenly."""
    if rows.size <= MOST_CANDIDATES:
        return rows
    return rows[np.linspace(0, rows.size - 1, MOST_CANDIDATES).astype(np.int64)]


def _points(rows: ReportRows, chosen: IntArray) -> dict[str, Any]:
    scores, labels = rows.scores, rows.labels(chosen)
    distinct = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return {
        "row": chosen.tolist(),
        "teacher": rows.teacher_codes[chosen].tolist(),
        "problem": [distinct[label] for label in labels],
        "problemLabels": list(distinct),
        "rsr": [rounded(value) for value in scores.rsr[chosen]],
        "surprisal": [rounded(value) for value in scores.avg_surprisal[chosen]],
        "rank": [rounded(value) for value in scores.avg_rank[chosen]],
        "tokens": scores.num_tokens[chosen].astype(int).tolist(),
        "truncated": np.flatnonzero(scores.truncated[chosen]).tolist(),
    }


def _problems(rows: ReportRows, chosen: list[IntArray], reader: TrajectoryReader) -> Iterator[dict[str, Any]]:
    scores, codes = rows.scores, rows.problems.codes
    statuses = arrays.read_categories(rows.dataset, rows.columns.status)
    sizes = np.bincount(codes[codes >= 0])

    def numbers(row: int) -> dict[str, Any]:
        values = (scores.rsr[row], scores.avg_rank[row], scores.avg_surprisal[row])
        rsr, rank, surprisal = (rounded(value) if scores.has_score[row] else None for value in values)
        return {
            "row": int(row),
            "teacher": int(rows.teacher_codes[row]),
            "status": shown([*statuses.values, None][statuses.codes[row]]),
            "rsr": rsr,
            "rank": rank,
            "surprisal": surprisal,
            "numTokens": int(scores.num_tokens[row]),
        }

    for start in range(0, len(chosen), _PROBLEMS_AT_ONCE):
        some = chosen[start : start + _PROBLEMS_AT_ONCE]
        labels = rows.labels(np.array([problem[0] for problem in some]))
        for problem, label, (prompt, texts) in zip(some, labels, reader.read(some), strict=True):
            yield {
                "label": label,
                "prompt": prompt,
                "numCandidates": int(sizes[codes[problem[0]]]),
                "candidates": [numbers(row) | text for row, text in zip(problem, texts, strict=True)],
            }
