"""Values from data, written so that Markdown, HTML and Python show them and never obey them."""

import json
import math
import re
import string
import unicodedata
from collections.abc import Mapping
from typing import Any

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)

_LONGEST = 200
_TAME_CODE = re.compile(r"(?!.*(?:\]\(|\{[{%#]))[\w.,:;=/+*@%!?()\[\]{}'\" -]*", re.ASCII)
_TAME_TEXT = re.compile(
    r"(?!.*www\.)[a-z0-9](?:[a-z0-9 .,()/-]|(?<=[a-z0-9])_(?=[a-z0-9]))*", re.ASCII | re.IGNORECASE
)
_SPECIAL = str.maketrans({character: f"&#{ord(character)};" for character in string.punctuation})
_HARMFUL = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories of Unicode
_KEPT = {"\u200c", "\u200d", *map(chr, range(0xE0020, 0xE0080))}  # joiners and tags of emoji sequences and Persian


def text(value: Any) -> str:
    """A value as running text or a table's cell, on one line: punctuation that could be markup is escaped."""
    line = _one_line(value)
    return line if _TAME_TEXT.fullmatch(line) and not line.endswith(" ") else line.translate(_SPECIAL)


def code(value: Any) -> str:
    """A value as inline code, on one line."""
    line = _one_line(value)
    if _TAME_CODE.fullmatch(line) and line == line.strip() and line:
        return f"`{line}`"
    return f"<code>{line.translate(_SPECIAL)}</code>"


def python(value: Any) -> str:
    """A JSON value as a Python literal in ASCII, which can neither end a fenced block nor a comment."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{python(key)}: {python(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(python, value)) + "]"
    if isinstance(value, str):
        quoted = ascii(value).replace("`", "\\x60").replace("<", "\\x3c")
        return f'"{quoted[1:-1]}"' if quoted[0] == "'" and '"' not in quoted and "\\'" not in quoted else quoted
    return ascii(value)


def finite(value: Any) -> float | None:
    """A finite number as a float; ``None`` for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def number(value: Any) -> str:
    """A number with separators, a float with one digit; ``-`` for ``None`` and text for anything else."""
    if finite(value) is None:
        return "-" if value is None else text(value)
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def ratio(value: Any) -> str:
    """A number with three digits; ``-`` for ``None`` and text for anything else."""
    return number(value) if finite(value) is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share as a percentage; ``-`` for ``None``."""
    return "-" if value is None else f"{value:.1%}"


def fenced_json(value: Any) -> str:
    """A value as indented JSON that cannot end a fenced block."""
    return json.dumps(value, indent=2).replace("`", "\\u0060").replace("<", "\\u003c")


def listed(value: Any) -> list[Any]:
    """A list as it is, ``None`` as an empty one, and any other value alone in one."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _one_line(value: Any) -> str:
    """Spells out control characters, and characters that turn the text around them."""
    start = str(value)[: _LONGEST + 1]
    shown = "".join(c if c in _KEPT or unicodedata.category(c) not in _HARMFUL else f"\\u{ord(c):04x}" for c in start)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}\N{HORIZONTAL ELLIPSIS}"
