"""Weights of a problem's candidates."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_datasets import mixture_weights
from rsr_datasets.tables.records import read_records

STATUS = {True: "scored", False: "nonfinite"}


def scored_rows(values: list[float | None], problems: list[Any], **others: Any) -> Dataset:
    columns = {
        "problem": problems,
        "rsr": values,
        "rsr_status": [STATUS[value is not None] for value in values],
        "rsr_settings": ["s-100"] * len(values),
    }
    return Dataset.from_dict(columns | others)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.none() | st.floats(0.5, 50), st.integers(0, 3)), min_size=1, max_size=20),
    st.floats(0.01, 100),
)
def test_weights_are_a_softmax_of_each_problem(rows: list[tuple[float | None, int]], temperature: float) -> None:
    values, problems = map(list, zip(*rows, strict=True))
    if all(value is None for value in values):
        values[0] = 1.0
    weights = mixture_weights(scored_rows(values, problems), "problem", temperature)["mixture_weight"][:]
    for problem in set(problems):
        members = [i for i, p in enumerate(problems) if p == problem and values[i] is not None]
        with np.errstate(under="ignore"):
            logits = np.array([-values[i] / temperature for i in members])
            expected = np.exp(logits - logits.max()) if members else logits
            expected = expected / expected.sum() if members else expected
        np.testing.assert_allclose([weights[i] for i in members], expected, rtol=1e-9)
        assert not members or sum(weights[i] for i in members) == pytest.approx(1, rel=1e-12)
    assert all(weight == 0 for weight, value in zip(weights, values, strict=True) if value is None)


def test_rows_without_score_or_key_weigh_nothing_and_are_said(caplog: pytest.LogCaptureFixture) -> None:
    ds = scored_rows([2.0, None, None, 3.0, 4.0], ["a", "a", "b", None, "c"])
    with caplog.at_level(logging.WARNING):
        weighed = mixture_weights(ds, "problem")
    assert weighed["mixture_weight"][:] == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert "1 of 3 groups have no scored row" in caplog.text
    assert weighed.features["mixture_weight"].dtype == "float64"
    assert read_records(weighed)[-1]["rule"]["temperature"] == 1.0
    assert mixture_weights(weighed, "problem").column_names == weighed.column_names


def test_truncated_rows_weigh_only_when_asked() -> None:
    ds = scored_rows([2.0, 2.0], ["a", "a"], rsr_status=["truncated", "scored"])
    assert mixture_weights(ds, "problem")["mixture_weight"][:] == [0.0, 1.0]
    assert mixture_weights(ds, "problem", keep_truncated=True)["mixture_weight"][:] == [0.5, 0.5]


def test_higher_is_better_metric_gets_higher_weight() -> None:
    ds = scored_rows([1.0, 1.0], ["a", "a"], rsr_top1_share=[0.9, 0.1])
    first, second = mixture_weights(ds, "problem", 0.1, metric="top1_share")["mixture_weight"][:]
    assert first / second == pytest.approx(math.exp(8))


def test_mistakes_in_mixtures() -> None:
    ds = scored_rows([1.0, 2.0], ["a", "a"])
    mixed = ds.remove_columns("rsr_settings").add_column("rsr_settings", ["x", "y"])
    for arguments, message in (
        ((ds, "problem", 0), "temperature=0"),
        ((ds, []), "name at least one column"),
        ((ds, "task"), "no column 'task'"),
        ((mixed, "problem"), "different students or settings"),
    ):
        with pytest.raises(ValueError, match=message):
            mixture_weights(*arguments)
    for name in ("rsr", "problem", "messages"):
        with pytest.raises(ValueError, match=f"weight_column='{name}'"):
            mixture_weights(ds.add_column("messages", [[], []]), "problem", weight_column=name)
    assert sum(mixture_weights(mixed, "problem", allow_mixed_settings=True)["mixture_weight"]) == pytest.approx(1)
