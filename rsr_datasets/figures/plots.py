"""Static figures with matplotlib, which is imported when drawing, and without ``pyplot``, which registers figures."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from datasets import Dataset

from ..tables import arrays
from ..tables.columns import DEFAULT_TEACHER_COLUMN, ScoreColumns
from ..teachers.dataset_rsr import DatasetRSR
from . import plotting
from .plotting import Limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # in the order of series_style

# Fonts that stand in, where installed, for the characters that matplotlib's own font lacks.
_FALLBACK_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari"),
    *("PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Arial Unicode MS", "WenQuanYi Zen Hei"),
)


class _Theme(NamedTuple):
    background: str
    text: str
    muted: str
    grid: str
    series: tuple[str, ...]


_LIGHT = _Theme("#ffffff", "#1b1f24", "#5b6470", "#dfe3e8", plotting.SERIES_LIGHT)
_DARK = _Theme("#14171c", "#e8eaed", "#a3abb6", "#333a44", plotting.SERIES_DARK)


def plot_teachers(
    before: Mapping[Any, DatasetRSR | float],
    after: Mapping[Any, DatasetRSR | float] | None = None,
    *,
    dark: bool = False,
) -> Figure:
    """Draws teachers by their dataset-level RSR (arXiv:2601.14249, Eq. 9), the lowest at the top.

    Args:
        before: Teacher to result. A result of :func:`rsr_datasets.dataset_rsr` is drawn as a dot with its interval, a
            plain number as a dot. A teacher without a ratio (NaN) comes last, with no dot.
        after: The same after a selection, drawn as a second, hollow dot; a teacher that was not selected is missing.
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
    first, second = ({name: _interval(value) for name, value in some.items()} for some in (before, after or {}))
    points = {name: point for name, (point, _, _) in {**first, **second, **first}.items()}
    names = sorted(points, key=lambda name: (math.isnan(points[name]), points[name]))
    figure, axes = _new_figure(theme, 7.2, 1.3 + 0.3 * len(names))

    offset = 0.14 if after else 0.0
    styles: list[dict[str, Any]] = [
        {"marker": "o", "color": theme.series[0]},
        {"marker": "D", "color": theme.series[1], "markerfacecolor": theme.background},
    ]
    for shift, values, style in ((-offset, first, styles[0]), (offset, second, styles[1])):
        for name, (point, low, high) in values.items():
            place = names.index(name) + shift
            axes.plot([low, high], [place] * 2, color=style["color"], linewidth=1.6, solid_capstyle="round", zorder=2)
            axes.plot([point], [place], linestyle="", **style, markersize=6, zorder=3)
    for place, name in enumerate(names):
        if all(math.isnan(values[name][0]) for values in (first, second) if name in values):
            where = axes.get_yaxis_transform()
            axes.text(0.02, place, "no scored trajectory", transform=where, color=theme.muted, size=8.5, va="center")

    axes.set_yticks(range(len(names)), [_label(name) for name in names])
    for tick_label in axes.get_yticklabels():
        _plain(tick_label)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color=theme.grid, linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("dataset-level RSR (lower suits the student better)")
    if after is not None:
        _legend(axes, theme, styles, ["all rows", "the selected rows"], columns=2)
    return figure


def plot_plane(
    dataset: Dataset,
    *,
    color_by: str | None = DEFAULT_TEACHER_COLUMN,
    column_prefix: str = "rsr",
    sample: int | None = 5_000,
    seed: int = 0,
    dark: bool = False,
) -> Figure:
    """Draws trajectories by average surprisal and average clipped rank, with lines of equal RSR.

    RSR is the ratio of the two (arXiv:2601.14249, Eq. 7), so that on logarithmic axes each ratio is a straight line:
    the farther to the lower right a trajectory lies, the better it suits the student.

    Args:
        dataset: Scored rows; rows without a score are left out.
        color_by: Column whose values are told apart by colour and shape; ``None``, or no column of the default name,
            for one colour.
        column_prefix: The scorer's ``column_prefix``.
        sample: The most trajectories to draw, the same number of each value of ``color_by``; ``None`` for all.
        seed: Seed of the sample.
        dark: Draw on a dark background.

    Returns:
        The figure. Trajectories far away from all others are drawn at the edge; the title says how many.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If a column is missing, no row has a score, or rows were scored with different settings.
        TypeError: If ``dataset`` is not a ``Dataset``.
    """
    columns = ScoreColumns(column_prefix)
    scores = plotting.read_scored_rows(dataset, columns)
    if color_by == DEFAULT_TEACHER_COLUMN and color_by not in dataset.column_names:
        color_by = None
    if color_by is not None:
        arrays.require_columns(dataset, [color_by], columns)
    scored = np.flatnonzero(scores.has_score)
    if not scored.size:
        raise ValueError(f"column {columns.rsr!r}: none of the {len(dataset)} rows has a score to draw")
    series = arrays.read_categories(dataset, color_by) if color_by else None
    codes = series.codes if series else np.zeros(len(dataset), dtype=np.int32)
    rows = plotting.sample_evenly(scored, codes[scored], scored.size if sample is None else sample, seed)

    theme = _DARK if dark else _LIGHT
    figure, axes = _new_figure(theme, 7.2, 5.0)
    x_limits, y_limits = (plotting.log_limits(values[scored]) for values in (scores.avg_surprisal, scores.avg_rank))
    _draw_plane(axes, theme, plotting.iso_levels(scores.rsr[scored]), x_limits, y_limits)

    x, y = np.clip(scores.avg_surprisal[rows], *x_limits), np.clip(scores.avg_rank[rows], *y_limits)
    alpha = float(np.clip(30 / math.sqrt(rows.size), 0.25, 0.9))
    styles: dict[int, dict[str, Any]] = {}
    for index, code in enumerate(np.unique(codes[scored]).tolist()):
        color, shape = plotting.series_style(index)
        styles[code] = {"marker": _MARKERS[shape], "color": theme.series[color]}
        chosen = codes[rows] == code
        look: dict[str, Any] = {"linestyle": "", "alpha": alpha, "markersize": 4, "markeredgewidth": 0.8, "zorder": 3}
        axes.plot(x[chosen], y[chosen], **look, **styles[code])
    if series and len(styles) > 1:
        names = [series.values[code] if code >= 0 else None for code in styles]
        columns_of_legend = 3 if max(len(_label(name)) for name in names) < 26 else 2
        _legend(axes, theme, list(styles.values()), names, columns_of_legend)
        figure.set_figheight(5.0 + 0.2 * math.ceil(len(names) / columns_of_legend))

    axes.set_xlabel("average surprisal (nats per token)")
    axes.set_ylabel(f"average rank, clipped at {scores.rank_clip}")
    notes = [] if rows.size == scored.size else [f"{rows.size:,} of {scored.size:,} trajectories drawn"]
    outside = (scores.avg_surprisal[rows] != x) | (scores.avg_rank[rows] != y)
    notes += [f"{int(outside.sum()):,} beyond the axes, drawn at the edge"] if outside.any() else []
    axes.set_title("; ".join(notes), loc="left", color=theme.muted, size=8.5)
    return figure


def _interval(value: DatasetRSR | float) -> tuple[float, float, float]:
    if isinstance(value, DatasetRSR):
        return value.value, value.low, value.high
    return float(value), math.nan, math.nan


def _new_figure(theme: _Theme, width: float, height: float) -> tuple[Figure, Axes]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'rsr_datasets[report]'") from error
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor=theme.background)
    axes = figure.add_subplot(facecolor=theme.background)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    axes.tick_params(which="both", colors=theme.muted, labelcolor=theme.text, labelsize=9)
    axes.xaxis.label.set(color=theme.text, size=9.5)
    axes.yaxis.label.set(color=theme.text, size=9.5)
    return figure, axes


def _legend(axes: Axes, theme: _Theme, styles: list[dict[str, Any]], names: Sequence[Any], columns: int) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linestyle="", markersize=6, **style) for style in styles]
    look = {"frameon": False, "fontsize": 9, "labelcolor": theme.text, "handletextpad": 0.4, "columnspacing": 1.2}
    # Labels are set afterwards: matplotlib leaves out those that begin with an underscore.
    legend = axes.figure.legend(handles, ["?"] * len(names), loc="outside upper left", ncols=columns, **look)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(_label(name))
        _plain(text)


def _label(name: Any) -> str:
    """A name on one line. A long name loses its middle; what XML cannot hold is replaced."""
    text = "(none)" if name is None else " ".join(str(name).split())
    text = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    return text or " " if len(text) <= 44 else f"{text[:22]}…{text[-21:]}"


def _plain(text: Text) -> None:
    """Shows a text as it stands, in fonts that have its characters."""
    from matplotlib.font_manager import fontManager

    text.set_parse_math(False)
    text.set_usetex(False)
    if not text.get_text().isascii():
        installed = set(fontManager.get_font_names())
        text.set_fontfamily([*text.get_fontfamily(), *(font for font in _FALLBACK_FONTS if font in installed)])


def _draw_plane(axes: Axes, theme: _Theme, levels: list[float], x_limits: Limits, y_limits: Limits) -> None:
    axes.set(xscale="log", yscale="log", xlim=x_limits, ylim=y_limits)
    axes.minorticks_off()
    for axis, limits in ((axes.xaxis, x_limits), (axes.yaxis, y_limits)):
        ticks = plotting.round_levels(*limits, 8)
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    note: dict[str, Any] = {"textcoords": "offset points", "color": theme.muted, "size": 8.5, "annotation_clip": False}
    dashed: dict[str, Any] = {"color": theme.muted, "alpha": 0.7, "linewidth": 0.7, "dashes": (4, 3), "zorder": 1}
    for level in levels:
        axes.plot(x_limits, [level * x for x in x_limits], **dashed)
        end = min(x_limits[1], y_limits[1] / level)
        if end <= x_limits[0]:
            continue
        above: dict[str, Any] = {"xytext": (0, 3), "ha": "center", "va": "bottom"}
        beside: dict[str, Any] = {"xytext": (4, 0), "va": "center"}
        axes.annotate(f"{level:g}", (end, level * end), **(above if end < x_limits[1] else beside), **note)
    axes.annotate("RSR", (1, 1), xycoords="axes fraction", xytext=(4, 3), **note)
