"""How sure of the known answer a student becomes along a trajectory, and where it is sure enough to stop."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset, Features, List, Value
from datasets.utils import tqdm

from ..reading.formats import find_format
from ..reading.rows import EncodedRow
from ..reading.steps import step_ends, token_steps
from ..reading.templates import REASONING_KEYS
from ..reading.token_texts import split_text
from ..scoring.scorer import RSRScorer
from ..tables.arrays import read_rows

logger = logging.getLogger(__name__)

DEFAULT_CUE = "\n\nThe final answer is: "
SERIES = "answer_surprisals"
PROBED = "answer_probes"
GAIN = "confidence_gain"
ASCENDING = "ascending_share"
SHORTEST = "shortest_sufficient_prefix"

_ROWS_PER_BATCH = 64
_ASSISTANT = ("assistant", "gpt", "model")
_NOT_CONTENT = (*REASONING_KEYS, "tool_calls")

FloatArray = npt.NDArray[np.float64]


def answer_confidence(
    dataset: Dataset,
    scorer: RSRScorer,
    answer_column: str,
    *,
    max_probes: int = 16,
    threshold: float = 0.5,
    cue: str = DEFAULT_CUE,
) -> Dataset:
    """Asks the student for the known answer after each step of a trajectory, as PACR does (arXiv:2510.22255).

    A probe is the row up to the end of a step, the cue, and the answer, whose surprisal is summed over its tokens: the
    probability of the answer is exp of its negative. The first probe is before the first step, the last one after the
    last; steps are sentences and lines, and where there are more than fit, those probed are spread evenly. Columns:

    * ``<prefix>_answer_surprisals``: surprisal of the answer at each probe in nats, list of float32.
    * ``<prefix>_answer_probes``: how many steps stand before each probe, list of int32.
    * ``<prefix>_confidence_gain``: surprisal at the first probe minus that at the last, the sum of PACR's gains.
    * ``<prefix>_ascending_share``: share of the probes but the first at which the probability is higher than at the
      one before.
    * ``<prefix>_shortest_sufficient_prefix``: steps before the earliest probe from which on the probability stays
      above the threshold; null where it is not above it at the end. :func:`truncate_at` cuts there.

    All are null where the row cannot be scored or has no answer. The student reads each trajectory once, and then the
    probes, all in one pass; where its family does not allow that, or memory is short, each probe reads its prefix.

    Args:
        dataset: Rows of one of the formats that the scorer reads; they need not be scored.
        scorer: The student, its chat template and its limits. Its metrics are not used.
        answer_column: Column with the right answer, text or a number.
        max_probes: The most probes of a trajectory, at least 2.
        threshold: Probability, in (0, 1).
        cue: Text between the steps and the answer.

    Returns:
        The same rows with the columns; those of the same names are replaced.

    Raises:
        ValueError: If a column is missing or an argument is out of its range.
        TypeError: If ``dataset`` is not a ``Dataset``.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"expected a Dataset, found {type(dataset).__name__}")
    if isinstance(max_probes, bool) or not isinstance(max_probes, int) or max_probes < 2:
        raise ValueError(
            f"max_probes={max_probes!r}: must be at least 2, one before the first step and one at the end"
        )
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold}: must be in (0, 1)")
    if answer_column not in dataset.column_names:
        raise ValueError(f"answer_column={answer_column!r}: no such column; the dataset has {dataset.column_names}")
    row_format = scorer.find_format(dataset.column_names)
    source = dataset.select_columns(list({*row_format.names, answer_column})).with_format("arrow")
    columns: dict[str, list[Any]] = {name: [] for name in _types(scorer.score_columns.prefix)}
    start = 0
    with tqdm(total=len(dataset), unit="row", desc="Asking for the answers") as progress:
        for batch in source.iter(batch_size=_ROWS_PER_BATCH):
            rows = read_rows(batch, source.features)
            encoded = scorer.encode(rows, row_format, range(start, start + len(rows)))
            start += len(rows)
            answers = [row[answer_column] for row in rows]
            for values in _probe(scorer, encoded, answers, max_probes, math.log(1 / threshold), cue):
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
            progress.update(len(rows))
    kept = dataset.remove_columns([name for name in columns if name in dataset.column_names])
    for name, kind in _types(scorer.score_columns.prefix).items():
        kept = kept.add_column(name, columns[name], feature=kind)
    return kept


def truncate_at(dataset: Dataset, column: str, *, columns: Mapping[str, str] | None = None) -> Dataset:
    """Cuts trajectories after a number of steps, such as the shortest sufficient prefix.

    The text of the row's one response is cut where the step ends, without the white space after it. Scores of the row
    no longer belong to its text: score it again.

    Args:
        dataset: Rows of messages whose last one is the assistant's only one and holds nothing but content, of a prompt
            and a completion that are texts, or of Alpaca's columns.
        column: Column with the number of steps to keep; rows where it is null or 0 stay as they are, as do those with
            fewer steps.
        columns: Standard column name to actual name, as given to the scorer.

    Returns:
        The rows with their texts cut.

    Raises:
        ValueError: If a column is missing, or a row to cut has another form.
        TypeError: If ``dataset`` is not a ``Dataset``.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"expected a Dataset, found {type(dataset).__name__}")
    if column not in dataset.column_names:
        raise ValueError(f"column={column!r}: no such column; the dataset has {dataset.column_names}")
    row_format = find_format(dataset.column_names, columns)
    standard = {"prompt_completion": "completion", "alpaca": "output"}.get(row_format.kind, row_format.kind)
    target = row_format.columns[standard]

    def cut(row: Mapping[str, Any], index: int) -> dict[str, Any]:
        steps = row[column]
        return {target: _cut(row[target], int(steps), f"row {index}, column {target!r}") if steps else row[target]}

    truncated: Dataset = dataset.with_format(None).map(
        cut, with_indices=True, features=dataset.features, desc="Cutting trajectories"
    )
    return truncated.with_format(**dataset.format)


def _types(prefix: str) -> dict[str, Any]:
    kinds = {
        SERIES: List(Value("float32")),
        PROBED: List(Value("int32")),
        GAIN: Value("float64"),
        ASCENDING: Value("float64"),
        SHORTEST: Value("int32"),
    }
    return dict(Features({f"{prefix}_{name}": kind for name, kind in kinds.items()}))


def _probe(
    scorer: RSRScorer,
    encoded: Sequence[Any],
    answers: Sequence[Any],
    max_probes: int,
    sufficient: float,
    cue: str,
) -> list[tuple[Any, ...]]:
    """Column values of some rows."""
    tokenizer = scorer.load_tokenizer()
    cue_ids = _ids(tokenizer, cue)
    engine, _ = scorer._session.load_engine(scorer._options, scorer.placement)
    probes: list[EncodedRow] = []
    places: list[npt.NDArray[np.int64] | None] = []
    for row, answer in zip(encoded, answers, strict=True):
        answer_ids = _ids(tokenizer, str(answer).strip()) if answer is not None else cue_ids[:0]
        if not isinstance(row, EncodedRow) or not answer_ids.size:
            places.append(None)
            continue
        counts, ends = _prefixes(row, split_text(tokenizer, row.input_ids[row.positions].tolist()))
        chosen = np.unique(np.linspace(0, ends.size - 1, min(max_probes, ends.size)).round().astype(np.int64))
        asked = np.concatenate([cue_ids, answer_ids])
        longest = int(ends[chosen[-1]]) + asked.size - 1
        if longest > (engine.max_positions or longest):
            places.append(None)
            continue
        own = np.arange(asked.size - answer_ids.size, asked.size)
        probes += [EncodedRow(np.concatenate([row.input_ids[:end], asked]), own + end) for end in ends[chosen]]
        places.append(counts[chosen])
    found = iter(engine.score(probes) if probes else ())
    values: list[tuple[Any, ...]] = []
    for place in places:
        if place is None:
            values.append((None, None, None, None, None))
        else:
            sums = [next(found).surprisals.sum(dtype=np.float64) for _ in place]
            values.append(_summary(np.array(sums), place, sufficient))
    if unknown := sum(value[0] is None for value in values):
        logger.warning("%d of %d rows cannot be read up to the answer or have none: null", unknown, len(values))
    return values


def _summary(surprisals: FloatArray, place: npt.NDArray[np.int64], sufficient: float) -> tuple[Any, ...]:
    if not surprisals.size or not np.isfinite(surprisals).all():
        return None, None, None, None, None
    insufficient = np.flatnonzero(surprisals >= sufficient)
    first = int(insufficient[-1]) + 1 if insufficient.size else 0
    return (
        surprisals.astype(np.float32).tolist(),
        place.tolist(),
        float(surprisals[0] - surprisals[-1]),
        float((np.diff(surprisals) < 0).mean()) if surprisals.size > 1 else None,
        int(place[first]) if first < place.size else None,
    )


def _prefixes(row: EncodedRow, parts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The prefixes of a row, before its first scored token and after each step: their numbers of steps and tokens."""
    steps = token_steps(parts)
    last = np.flatnonzero(np.diff(steps, append=steps[-1] + 1))
    return np.concatenate([[0], steps[last] + 1]), np.concatenate([row.positions[:1], row.positions[last] + 1])


def _ids(tokenizer: Any, text: str) -> npt.NDArray[np.int64]:
    return np.array(tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)


def _cut(value: Any, steps: int, where: str) -> Any:
    if isinstance(value, str):
        ends = step_ends(value)
        return value[: ends[steps - 1]].rstrip() if steps < len(ends) else value
    written = [message for message in value or () if (message.get("role") or message.get("from")) in _ASSISTANT]
    if len(written) != 1 or written[0] is not value[-1] or any(written[0].get(key) for key in _NOT_CONTENT):
        raise ValueError(f"{where}: expected one assistant turn, at the end, that holds nothing but its content")
    key = "content" if written[0].get("content") is not None else "value"
    return [*value[:-1], {**written[0], key: _cut(written[0][key], steps, where)}]
