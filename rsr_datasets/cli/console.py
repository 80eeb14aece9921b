"""What the commands print: tables on a terminal, plain text in a file or a pipe, JSON when asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def show_table(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Prints a table: framed on a terminal, in aligned columns elsewhere.

    Args:
        headers: Names of the columns; the first one is set to the left, the others, numbers, to the right.
        rows: Cells, as many a row as there are headers; data may hold anything, none of it is read as markup.
        title: A line above the table.
    """
    if sys.stdout.isatty():
        table = Table(title=escape(title) or None, title_justify="left", box=box.SIMPLE)
        for i, header in enumerate(headers):
            table.add_column(escape(header), justify="right" if i else "left")
        for row in rows:
            table.add_row(*(escape(_one_line(cell)) for cell in row))
        Console().print(table)
        return
    lines = [[_one_line(cell) for cell in row] for row in ([*headers], *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    if title:
        typer.echo(title)
    for first, *others in lines:
        numbers = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        typer.echo("  ".join([f"{first:<{widths[0]}}", *numbers]).rstrip())


def show_json(content: Mapping[str, Any]) -> None:
    """Prints one JSON object; NaN has become null before."""
    typer.echo(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))


def _one_line(text: str) -> str:
    """Without line breaks and control characters, which a terminal would obey."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
