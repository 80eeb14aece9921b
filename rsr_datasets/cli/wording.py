"""Messages of the Python functions as a command line says them: on one short line, arguments as flags."""

import ast
import json
import logging
import re
import shlex
from collections.abc import Collection
from typing import Any

LONGEST_LINE = 400
_LONGEST_LIST = 120
_SCORER_CALL = re.compile(r"(?:dataset\.map\()?RSRScorer\(student(?:, ([^()]*))?\)(?:, batched=True\))?")
_PYTHON_CALL = r"\b(?:rescore|score_dataset)\([^()]*\)"
_IN_HELP = (
    (r"\bNone(?: or True)? is\b", "the default is"),
    (r"\bNone (for|to|where)\b", r"leave it out \1"),
    (r"\ba scorer\b", "--student"),
    (r"\bthe scorer\b", "score"),
    (r"\b(?:rsr_datasets\.)?select_trajectories\b", "select"),
    (r"\b(?:rsr_datasets\.)?score_dataset\b", "score"),
)
_LIST = re.compile(r"\[((?:'[^']*'|\"[^\"]*\"|[^\[\]'\"])*)\]")


def one_line(text: str) -> str:
    """A message on one line of at most ``LONGEST_LINE`` characters: long lists are cut first, then the middle."""
    text = " ".join(text.split())
    if len(text) > LONGEST_LINE:
        text = _LIST.sub(_shorter_list, text)
    half = (LONGEST_LINE - 3) // 2
    return text if len(text) <= LONGEST_LINE else f"{text[:half]} … {text[-half:]}"


def in_flags(text: str, names: Collection[str]) -> str:
    """A message with ``name=value`` as ``--name value``, for the names of options; other words stay."""
    text = text.replace("scorer= with the RSRScorer that scored them", "--student and what else score was given")
    text = _SCORER_CALL.sub(lambda call: f"rsr-datasets score {call[1] or ''}".rstrip(), text)
    choice = "|".join(sorted(names, key=len, reverse=True))
    options = re.compile(rf"{_PYTHON_CALL}|(?<![\w'\"{{.-])({choice})(=|(?![\w'\"(:.]))")
    said, position = "", 0
    while found := options.search(text, position):
        end = found.end()
        flag = f"--{found[1].replace('_', '-')}" if found[1] else f"in Python {found[0]}"
        if found[2]:
            value, end = _read_value(text, end)
            flag = _with_value(flag, value)
        elif found[1] and "_" not in found[1]:  # a word like others, such as "turns"
            flag = found[1]
        said += text[position : found.start()] + flag
        position = end
    return said + text[position:]


def help_in_flags(text: str, names: Collection[str]) -> str:
    """The meaning of an argument as the meaning of a flag: without Python's values and functions."""
    for words, said in _IN_HELP:
        text = re.sub(words, said, text)
    return in_flags(text, names)


class FlagsFormatter(logging.Formatter):
    """Warnings as the command line says them."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def format(self, record: logging.LogRecord) -> str:
        """Gives the message of a record."""
        return one_line(in_flags(record.getMessage(), self.names))


def _read_value(text: str, start: int) -> tuple[Any, int]:
    """The Python value that stands in a text, or the word, and where it ends."""
    if text[start : start + 1] in ("'", '"', "[", "{", "("):
        for end in (i + 1 for i in range(start + 1, len(text)) if text[i] in "'\")]}"):
            try:
                return ast.literal_eval(text[start:end]), end
            except (ValueError, SyntaxError):
                continue
        return text[start], start + 1  # no value, or one that is cut off
    word = re.compile(r"(?:[\w.+-]*\w)?").match(text, start)
    end = word.end() if word else start
    return {"True": True, "False": False, "None": None}.get(text[start:end], text[start:end]), end


def _with_value(flag: str, value: Any) -> str:
    if isinstance(value, bool) or value in (None, ""):
        return flag if value is not False else f"no {flag}"
    values = value if isinstance(value, list | tuple) else [value]
    texts = (json.dumps(each, ensure_ascii=False) if isinstance(each, dict) else str(each) for each in values)
    return " ".join(f"{flag} {shlex.quote(text)}" for text in texts)


def _shorter_list(found: re.Match[str]) -> str:
    items, kept = found[1].split(", "), 0
    while kept < len(items) and len(", ".join(items[: kept + 1])) <= _LONGEST_LIST:
        kept += 1
    rest = len(items) - kept
    return f"[{', '.join([*items[:kept], f'… {rest} more'])}]" if rest else found[0]
