"""Trajectories cut after a number of steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from ..reading.formats import find_format
from ..reading.steps import step_ends
from ..reading.templates import REASONING_KEYS
from ..tables.columns import ScoreColumns, score_prefixes
from ..tables.splits import require_dataset

_ASSISTANT = ("assistant", "gpt", "model")


def truncate_at(dataset: Dataset, column: str, *, columns: Mapping[str, str] | None = None) -> Dataset:
    """Cuts trajectories after a number of steps, such as the shortest sufficient prefix.

    The text of the row's one response is cut where the step ends, without the white space after it. The score columns
    are removed, since scores of a row no longer belong to its text: score the rows again. Columns of
    :func:`answer_confidence` stay; they describe the whole trajectory.

    Args:
        dataset: Rows of messages whose last one is the assistant's only one and holds nothing but content, of a prompt
            and a completion that are texts, or of Alpaca's columns.
        column: Column with the number of steps to keep; rows where it is null or 0 stay as they are, as do those with
            fewer steps.
        columns: Standard column name to actual name, as given to the scorer.

    Returns:
        The rows with their texts cut, without score columns.

    Raises:
        ValueError: If a column is missing, or a row to cut has another form.
        TypeError: If ``dataset`` is not a ``Dataset``.
    """
    if column not in require_dataset(dataset).column_names:
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
    scored = [ScoreColumns(prefix) for prefix in score_prefixes(dataset.column_names)]
    stale = [name for name in dataset.column_names if any(names.is_any(name) for names in scored)]
    return truncated.with_format(**dataset.format).remove_columns(stale)


def _cut(value: Any, steps: int, where: str) -> Any:
    if isinstance(value, str):
        ends = step_ends(value)
        return value[: ends[steps - 1]].rstrip() if steps < len(ends) else value
    written = [message for message in value or () if (message.get("role") or message.get("from")) in _ASSISTANT]
    others = (*REASONING_KEYS, "tool_calls")
    if len(written) != 1 or written[0] is not value[-1] or any(written[0].get(key) for key in others):
        raise ValueError(f"{where}: expected one assistant turn, at the end, that holds nothing but its content")
    key = "content" if written[0].get("content") is not None else "value"
    return [*value[:-1], {**written[0], key: _cut(written[0][key], steps, where)}]
