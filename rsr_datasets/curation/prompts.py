"""Rows grouped by their problem: a key column, or the conversation before the first scored turn."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from ..reading.formats import find_format
from ..reading.messages import Turns
from ..reading.rows import UnscorableRowError
from ..reading.split import read_prompt
from ..tables.arrays import read_rows, require_columns
from ..tables.columns import ScoreColumns
from ..tables.groups import Groups, densify, digest, digests, group_by_columns


def group_problems(
    dataset: Dataset, group_by: str | Sequence[str], turns: Turns = "all", columns: Mapping[str, str] | None = None
) -> tuple[Groups, list[str]]:
    """Groups rows by a column, by several, or by ``"prompt"``; names the columns, none where prompts tell problems."""
    keys = [group_by] if isinstance(group_by, str) else list(group_by)
    if not keys:
        raise ValueError("group_by=[]: name at least one column")
    if keys == ["prompt"] and "prompt" not in dataset.column_names:
        return group_by_prompt(dataset, turns, columns), []
    require_columns(dataset, keys, ScoreColumns())
    return group_by_columns(dataset, keys), keys


def group_by_prompt(dataset: Dataset, turns: Turns = "all", columns: Mapping[str, str] | None = None) -> Groups:
    """Groups rows by the conversation before the first scored turn; a row that cannot be read is in no group."""
    row_format = find_format(dataset.column_names, columns)
    if row_format.kind == "text":
        raise ValueError(f"group_by='prompt': column {row_format.names[0]!r} has no prompt apart; name a key column")

    def digest_of(row: Mapping[str, Any]) -> bytes | None:
        try:
            prompt, *images = read_prompt(row, row_format, turns)
            return digest([prompt, images] if images else prompt)
        except UnscorableRowError:
            return None

    features = dataset.features
    keys = digests(dataset, row_format.names, lambda batch: [digest_of(row) for row in read_rows(batch, features)])
    return densify(keys)
