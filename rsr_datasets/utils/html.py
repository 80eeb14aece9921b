"""Results as small HTML tables, which notebooks show in place of a ``repr``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


def table(rows: Iterable[Sequence[Any]], *, head: Sequence[str] = (), caption: str = "") -> str:
    """An HTML table; everything in it is escaped.

    Args:
        rows: The cells of each row, shown as ``str`` has them.
        head: Names of the columns.
        caption: What the table shows.
    """
    parts = ["<table>"]
    if caption:
        parts.append(f"<caption>{escape(caption)}</caption>")
    if head:
        parts.append(f"<thead>{_row(head, 'th')}</thead>")
    return "".join([*parts, "<tbody>", *(_row(row, "td") for row in rows), "</tbody></table>"])


def _row(cells: Sequence[Any], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(str(cell))}</{tag}>' for cell in cells)}</tr>"
