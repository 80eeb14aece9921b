"""Values, names and tables as texts that people read."""

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any


def shorten(value: Any, most: int = 60) -> str:
    """A value as text that fits beside others."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shorten_list(names: Iterable[Any], most: int = 120) -> str:
    """The first of some names, as many as fit into ``most`` characters, and how many more there are."""
    shown = [shorten(name, 40) for name in names]
    fitting = next((k for k in range(len(shown), 0, -1) if len(", ".join(shown[:k])) <= most), min(1, len(shown)))
    return f"[{', '.join(shown[:fitting])}{f', and {len(shown) - fitting} more' if fitting < len(shown) else ''}]"


def did_you_mean(name: Any, known: Iterable[Any]) -> str:
    """The known name that is most like one that is not known, as a question in brackets; nothing where none is."""
    by_case = {str(each).lower(): each for each in known}
    like = difflib.get_close_matches(str(name).lower(), by_case, n=1)
    return f" (did you mean {shorten(by_case[like[0]])}?)" if like else ""


def dashed(value: float | None, form: str) -> str:
    """A number in a format such as ``".3f"``; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:{form}}"


def interval(low: float, high: float, form: str) -> str:
    """Two ends in brackets; a dash where there is no interval."""
    return "-" if math.isnan(low) else f"[{low:{form}}, {high:{form}}]"


def text_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Lines of aligned cells: the first column to the left, the others to the right."""
    lines = [head, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )
