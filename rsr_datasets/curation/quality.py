"""Qualities of trajectories that need no student: the rule of LIMO, and whether the answer is right."""

import logging
import re
from collections.abc import Mapping

import numpy as np
from datasets import Dataset, Value

from ..reading.formats import find_format
from ..reading.messages import Turns
from ..reading.split import response_text
from ..tables.arrays import read_rows, replace_column, require_columns
from ..tables.columns import ScoreColumns
from ..tables.splits import require_dataset

logger = logging.getLogger(__name__)

# Self-verification, exploration, granularity; before these weighs the number of words.
_KEYWORDS = (("check", "verify"), ("perhaps", "might"), ("therefore", "since"))
_WEIGHTS = (0.30, 0.20, 0.25, 0.25)


def add_rule_based_quality(
    dataset: Dataset,
    *,
    quality_column: str = "rule_based_quality",
    turns: Turns = "all",
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """Adds the rule-based quality of LIMO (arXiv:2502.03387) as arXiv:2601.14249 states it in appendix B.2.

    Four indicators: the number of words (weight 0.30), and the number of the words *check* and *verify* (0.20),
    *perhaps* and *might* (0.25), *therefore* and *since* (0.25) as shares of all words. Each is standardised over the
    whole data set to mean 0 and standard deviation 1; the quality is their weighted sum, higher is better. The papers
    leave open the rest: words are runs of letters, digits and underscores, keywords count as whole words in any case,
    the deviation is that of the population, and an indicator that is the same everywhere counts 0.

    Args:
        dataset: The rows; they need not be scored. Values are relative to these rows: compute them before selecting.
        quality_column: The column to add, float64, null where the row has no response; one of that name is replaced.
        turns: Which assistant turns count.
        columns: Names of input columns, standard name first, as given to the scorer.

    Returns:
        The same rows with the column.

    Raises:
        ValueError: If no column holds trajectories.
        TypeError: If ``dataset`` is not a ``Dataset``.
    """
    texts = _responses(dataset, quality_column, turns, columns)
    counts = np.array([_word_counts(text or "") for text in texts], dtype=float).reshape(-1, len(_WEIGHTS))
    has_words = counts[:, 0] > 0
    quality = np.full(len(dataset), None)
    if has_words.any():
        counts = counts[has_words]
        indicators = np.column_stack([counts[:, 0], counts[:, 1:] / counts[:, :1]])
        same = np.ptp(indicators, axis=0) == 0
        z = (indicators - indicators.mean(axis=0)) / np.where(same, 1.0, indicators.std(axis=0))
        quality[has_words] = np.where(same, 0.0, z) @ np.array(_WEIGHTS)
    return replace_column(dataset, quality_column, quality.tolist(), Value("float64"))


def add_verified(
    dataset: Dataset,
    answer_column: str,
    *,
    verified_column: str = "verified",
    turns: Turns = "last",
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """Adds whether the final answer of each trajectory equals the known one, by Math-Verify.

    ``select_trajectories(..., correct="verified")`` takes the column. Needs the extra: ``rsr_datasets[verify]``.

    Args:
        dataset: The rows; they need not be scored.
        answer_column: Column with the right answer: text, in LaTeX or plain, or a number.
        verified_column: The column to add, bool; null where the row has no response, or no answer is known or can be
            read. One of that name is replaced.
        turns: Which assistant turns are searched for the answer.
        columns: Names of input columns, standard name first, as given to the scorer.

    Returns:
        The same rows with the column.

    Raises:
        ImportError: If Math-Verify is not installed.
        ValueError: If a column is missing.
        TypeError: If ``dataset`` is not a ``Dataset``.
    """
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise ImportError("add_verified needs Math-Verify: pip install 'rsr_datasets[verify]'") from error

    texts = _responses(dataset, verified_column, turns, columns)
    require_columns(dataset, [answer_column], ScoreColumns())
    found: list[bool | None] = []
    for text, answer in zip(texts, dataset.with_format(None)[answer_column], strict=True):
        gold = [] if answer is None else parse(_as_math(str(answer)))
        found.append(bool(verify(gold, parse(text))) if gold and text else None)
    if unknown := found.count(None):
        logger.warning("%d of %d rows have no response or no answer that can be read: null", unknown, len(dataset))
    return replace_column(dataset, verified_column, found, Value("bool"))


def _as_math(answer: str) -> str:
    """An answer as Math-Verify finds it in a text: as a formula, unless it is marked as one already."""
    return answer if re.search(r"\$|\\\(|\\\[|\\boxed", answer) else f"${answer}$"


def _word_counts(text: str) -> list[int]:
    words = re.findall(r"\w+", text.lower())
    return [len(words), *(sum(word in keywords for word in words) for keywords in _KEYWORDS)]


def _responses(dataset: Dataset, added: str, turns: Turns, columns: Mapping[str, str] | None) -> list[str | None]:
    row_format = find_format(require_dataset(dataset).column_names, columns)
    if added in row_format.names:
        raise ValueError(f"column {added!r} is read: give another name for the new one")
    batches = dataset.select_columns(row_format.names).with_format("arrow").iter(batch_size=1000)
    rows = (row for batch in batches for row in read_rows(batch, dataset.features))
    return [response_text(row, row_format, turns) for row in rows]
