"""Long rows in parts: the same scores, and layers that mix tokens stay whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_model
from oracle import assert_scored_the_same, plain_scores

from rsr_datasets.engines.transformers.engine import TransformersEngine
from rsr_datasets.engines.transformers.speedups import long_rows
from rsr_datasets.reading.rows import EncodedRow

VOCABULARY = 211


def row_of(length: int) -> EncodedRow:
    return EncodedRow(np.arange(length) * 7 % VOCABULARY, np.arange(1, length))


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen2"])
def test_long_rows_go_through_the_feed_forward_layers_in_parts(
    family: str, by_row: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(family, VOCABULARY)
    student = TransformersEngine(model, tokens_per_batch=50)
    student.decoder.attends_by_row = by_row
    rows = [row_of(length) for length in (9, 20, 47)]
    before = list(model.modules())
    fed: list[int] = []
    for name, module in model.named_modules():
        if name.endswith(".mlp"):
            module.register_forward_hook(lambda _, args, __: fed.append(args[0].shape[-2]))
    whole = student.score(rows)
    assert max(fed) >= 46
    monkeypatch.setattr(long_rows, "_MOST_TOKENS", 20)
    student = TransformersEngine(model, tokens_per_batch=50)
    student.decoder.attends_by_row = by_row
    fed.clear()
    found = student.score(rows)
    assert max(fed) == 20 and min(fed) < 20
    for row, one, expected in zip(rows, found, whole, strict=True):
        np.testing.assert_allclose(one.surprisals, expected.surprisals, rtol=0, atol=1e-5)
        assert_scored_the_same(one.ranks, one.surprisals, plain_scores(model, row))
    assert list(model.modules()) == before


class Mixing(torch.nn.Module):
    """A layer in which a token sees the token before it."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + torch.nn.functional.pad(hidden, (0, 0, 1, 0))[..., :-1, :]


def test_layers_that_mix_tokens_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama", VOCABULARY)
    model.model.layers[0].mlp = Mixing()
    monkeypatch.setattr(long_rows, "_MOST_TOKENS", 20)
    found = TransformersEngine(model).score([row_of(47)])[0]
    assert_scored_the_same(found.ranks, found.surprisals, plain_scores(model, row_of(47)))
