"""Static figures of scores with matplotlib, which the ``report`` extra installs; it is imported when one is drawn.

Figures are made without ``pyplot``: nothing is registered globally, and no window opens. Colours are those of Okabe
and Ito, with a marker shape beside each. Names and texts are data: they are never read as mathematics or TeX.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from ..metrics import DEFAULT_RANK_CLIP
from ..tables import arrays
from ..tables.columns import ScoreColumns
from ..teachers.dataset_rsr import DatasetRSR
from .plotting import (
    SERIES_DARK,
    SERIES_LIGHT,
    iso_levels,
    log_limits,
    ratio_range,
    read_scored_rows,
    round_levels,
    sample_evenly,
    series_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_LONGEST_LABEL = 44

# Installed ones of these stand in for the characters that matplotlib's own font lacks.
_FALLBACK_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Arial Unicode MS",
    "WenQuanYi Zen Hei",
)


@dataclass(frozen=True)
class _Theme:
    """Colours of a figure; ``series`` tell data apart, ``low`` and ``high`` are the two sides of neutral."""

    background: str
    text: str
    muted: str
    grid: str
    series: tuple[str, ...]
    low: str
    high: str


_LIGHT = _Theme("#ffffff", "#1b1f24", "#5b6470", "#dfe3e8", SERIES_LIGHT, "#0072b2", "#d55e00")
_DARK = _Theme("#14171c", "#e8eaed", "#a3abb6", "#333a44", SERIES_DARK, "#3d9fe0", "#f07a2b")


def plot_teachers(
    before: Mapping[Any, DatasetRSR | float],
    after: Mapping[Any, DatasetRSR | float] | None = None,
    *,
    dark: bool = False,
) -> Figure:
    """Draws teachers by their dataset-level RSR (arXiv:2601.14249, Eq. 9), the lowest at the top.

    Args:
        before: Teacher to its result, from :func:`rsr_datasets.dataset_rsr` with ``group_by=``, drawn with its
            interval; or to a plain number, drawn as a dot. A teacher without a ratio (NaN) comes last, with no dot.
        after: The same after a selection, drawn as a second, hollow dot. Teachers that it lacks were not selected.
        dark: Draw on a dark background.

    Returns:
        The figure, as high as the teachers need; ``figure.savefig(path)`` writes it.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no teacher.
    """
    if not before and not after:
        raise ValueError("before={}: no teacher to draw")
    theme = _DARK if dark else _LIGHT
    results = {name: _interval(value) for name, value in before.items()}
    later = {name: _interval(value) for name, value in (after or {}).items()}
    names = sorted({**results, **later}, key=lambda name: _sort_key(results.get(name, later.get(name))))
    figure, axes = _new_figure(theme, 7.2, 1.3 + 0.3 * len(names))

    offset = 0.14 if after else 0.0
    for shift, values, marker, color, filled in (
        (-offset, results, "o", theme.series[0], True),
        (offset, later, "D", theme.series[1], False),
    ):
        for name, (point, low, high) in values.items():
            place = names.index(name)
            axes.plot([low, high], [place + shift] * 2, color=color, linewidth=1.6, solid_capstyle="round", zorder=2)
            face = color if filled else theme.background
            axes.plot([point], [place + shift], marker, color=color, markerfacecolor=face, markersize=6, zorder=3)
    for place, name in enumerate(names):
        if all(math.isnan(values.get(name, _NOTHING)[0]) for values in (results, later)):
            where = axes.get_yaxis_transform()
            axes.text(0.02, place, "no scored trajectory", transform=where, color=theme.muted, size=8.5, va="center")

    axes.set_yticks(range(len(names)))
    axes.set_yticklabels([_label(name) for name in names])
    for tick_label in axes.get_yticklabels():
        _plain(tick_label)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("dataset-level RSR (lower suits the student better)")
    if after is not None:
        from matplotlib.lines import Line2D

        first, second = theme.series[:2]
        handles = [
            Line2D([], [], marker="o", linestyle="", color=first),
            Line2D([], [], marker="D", linestyle="", color=second, markerfacecolor=theme.background),
        ]
        _legend(axes, theme, handles, ["before the selection", "after it"], columns=2)
    return figure


def plot_plane(
    dataset: Dataset,
    *,
    color_by: str | None = "teacher",
    column_prefix: str = "rsr",
    sample: int | None = 5_000,
    seed: int = 0,
    dark: bool = False,
) -> Figure:
    """Draws trajectories by average surprisal and average clipped rank, with lines of equal RSR.

    RSR is the ratio of the two (arXiv:2601.14249, Eq. 7), so that on logarithmic axes each ratio is a straight line:
    the farther to the lower right a trajectory lies, the better it suits the student.

    Args:
        dataset: Scored rows; those without a score are left out.
        color_by: Column whose values are told apart by colour and shape; ``None`` for none.
        column_prefix: The scorer's ``column_prefix``.
        sample: The most trajectories to draw, as many of each value of ``color_by``; ``None`` for all.
        seed: Of the sample.
        dark: Draw on a dark background.

    Returns:
        The figure. Trajectories far away from all others are drawn at the edge, and how many is said.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If a column is missing, no row has a score, or rows were scored with different settings.
        TypeError: If ``dataset`` is not a ``Dataset``.
    """
    columns = ScoreColumns(column_prefix)
    scores = read_scored_rows(dataset, columns)
    if color_by is not None:
        arrays.require_columns(dataset, [color_by], columns)
    scored = np.flatnonzero(scores.has_score)
    if not scored.size:
        raise ValueError(f"column {columns.rsr!r}: none of the {len(dataset)} rows has a score to draw")
    series = arrays.read_categories(dataset, color_by) if color_by else None
    codes = series.codes if series else np.zeros(len(dataset), dtype=np.int32)
    rows = sample_evenly(scored, codes[scored], scored.size if sample is None else sample, seed)

    theme = _DARK if dark else _LIGHT
    present = [int(code) for code in np.unique(codes[scored])]
    figure, axes = _new_figure(theme, 7.2, 5.0)
    x_limits, y_limits = (log_limits(values[scored]) for values in (scores.avg_surprisal, scores.avg_rank))
    _log_axis(axes, "x", x_limits)
    _log_axis(axes, "y", y_limits)
    _draw_iso_lines(axes, theme, iso_levels(scores.rsr[scored]), x_limits, y_limits)

    x = np.clip(scores.avg_surprisal[rows], *x_limits)
    y = np.clip(scores.avg_rank[rows], *y_limits)
    alpha = float(np.clip(30 / math.sqrt(rows.size), 0.25, 0.9))
    handles: list[dict[str, Any]] = []
    for index, code in enumerate(present):
        color, shape = series_style(index)
        style: dict[str, Any] = {"marker": _SHAPES[shape], "color": theme.series[color], "linestyle": ""}
        chosen = codes[rows] == code
        axes.plot(x[chosen], y[chosen], alpha=alpha, markersize=4, markeredgewidth=0.8, zorder=3, **style)
        handles.append(style)
    if series and len(present) > 1:
        from matplotlib.lines import Line2D

        names = [series.values[code] if code >= 0 else None for code in present]
        columns_of_legend = 3 if max(len(_label(name)) for name in names) < 26 else 2
        _legend(axes, theme, [Line2D([], [], markersize=6, **style) for style in handles], names, columns_of_legend)
        figure.set_figheight(5.0 + 0.2 * math.ceil(len(names) / columns_of_legend))

    axes.set_xlabel("average surprisal (nats per token)")
    axes.set_ylabel(f"average rank, clipped at {scores.rank_clip}")
    notes = [] if rows.size == scored.size else [f"{rows.size:,} of {scored.size:,} trajectories drawn"]
    outside = (scores.avg_surprisal[rows] != x) | (scores.avg_rank[rows] != y)
    notes += [f"{int(outside.sum()):,} beyond the axes, drawn at the edge"] if outside.any() else []
    if notes:
        axes.set_title("; ".join(notes), loc="left", color=theme.muted, size=8.5)
    return figure


def plot_tokens(
    scores: Mapping[str, Any],
    tokens: Sequence[str],
    *,
    neutral: float | None = None,
    rank_clip: int = DEFAULT_RANK_CLIP,
    column_prefix: str = "rsr",
    max_tokens: int = 600,
    width: int = 88,
    dark: bool = False,
) -> Figure:
    """Draws a trajectory's tokens as text, each coloured by its own RSR: its clipped rank over its surprisal.

    Tokens under the neutral ratio lower the trajectory's RSR, those above raise it. Text runs from left to right in
    columns of one width, whatever its script; the page of :func:`rsr_datasets.report.build_report` sets it properly.

    Args:
        scores: A row of a data set that was scored with ``token_columns=True``, or any mapping with the ranks and the
            surprisals (nats) of its tokens under the names of those columns.
        tokens: Text of each token, as from :func:`rsr_datasets.reading.token_texts.split_text`.
        neutral: The ratio that has no colour; ``None`` for that of the whole trajectory.
        rank_clip: ``r_max``; greater ranks count as this one.
        column_prefix: The scorer's ``column_prefix``.
        max_tokens: Tokens to draw; the figure says what it leaves out.
        width: Characters on a line.
        dark: Draw on a dark background.

    Returns:
        The figure, as high as the text needs.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If a token column is missing or null, there are no tokens, or their numbers differ.
    """
    columns = ScoreColumns(column_prefix)
    ranks, surprisals = (_token_values(scores, name) for name in (columns.token_ranks, columns.token_surprisals))
    if not len(tokens) == ranks.size == surprisals.size or not ranks.size:
        raise ValueError(f"tokens: {len(tokens)} texts for {ranks.size} ranks and {surprisals.size} surprisals")
    clipped = np.minimum(ranks, rank_clip)
    if neutral is None:
        neutral = float(clipped.sum() / surprisals.sum()) if surprisals.sum() > 0 else 1.0
    low, high = ratio_range(neutral)
    with np.errstate(divide="ignore"):
        ratios = np.clip(clipped / surprisals, low, high)

    theme = _DARK if dark else _LIGHT
    pieces, lines = _lay_out(tokens[:max_tokens], width)
    figure, axes = _new_figure(theme, width * _CELL_WIDTH + 0.4, lines * _LINE_HEIGHT + 1.1)
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.patches import Rectangle

    colormap = ListedColormap([_token_color(theme, ratio, neutral) for ratio in np.geomspace(low, high, 256)])
    norm = LogNorm(low, high)
    for token, line, column, cells, text in pieces:
        color = colormap(norm(ratios[token]))
        axes.add_patch(Rectangle((column, line), cells, 1, facecolor=color, linewidth=0))
        if text.strip():
            glyphs = axes.text(
                column, line + 0.72, _printable(text), family="monospace", size=_FONT_SIZE, color=theme.text
            )
            _plain(glyphs)
    axes.set(xlim=(0, width), ylim=(lines, 0))
    axes.set_axis_off()
    bar = figure.colorbar(ScalarMappable(norm, colormap), ax=axes, orientation="horizontal", aspect=60, pad=0.02)
    levels = round_levels(low, high, 7)
    bar.set_ticks(levels, labels=[f"{level:g}" for level in levels], color=theme.text, size=8.5)
    bar.minorticks_off()
    bar.ax.tick_params(color=theme.muted)
    bar.outline.set_visible(False)
    shown = "" if len(tokens) <= max_tokens else f"; the first {max_tokens:,} of {len(tokens):,} tokens"
    bar.set_label(f"token-level RSR; no colour at {neutral:.2f}{shown}", color=theme.text, size=9)
    return figure


# Marker shapes in the order of series_style.
_SHAPES = ("o", "s", "^", "D", "v", "P", "X")

_FONT_SIZE = 9.0
_CELL_WIDTH = 0.602 * _FONT_SIZE / 72  # inches that a character of matplotlib's monospaced font advances
_LINE_HEIGHT = 1.5 * _FONT_SIZE / 72
_TAB = 4
_NOTHING = (math.nan, math.nan, math.nan)


def _interval(value: DatasetRSR | float) -> tuple[float, float, float]:
    if isinstance(value, DatasetRSR):
        return value.value, value.low, value.high
    return float(value), math.nan, math.nan


def _sort_key(result: tuple[float, float, float] | None) -> tuple[bool, float]:
    rsr = result[0] if result else math.nan
    return (True, 0.0) if math.isnan(rsr) else (False, rsr)


def _new_figure(theme: _Theme, width: float, height: float) -> tuple[Figure, Axes]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'rsr_datasets[report]'") from error
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor=theme.background)
    axes = figure.add_subplot(facecolor=theme.background)
    axes.set_axisbelow(True)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.grid(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    axes.tick_params(which="both", colors=theme.muted, labelcolor=theme.text, labelsize=9)
    axes.xaxis.label.set(color=theme.text, size=9.5)
    axes.yaxis.label.set(color=theme.text, size=9.5)
    return figure, axes


def _legend(axes: Axes, theme: _Theme, handles: Sequence[Any], names: Sequence[Any], columns: int) -> None:
    # Labels are set afterwards: matplotlib leaves out those that begin with an underscore.
    legend = axes.figure.legend(
        handles,
        [str(i) for i in range(len(names))],
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=theme.text,
        handletextpad=0.4,
        columnspacing=1.2,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(_label(name))
        _plain(text)


def _label(name: Any) -> str:
    """A name on one line, without control characters, its middle left out where it is long."""
    text = _printable("(none)" if name is None else " ".join(str(name).split()))
    if len(text) <= _LONGEST_LABEL:
        return text or " "
    half = _LONGEST_LABEL // 2
    return f"{text[:half]}…{text[-half + 1 :]}"


def _printable(text: str) -> str:
    """Text without what XML cannot hold: control characters and halves of surrogate pairs."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def _plain(text: Text) -> None:
    """Has a text shown as it stands, in fonts that have its characters."""
    from matplotlib.font_manager import fontManager

    text.set_parse_math(False)
    text.set_usetex(False)
    if not text.get_text().isascii():
        installed = set(fontManager.get_font_names())
        text.set_fontfamily([*text.get_fontfamily(), *(font for font in _FALLBACK_FONTS if font in installed)])


def _log_axis(axes: Axes, which: str, limits: tuple[float, float]) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log", f"{which}lim": limits})
    levels = round_levels(*limits, 8)
    axis.set_major_locator(FixedLocator(levels))
    axis.set_major_formatter(FixedFormatter([f"{level:g}" for level in levels]))
    axis.set_minor_locator(NullLocator())


def _draw_iso_lines(
    axes: Axes, theme: _Theme, levels: Sequence[float], x_limits: tuple[float, float], y_limits: tuple[float, float]
) -> None:
    for level in levels:
        axes.plot(
            x_limits,
            [level * x for x in x_limits],
            color=theme.muted,
            alpha=0.7,
            linewidth=0.7,
            dashes=(4, 3),
            zorder=1,
        )
        end = min(x_limits[1], y_limits[1] / level)
        if end <= x_limits[0]:
            continue
        leaves_at_top = end < x_limits[1]
        axes.annotate(
            f"{level:g}",
            (end, level * end),
            xytext=(0, 3) if leaves_at_top else (4, 0),
            textcoords="offset points",
            ha="center" if leaves_at_top else "left",
            va="bottom" if leaves_at_top else "center",
            color=theme.muted,
            size=8.5,
            annotation_clip=False,
        )
    axes.annotate(
        "RSR", (1, 1), xycoords="axes fraction", xytext=(4, 3), textcoords="offset points", color=theme.muted, size=8.5
    )


def _token_values(scores: Mapping[str, Any], name: str) -> npt.NDArray[np.float64]:
    if scores.get(name) is None:
        raise ValueError(f"column {name!r}: no values; score the row with RSRScorer(..., token_columns=True)")
    return np.asarray(scores[name], dtype=np.float64)


def _token_color(theme: _Theme, ratio: float, neutral: float) -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    low, high = ratio_range(neutral)
    end = low if ratio < neutral else high
    strength = 0.55 * abs(math.log(ratio / neutral) / math.log(end / neutral))
    pair = zip(to_rgb(theme.background), to_rgb(theme.low if ratio < neutral else theme.high), strict=True)
    return tuple((1 - strength) * base + strength * color for base, color in pair)


def _lay_out(tokens: Sequence[str], width: int) -> tuple[list[tuple[int, int, int, int, str]], int]:
    """Puts tokens on lines of fixed width: (token, line, first column, columns, text) of each piece, and the lines."""
    pieces: list[tuple[int, int, int, int, str]] = []
    line = column = 0
    for index, token in enumerate(tokens):
        text, first = "", column
        for character in token:
            cells = _cells(character)
            if character == "\n" or column + cells > width:
                # A line break is shown as a cell of its own, so that its colour is seen.
                end = column + 1 if character == "\n" and column < width else column
                pieces.append((index, line, first, end - first, text))
                line, column, first, text = line + 1, 0, 0, ""
            if character == "\n":
                continue
            text += " " * cells if character == "\t" else character
            column += cells
        if column > first:
            pieces.append((index, line, first, column - first, text))
    return [piece for piece in pieces if piece[3] > 0], line + 1


def _cells(character: str) -> int:
    if character == "\t":
        return _TAB
    if unicodedata.combining(character) or unicodedata.category(character) == "Cf":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
