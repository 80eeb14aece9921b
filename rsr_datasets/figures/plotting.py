"""Facts that the figures and the report share; colours are those of Okabe and Ito, for colour-blind readers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from ..metrics import DEFAULT_RANK_CLIP
from ..tables import arrays
from ..tables.columns import ScoreColumns
from ..tables.splits import require_dataset

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Limits = tuple[float, float]

SERIES_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#3a3a3a")
SERIES_DARK = ("#4aa3dc", "#ee7d33", "#1fbf92", "#e09cc4", "#f2b631", "#8fd0f5", "#f0e442")
NUM_SHAPES = 7
FEW = 20  # fewer points are drawn one by one

_ROUND_NUMBERS = np.array([1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8])
_FEWEST_LEVELS = 4


@dataclass(frozen=True)
class ScoredRows:
    """The scores of rows, each array of shape ``(rows,)``: NaN, and 0 tokens, for a row without a score."""

    rsr: FloatArray
    avg_rank: FloatArray
    avg_surprisal: FloatArray
    num_tokens: FloatArray
    has_score: BoolArray
    truncated: BoolArray  # scored on a part of the response
    settings: list[str]  # of the rows with a score

    @property
    def rank_clip(self) -> int:
        """``r_max`` of the scores, which their settings end with; the default where no row has settings."""
        clip = self.settings[0].rpartition("-")[2] if self.settings else ""
        return int(clip) if clip.isascii() and clip.isdigit() and int(clip) else DEFAULT_RANK_CLIP


def read_scored_rows(dataset: Dataset, columns: ScoreColumns, name: str = "dataset") -> ScoredRows:
    """Reads the scores of all rows; an error for rows of different settings. Messages call the dataset by ``name``."""
    require_dataset(dataset, name)
    arrays.require_columns(dataset, columns.row_types, columns)
    names = (columns.rsr, columns.avg_rank, columns.avg_surprisal, columns.num_tokens)
    rsr, avg_rank, avg_surprisal, num_tokens = (arrays.read_numbers(dataset, name) for name in names)
    status = arrays.read_status(dataset, columns, rsr + avg_rank + avg_surprisal)
    settings = arrays.read_categories(dataset, columns.settings).present(status.scored)
    arrays.require_one_setting(columns, settings)
    tokens = np.nan_to_num(num_tokens)
    return ScoredRows(rsr, avg_rank, avg_surprisal, tokens, status.scored, status.truncated, settings)


def sample_evenly(rows: IntArray, codes: npt.NDArray[Any], size: int, seed: int) -> IntArray:
    """Draws rows at random, in order, the same number from each group of ``codes`` as far as the group has them."""
    if rows.size <= size:
        return np.sort(rows)
    shuffled = np.random.default_rng(seed).permutation(rows.size)
    shuffled = shuffled[np.argsort(codes[shuffled], kind="stable")]
    first = np.flatnonzero(np.diff(codes[shuffled], prepend=codes[shuffled[0]] - 1))
    place = np.arange(rows.size) - np.repeat(first, np.diff(np.append(first, rows.size)))
    return np.sort(rows[shuffled[np.argsort(place, kind="stable")[:size]]])


def log_limits(values: FloatArray) -> Limits:
    """Ends of a logarithmic axis that holds all positive values, except those far from the other 99%."""
    positive = values[values > 0]
    if not positive.size:
        return 0.1, 10.0
    low, high = np.quantile(positive, [0.005, 0.995])
    return float(max(positive.min(), low / 3) / 1.08), float(min(positive.max(), high * 3) * 1.08)


def round_levels(low: float, high: float, most: int = 6) -> list[float]:
    """At most ``most`` round numbers between two positive ones, spread evenly on a logarithmic scale.

    Between two that are near each other they are multiples of one step.
    """
    powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    candidates = np.unique(np.round(np.outer(10.0**powers, _ROUND_NUMBERS), 12))
    inside = candidates[(candidates >= low) & (candidates <= high)]
    if inside.size < _FEWEST_LEVELS and high > low:
        power = 10.0 ** np.floor(np.log10((high - low) / most))
        step = power * next(multiple for multiple in (1, 2, 5, 10, 20) if (high - low) / (power * multiple) < most)
        candidates = np.round(np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step, 12)
        inside = candidates[(candidates >= low) & (candidates <= high)]
    if inside.size > most:
        evenly = np.geomspace(inside[0], inside[-1], most)
        inside = np.unique(inside[np.abs(np.log(inside)[:, None] - np.log(evenly)).argmin(axis=0)])
    return list(inside.tolist())


def iso_levels(rsr: FloatArray) -> list[float]:
    """Ratios whose lines are drawn in the plane: round numbers across the middle 96% of the rows' ratios."""
    if not rsr.size:
        return []
    low, high = np.quantile(rsr, [0.02, 0.98])
    return round_levels(low / 1.15, high * 1.15)


def series_style(index: int) -> tuple[int, int]:
    """Indices of the colour and the shape of a series; no pair appears twice among the first 49 series."""
    num_colors = len(SERIES_LIGHT)
    return index % num_colors, (index + index // num_colors) % NUM_SHAPES
