"""Qualities of trajectories that need no student."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import conversation
from datasets import Dataset

from rsr_datasets import add_rule_based_quality, add_verified, select_trajectories

TEXTS = ["Check, verify; check! since", "perhaps it might be so", "Therefore 3 since x. Checking is no check", "a b"]


def test_rule_based_quality_is_the_weighted_sum_of_z_scores() -> None:
    ds = Dataset.from_list([{"messages": conversation("perhaps?", text)} for text in [*TEXTS, ""]])
    shares = np.array([[4, 3 / 4, 0, 1 / 4], [5, 0, 2 / 5, 0], [8, 1 / 8, 0, 2 / 8], [2, 0, 0, 0]])
    z = (shares - shares.mean(0)) / shares.std(0)
    found = add_rule_based_quality(ds)
    np.testing.assert_allclose(found["rule_based_quality"][:4], z @ [0.3, 0.2, 0.25, 0.25], rtol=1e-12)
    assert found["rule_based_quality"][4] is None
    assert np.mean(found["rule_based_quality"][:4]) == pytest.approx(0, abs=1e-12)


def test_an_indicator_that_is_the_same_everywhere_counts_nothing() -> None:
    ds = Dataset.from_dict({"prompt": ["q"] * 3, "completion": ["same text"] * 3})
    assert add_rule_based_quality(ds)["rule_based_quality"][:] == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="'completion' is read"):
        add_rule_based_quality(ds, quality_column="completion")
    with pytest.raises(TypeError, match="expected a Dataset"):
        add_rule_based_quality([{}])


def test_answers_are_verified_and_decide_a_selection() -> None:
    pytest.importorskip("math_verify")
    texts = ["so it is $\\frac{1}{2}$.", "The answer is 0.5", "Therefore \\boxed{2}", "", "The answer is 3."]
    answers = ["1/2", "\\frac{1}{2}", "3", "3", None]
    rows = [
        {"problem": "p", "answer": answer, "messages": conversation("?", text), "rsr": float(i)}
        for i, (text, answer) in enumerate(zip(texts, answers, strict=True))
    ]
    verified = add_verified(Dataset.from_list(rows), "answer")
    assert verified["verified"][:] == [True, True, False, None, None]
    assert verified.features["verified"].dtype == "bool"
    best = select_trajectories(verified, "problem", correct="verified", largest=True)
    assert best["rsr"][:] == [1.0]
    with pytest.raises(ValueError, match="no column 'solution'"):
        add_verified(Dataset.from_list(rows), "solution")
