"""How sure of the known answer a student becomes along a trajectory, and trajectories cut where it is sure."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, List, Value
from datasets.utils import tqdm
from transformers import PreTrainedTokenizerBase

from ..engines.base import TokenScores
from ..reading.formats import FORMATS, TOKENIZED, find_format
from ..reading.rows import EncodedRow
from ..reading.steps import split_text, step_ends, token_steps
from ..reading.templates import REASONING_KEYS
from ..scoring.scorer import RSRScorer
from ..tables.arrays import read_rows, replace_column, require_columns
from ..tables.columns import ScoreColumns, score_prefixes
from ..tables.splits import require_dataset

logger = logging.getLogger(__name__)

_COLUMNS = {
    "answer_surprisals": List(Value("float32")),
    "answer_probes": List(Value("int32")),
    "confidence_gain": Value("float64"),
    "ascending_share": Value("float64"),
    "shortest_sufficient_prefix": Value("int32"),
}
_NOTHING = (None,) * len(_COLUMNS)


def answer_confidence(
    dataset: Dataset,
    scorer: RSRScorer,
    answer_column: str,
    *,
    max_probes: int = 16,
    threshold: float = 0.5,
    cue: str = "\n\nThe final answer is: ",
) -> Dataset:
    """Asks the student for the known answer after each step of a trajectory, as PACR does (arXiv:2510.22255).

    A probe is the row up to the end of a step, the cue, and the answer, whose surprisal is summed over its tokens: the
    probability of the answer is exp of its negative. The first probe is before the first step, the last one after the
    last; steps are sentences and lines. Columns, null where the row or a probe cannot be read or there is no answer:

    * ``<prefix>_answer_surprisals``: surprisal of the answer at each probe in nats, list of float32.
    * ``<prefix>_answer_probes``: how many steps stand before each probe, list of int32.
    * ``<prefix>_confidence_gain``: surprisal at the first probe minus that at the last, the sum of PACR's gains.
    * ``<prefix>_ascending_share``: share of the probes after the first whose probability is higher than before.
    * ``<prefix>_shortest_sufficient_prefix``: steps before the earliest probe from which on the probability stays
      above the threshold; null where it is not above it at the end. :func:`truncate_at` cuts there.

    Args:
        dataset: Rows of one of the formats that the scorer reads; they need not be scored.
        scorer: The student, its chat template and its limits. Its metrics are not used.
        answer_column: Column with the right answer, text or a number.
        max_probes: The most probes of a trajectory, at least 2; where there are more steps, probes are spread evenly.
        threshold: Probability, in (0, 1).
        cue: Text between the steps and the answer.

    Returns:
        The same rows with the columns; those of the same names are replaced.

    Raises:
        ValueError: If a column is missing, an argument is out of its range, or the scorer reads each turn by itself.
        TypeError: If ``dataset`` is not a ``Dataset``.
    """
    if not isinstance(max_probes, int) or max_probes < 2:
        message = "must be at least 2, one before the first step and one at the end"
        raise ValueError(f"max_probes={max_probes!r}: {message}")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold}: must be in (0, 1)")
    require_columns(require_dataset(dataset), [answer_column], ScoreColumns())
    row_format, tokenizer = scorer.find_format(dataset.column_names), scorer.load_tokenizer()
    if scorer.settings["turns"] == "each" or row_format.kind == TOKENIZED:
        raise ValueError('the answer is asked for in one rendering of text: use turns="all" or turns="last"')
    source = dataset.select_columns(list({*row_format.names, answer_column})).with_format("arrow")
    values: list[Sequence[Any]] = []
    with tqdm(total=len(dataset), unit="row", desc="Asking for the answers") as progress:
        for batch in source.iter(batch_size=64):
            rows = read_rows(batch, source.features)
            encoded = scorer.encode(rows, row_format, range(len(values), len(values) + len(rows)))
            answers = ["" if row[answer_column] is None else str(row[answer_column]).strip() for row in rows]
            asked = [
                _probes(row, tokenizer, cue, text, max_probes) if isinstance(row, EncodedRow) and text else ([], [])
                for row, text in zip(encoded, answers, strict=True)
            ]
            found = iter(scorer.read_tokens([probe for _, probes in asked for probe in probes]))
            for steps, probes in asked:
                values.append(_summary(steps, [next(found) for _ in probes], math.log(1 / threshold)))
            progress.update(len(rows))
    if unknown := values.count(_NOTHING):
        logger.warning("%d of %d rows cannot be read up to the answer or have none: null", unknown, len(dataset))
    for i, (name, feature) in enumerate(_COLUMNS.items()):
        column = [row[i] for row in values]
        dataset = replace_column(dataset, f"{scorer.score_columns.prefix}_{name}", column, feature)
    return dataset


def _probes(
    row: EncodedRow, tokenizer: PreTrainedTokenizerBase, cue: str, answer: str, max_probes: int
) -> tuple[list[int], list[EncodedRow]]:
    """The steps before each probe, and the probe as a row: what stands before, the cue and the answer."""
    cue_ids, answer_ids = (tokenizer.encode(text, add_special_tokens=False) for text in (cue, answer))
    asked = np.array([*cue_ids, *answer_ids], dtype=np.int64)
    steps = token_steps(split_text(tokenizer, row.input_ids[row.positions].tolist()))
    last = np.flatnonzero(np.diff(steps, append=steps[-1] + 1))
    counts, ends = np.append(0, steps[last] + 1), np.append(row.positions[0], row.positions[last] + 1)
    chosen = np.unique(np.linspace(0, ends.size - 1, min(max_probes, ends.size)).round().astype(np.int64))
    scored = np.arange(len(cue_ids), asked.size)
    probes = [
        EncodedRow(np.concatenate([row.input_ids[:end], asked]), end + scored, **row.shown(0, end))
        for end in ends[chosen]
    ]
    return counts[chosen].tolist(), probes


def _summary(steps: Sequence[int], probes: Sequence[TokenScores | None], sufficient: float) -> Sequence[Any]:
    """The values of a row's columns, from the scores of its answer."""
    surprisals = np.array([math.nan if found is None else found.surprisals.sum(dtype=float) for found in probes])
    if not surprisals.size or not np.isfinite(surprisals).all():
        return _NOTHING
    insufficient = np.flatnonzero(surprisals >= sufficient)
    first = int(insufficient[-1]) + 1 if insufficient.size else 0
    return (
        surprisals.astype(np.float32).tolist(),
        steps,
        float(surprisals[0] - surprisals[-1]),
        float((np.diff(surprisals) < 0).mean()) if surprisals.size > 1 else None,
        steps[first] if first < len(steps) else None,
    )


def truncate_at(dataset: Dataset, column: str, *, columns: Mapping[str, str] | None = None) -> Dataset:
    """Cuts trajectories after a number of steps, such as the shortest sufficient prefix.

    The text of the row's one response is cut where the step ends, without the white space after it. Score columns are
    removed, since scores no longer belong to the text: score the rows again. Columns of :func:`answer_confidence`
    stay; they describe the whole trajectory.

    Args:
        dataset: Rows of messages whose last one is the assistant's only one and holds nothing but content, of a prompt
            and a completion that are texts, or of Alpaca's columns.
        column: Column with the number of steps to keep; null or 0 keeps all, as does a number of more steps than there
            are.
        columns: Names of input columns, standard name first, as given to the scorer.

    Returns:
        The rows with their texts cut, without score columns.

    Raises:
        ValueError: If a column is missing, or a row to cut has another form.
        TypeError: If ``dataset`` is not a ``Dataset``.
    """
    require_columns(require_dataset(dataset), [column], ScoreColumns())
    row_format = find_format(dataset.column_names, columns)
    target = row_format.columns[FORMATS[row_format.kind][-1]]

    def cut(row: Mapping[str, Any], index: int) -> dict[str, Any]:
        steps = row[column]
        return {target: _cut(row[target], int(steps), f"row {index}, column {target!r}") if steps else row[target]}

    truncated: Dataset = dataset.with_format(None).map(
        cut, with_indices=True, features=dataset.features, desc="Cutting trajectories"
    )
    scored = [ScoreColumns(prefix) for prefix in score_prefixes(dataset.column_names)]
    stale = [name for name in dataset.column_names if any(names.is_any(name) for names in scored)]
    return truncated.with_format(**dataset.format).remove_columns(stale)


def _cut(value: Any, steps: int, where: str) -> Any:
    if isinstance(value, str):
        ends = step_ends(value)
        return value[: ends[steps - 1]].rstrip() if steps < len(ends) else value
    roles = ("assistant", "gpt", "model")
    written = [message for message in value or () if (message.get("role") or message.get("from")) in roles]
    others = (*REASONING_KEYS, "tool_calls")
    if len(written) != 1 or written[0] is not value[-1] or any(written[0].get(key) for key in others):
        raise ValueError(f"{where}: expected one assistant turn, at the end, that holds nothing but its content")
    key = "content" if written[0].get("content") is not None else "value"
    return [*value[:-1], {**written[0], key: _cut(written[0][key], steps, where)}]
