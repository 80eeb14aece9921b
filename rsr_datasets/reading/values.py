"""Values as Arrow and JSON hold them."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from .rows import bad


def kind(value: Any) -> str:
    """The type of a value, for messages."""
    return "null" if value is None else type(value).__name__


def transpose(value: Any) -> Any:
    """`datasets` stores a `Sequence` of dicts as one dict of lists: turned back; anything else is as it was."""
    items = list(value.values()) if isinstance(value, Mapping) else []
    if not all(isinstance(item, list) for item in items) or len({len(item) for item in items}) != 1:
        return value
    return [dict(zip(value, parts, strict=True)) for parts in zip(*items, strict=True)]


def parse_json(value: Any, where: str) -> Any:
    """Values whose rows have different keys are often kept as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError:
        bad(f"{where}: text that is not JSON")


def json_value(text: Any, opening: str = "{") -> Any:
    """The value of JSON text that begins with one of the characters ``opening``; ``None`` for anything else."""
    if not isinstance(text, str) or not text.lstrip().startswith(tuple(opening)):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def without_nulls(value: Any, whole: Collection[str] = ()) -> Any:
    """Drops null keys, which Arrow fills in where rows have different ones; values of the keys ``whole`` stay."""
    if isinstance(value, Mapping):
        items = ((key, item) for key, item in value.items() if item is not None)
        return {key: item if key in whole else without_nulls(item, whole) for key, item in items}
    if isinstance(value, list | tuple):
        return [without_nulls(item, whole) for item in value]
    return value


def exact(value: Any, where: str) -> Any:
    """JSON text as it stands; of other values the null keys are dropped."""
    return parse_json(value, where) if isinstance(value, str) else without_nulls(value)


def read_kwargs(value: Any) -> dict[str, Any]:
    """Reads a row's own arguments of the chat template."""
    where = "column 'chat_template_kwargs'"
    kwargs = exact(value, where)
    if not isinstance(kwargs, Mapping | None):
        bad(f"{where}: expected a dict, found {kind(kwargs)}")
    return dict(kwargs or {})
