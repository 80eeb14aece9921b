"""What the commands print: tables in aligned columns, or JSON when asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import typer


def show_table(lines: Sequence[Sequence[str]]) -> None:
    """Prints lines of cells in aligned columns, the first one set to the left, the others, numbers, to the right.

    Line breaks and control characters, which a terminal would obey, are replaced.
    """
    shown = [[_printable(cell) for cell in line] for line in lines]
    first, *others = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for name, *numbers in shown:
        cells = [f"{cell:>{width}}" for cell, width in zip(numbers, others, strict=True)]
        typer.echo("  ".join([f"{name:<{first}}", *cells]).rstrip())


def show_json(content: Mapping[str, Any]) -> None:
    """Prints one JSON object; NaN has become null before."""
    typer.echo(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def fail(message: str, code: int) -> NoReturn:
    """Ends the command with an exit code, and one line on stderr that says why."""
    typer.echo(f"rsr-datasets: {' '.join(message.split())}", err=True)
    sys.exit(code)
