"""The HTML report: one file that shows what was scored, opened without a network or a server."""

import base64
import hashlib
import html
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from .. import __version__
from ..engines.transformers.probes import refusing
from ..engines.transformers.source import TransformersStudent
from ..reading.messages import Turns
from ..scoring.scorer import RSRScorer
from ..tables.columns import ScoreColumns
from ..utils.files import written_aside
from .rows import KeptRows, ReportRows
from .samples import draw_samples
from .summary import json_for_html, summarize

_MOST_BYTES = 4_800_000
# Each part uses those before it; pages without formulae have no KaTeX.
_KATEX = "katex.min.js"
_SCRIPTS = (
    "dom.js",
    _KATEX,
    "formulae.js",
    "teachers.js",
    "distributions.js",
    "diagnosis.js",
    "plots.js",
    "tokens.js",
    "trajectories.js",
    "search.js",
    "page.js",
)
_STYLES = ("page.css", "charts.css", "trajectories.css", "media.css")
_FORMULA = re.compile(r"(?<!\\)\$[^$]+\$|\\[(\[]|\\begin\{")


def build_report(
    scored: Dataset,
    output: str | os.PathLike[str],
    *,
    selected: Dataset | None = None,
    teacher_column: str | None = None,
    problem_column: str | None = None,
    correct: str | None = None,
    scorer: RSRScorer | None = None,
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None = None,
    max_points: int = 8_000,
    seed: int = 0,
    column_prefix: str = "rsr",
    title: str | None = None,
    turns: Turns = "all",
    columns: Mapping[str, str] | None = None,
    media_root: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes a page that concludes from scored trajectories, and shows teachers, scores, lengths and tokens.

    The page is a single HTML file under 5 MB that needs no network. Counts, ratios and distributions are those of all
    rows. At most ``max_points`` points are drawn, as many of each teacher; the page holds the text of as many
    problems as fit, with all their candidates, and says what was sampled. Equal arguments give the same bytes.

    Args:
        scored: Scored rows.
        output: The file to write; it appears under its name when it is complete.
        selected: The rows that were selected, for shares and ratios before and after; they are marked among all rows.
        teacher_column: Column with the teacher; ``None`` for ``"teacher"`` where there is one.
        problem_column: Column with the problem; ``None`` for ``"problem_id"`` where there is one, else each row is a
            problem of its own. ``"prompt"`` is the column of that name or, where there is none, the conversation
            before the first scored turn, which takes minutes for millions of rows.
        correct: Column of true and false that says which rows are correct, null for unknown; ``None`` for
            ``"is_correct"`` where there is one.
        scorer: The scorer of the rows, where the data does not say how they were scored; its tokenizer counts too.
        tokenizer: The student's tokenizer, or a Hub id, a folder or a ``.gguf`` file to load it from. With it, and
            the token columns (``token_columns=True``), trajectories are shown token by token, else as plain text.
        max_points: The most points in a plot, at most 20,000. Trajectories whose text is in the page are drawn too.
        seed: Seed of the samples and the bootstrap.
        column_prefix: The ``column_prefix`` given to the scorer.
        title: The page's title; ``None`` for one with the student's name.
        turns: Which assistant turns were scored.
        columns: Names of input columns, standard name first, as given to the scorer.
        media_root: The folder where relative paths of images begin, of which the page shows small ones; ``None`` for
            the one that scoring took, where known, else the working directory.

    Returns:
        The path of the file.

    Raises:
        ValueError: If ``output`` is a folder, an argument is out of range, a column is missing, there are more than
            200 teachers, the rows were scored with different settings, or ``scorer`` has other ones.
        TypeError: If ``scored`` or ``selected`` is not a ``Dataset``.
    """
    path = Path(output)
    if path.is_dir():
        raise ValueError(f"output={os.fspath(output)!r} is a folder; name the HTML file to write")
    if not 1 <= max_points <= 20_000:
        raise ValueError(f"max_points={max_points}: must be between 1 and 20,000")
    rows = ReportRows(
        scored,
        ScoreColumns(column_prefix),
        teacher_column,
        problem_column,
        correct,
        turns,
        columns,
        scorer,
        seed,
        media_root,
    )
    kept = None if selected is None else KeptRows(rows, selected)
    has_tokens = all(name in scored.column_names for name in rows.columns.token_types)
    named = tokenizer if tokenizer is not None or scorer is None else scorer.load_tokenizer()
    decoder = load_tokenizer(named) if named is not None and has_tokens else None
    about = f" for {rows.student}" if rows.student else " report"
    content = {"title": title or f"Rank-Surprisal Ratio{about}", "version": __version__, **summarize(rows, kept)}
    budget = _MOST_BYTES - len(_render(content)) - len(_asset(_KATEX))
    points, problems, limit = draw_samples(rows, kept, max_points, decoder, budget)
    has = {"hasText": rows.row_format is not None, "hasTokens": has_tokens, "hasTokenizer": named is not None}
    content |= {"points": points, "texts": {"problems": problems, "tokenLimit": limit, **has}}
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        aside.write_bytes(_render(content))
    return path


def _render(content: Mapping[str, Any]) -> bytes:
    has_formulae = any(_FORMULA.search(text) for text in _texts(content.get("texts", {}).get("problems", ())))
    scripts = [file for file in _SCRIPTS if has_formulae or file != _KATEX]
    values = {"title": html.escape(content["title"]), "data": json_for_html(content)}
    for name, files in {"style": _STYLES, "script": scripts}.items():
        text = "\n".join(_asset(file) for file in files)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        values |= {name: text, f"{name}_hash": f"sha256-{digest}"}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _asset("report.html")).encode("utf-8", "replace")


def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _texts(problems: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """All texts of trajectories in the page."""
    for problem in problems:
        for messages in (problem["prompt"], *(each.get("messages", ()) for each in problem["candidates"])):
            yield from (message["text"] for message in messages)
        yield from (each["tokens"]["text"] for each in problem["candidates"] if "tokens" in each)


def load_tokenizer(tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Loads a tokenizer, that of the base model for an adapter that has none; passes on a loaded tokenizer."""
    if not isinstance(tokenizer, str | os.PathLike):
        return tokenizer
    with refusing(f"tokenizer={os.fspath(tokenizer)!r} cannot be loaded"):
        return TransformersStudent(tokenizer).load_tokenizer()
