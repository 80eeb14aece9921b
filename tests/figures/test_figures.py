"""Figures are drawn from real results, hold what they should, and take any text as plain text."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import ROOT
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from rsr_datasets import dataset_rsr
from rsr_datasets.figures import plot_plane, plot_teachers
from rsr_datasets.figures.plotting import iso_levels, log_limits, round_levels, sample_evenly, series_style

HOSTILE = {
    "$x^{$_\\frac": 3.1,
    "_under": 2.2,
    "通义千问": 2.9,
    "نموذج": 2.5,
    "a" * 300: 2.7,
    "<b>\x1b[31m\n\x00": 2.1,
    "\ud800": 2.6,
    None: 2.3,
}


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


def test_teachers_are_in_the_order_of_their_rsr(champ: Dataset) -> None:
    results = dataset_rsr(champ, "teacher")
    figure = plot_teachers(results)
    assert labels(figure) == sorted(results, key=lambda name: results[name].value)
    dots = {line.get_ydata()[0]: line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 1}
    assert [dots[place] for place in range(5)] == sorted(result.value for result in results.values())
    bars = [tuple(line.get_xdata()) for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert sorted(bars) == sorted((result.low, result.high) for result in results.values())


def test_a_selection_is_drawn_beside_what_it_was_selected_from(champ: Dataset) -> None:
    selected = champ.select([i for i, rsr in enumerate(champ["rsr"]) if rsr < 2.8])
    figure = plot_teachers(dataset_rsr(champ, "teacher"), dataset_rsr(selected, "teacher"))
    markers = [line.get_marker() for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert markers == ["o"] * 5 + ["D"] * 5
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["all rows", "the selected rows"]


def test_a_teacher_without_a_ratio_is_last_and_said() -> None:
    figure = plot_teachers({"none": math.nan, "b": 2.0, "a": 3.0})
    assert labels(figure) == ["b", "a", "none"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["no scored trajectory"]


@pytest.mark.parametrize("dark", [False, True])
def test_names_are_shown_as_they_are(tmp_path: Path, dark: bool) -> None:
    figure = plot_teachers(HOSTILE, {name: value - 0.1 for name, value in HOSTILE.items()}, dark=dark)
    figure.savefig(tmp_path / "figure.svg")
    figure.savefig(tmp_path / "figure.png")
    ElementTree.parse(tmp_path / "figure.svg")
    assert {"$x^{$_\\frac", "_under", "نموذج", "(none)", "<b>�[31m �", "�"} < set(labels(figure))
    assert max(map(len, labels(figure))) <= 44


def test_no_teacher_is_an_error() -> None:
    with pytest.raises(ValueError, match="no teacher to draw"):
        plot_teachers({})


def points(figure: Figure) -> list[tuple[float, float]]:
    markers = [line for line in figure.axes[0].lines if line.get_marker() != "None"]
    return [point for line in markers for point in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_every_trajectory_is_a_point_of_the_plane(champ: Dataset) -> None:
    figure = plot_plane(champ, sample=None)
    assert sorted(points(figure)) == sorted(zip(champ["rsr_avg_surprisal"], champ["rsr_avg_rank"], strict=True))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == champ.unique("teacher")
    plain = plot_plane(champ.remove_columns("teacher"), sample=None)
    assert sorted(points(plain)) == sorted(points(figure)) and plain.legends == []


def test_lines_of_the_plane_hold_one_ratio_each(champ: Dataset) -> None:
    axes = plot_plane(champ).axes[0]
    lines = [line for line in axes.lines if line.get_marker() == "None"]
    ratios = [[y / x for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)] for line in lines]
    assert [text.get_text() for text in axes.texts] == [*(f"{pair[0]:g}" for pair in ratios), "RSR"]
    assert all(pair == pytest.approx([pair[0]] * 2, rel=1e-12) for pair in ratios)


def test_a_sample_of_the_plane_is_said_and_repeats(champ: Dataset) -> None:
    figure = plot_plane(champ, sample=100, seed=3)
    assert len(points(figure)) == 100
    assert figure.axes[0].get_title(loc="left") == "100 of 1,350 trajectories drawn"
    assert points(figure) == points(plot_plane(champ, sample=100, seed=3))
    assert points(figure) != points(plot_plane(champ, sample=100, seed=4))


def test_the_plane_takes_any_names_and_rows_without_a_score(champ: Dataset, tmp_path: Path) -> None:
    names = [name for name in HOSTILE if name != "\ud800"]
    rows = [{**champ[i], "teacher": names[i % len(names)]} for i in range(30)]
    rows += [{**champ[0], "rsr": None, "rsr_avg_rank": None, "rsr_avg_surprisal": None, "rsr_status": "bad_row"}]
    figure = plot_plane(Dataset.from_list(rows), dark=True)
    figure.savefig(tmp_path / "plane.svg")
    assert len(points(figure)) == 30
    assert len(figure.legends[0].get_texts()) == len(names)


def test_the_plane_refuses_what_it_cannot_compare(champ: Dataset) -> None:
    mixed = Dataset.from_list([champ[0], {**champ[1], "rsr_settings": "other-100"}])
    with pytest.raises(ValueError, match="2 different students or settings"):
        plot_plane(mixed)
    with pytest.raises(ValueError, match="never scored"):
        plot_plane(champ.remove_columns("rsr"))
    with pytest.raises(ValueError, match="no column 'model'"):
        plot_plane(champ, color_by="model")
    with pytest.raises(ValueError, match="none of the 0 rows has a score"):
        plot_plane(champ.select([]))


def test_a_sample_is_even_over_the_groups() -> None:
    codes = np.repeat([0, 1, 2, -1], [1000, 5, 400, 30])
    rows = sample_evenly(np.arange(codes.size), codes, 105, seed=0)
    counts = np.unique(codes[rows], return_counts=True)[1]
    assert sorted(counts) == [5, 30, 35, 35]
    assert np.array_equal(rows, np.unique(rows))


@given(st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=50))
def test_axes_hold_all_but_outliers(values: list[float]) -> None:
    array = np.array(values)
    low, high = log_limits(array)
    assert low < np.median(array) < high
    levels = round_levels(low, high)
    assert len(levels) <= 6 and all(low <= level <= high for level in levels)


@pytest.mark.parametrize("low", [1e-3, 0.7, 2.1, 45.0])
@pytest.mark.parametrize("width", [1.01, 1.1, 1.4, 3.0])
def test_an_axis_of_near_values_has_levels_too(low: float, width: float) -> None:
    levels = round_levels(low, low * width, 8)
    assert 4 <= len(levels) <= 8 and all(low <= level <= low * width for level in levels)


def test_a_far_outlier_does_not_squeeze_the_axis() -> None:
    assert log_limits(np.array([1.0] * 999 + [1e6])) == pytest.approx((1 / 1.08, 3 * 1.08))
    assert iso_levels(np.linspace(2, 4, 100)) == [2.0, 2.5, 3.0, 4.0]


def test_series_differ_in_colour_and_shape() -> None:
    assert len({series_style(i) for i in range(49)}) == 49


def test_matplotlib_is_imported_when_drawing_alone() -> None:
    code = (
        "import sys, rsr_datasets, rsr_datasets.figures as figures\n"
        "assert 'matplotlib' not in sys.modules\n"
        "sys.modules['matplotlib'] = None\n"
        "try: figures.plot_teachers({'a': 1.0})\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "figures need matplotlib: pip install 'rsr_datasets[report]'", done.stderr
