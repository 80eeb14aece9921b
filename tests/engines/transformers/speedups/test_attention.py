"""Attention by products: as exact as torch's, and taken only where it agrees."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import make_model
from oracle import plain_scores

from rsr_datasets.engines.transformers.engine import TransformersEngine
from rsr_datasets.engines.transformers.speedups import attention
from rsr_datasets.reading.rows import EncodedRow

VOCABULARY = 211


@pytest.mark.parametrize("most_scores", [1, 100_000, 1 << 20], ids=["a head", "some heads", "all heads"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(9, 3), (4, 4), (5, 1)])
@pytest.mark.parametrize(("queries", "keys"), [(128, 320), (7, 400), (128, 700)])
def test_attention_by_products_is_nearly_as_exact_as_torchs(
    queries: int, keys: int, heads: int, kv_heads: int, most_scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against float64, in tensors as a packed decoder gives them: token by token in memory."""
    monkeypatch.setattr(attention, "_MOST_SCORES", most_scores)
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(1, tokens, count, size).bfloat16().transpose(1, 2)
        for tokens, count, size in ((queries, heads, 64), (keys, kv_heads, 64), (keys, kv_heads, 64))
    )
    mask = torch.full((queries, keys), -torch.inf, dtype=torch.bfloat16).triu(keys - queries + 1)
    for scaling in (None, 0.3):
        found = attention.by_products(query, key, value, mask, scaling)

        def attended(dtype: torch.dtype, scaling: float | None = scaling) -> torch.Tensor:
            given = (part.to(dtype) for part in (query, key, value))
            return torch.nn.functional.scaled_dot_product_attention(
                *given, attn_mask=mask.to(dtype), scale=scaling, enable_gqa=True
            ).transpose(1, 2)

        exact = attended(torch.float64)
        error, torchs = ((each.double() - exact).abs() for each in (found, attended(torch.bfloat16)))
        assert found.shape == exact.shape and found.dtype == torch.bfloat16
        # torch's kernel rounds weights before it divides them by their sum, the greatest of them so without error.
        assert error.mean() < 1.3 * torchs.mean() and error.max() < 2 * torchs.max()


@pytest.mark.parametrize("family", ["llama", "qwen2", "granite", "gpt2"])
@pytest.mark.parametrize("share_prefixes", [False, True])
def test_long_rows_in_bfloat16_are_as_exact_with_either_library(
    family: str, share_prefixes: bool, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(family, VOCABULARY, max_position_embeddings=1024).bfloat16()
    asked = []
    by_products = attention.by_products
    monkeypatch.setattr(
        attention, "by_products", lambda *given: asked.append(given[1].shape[2]) or by_products(*given)
    )
    generator = np.random.default_rng(0)
    prompt = generator.integers(0, VOCABULARY, 150)
    rows = []
    for length in (4, 250, 500):
        ids = np.concatenate([prompt, generator.integers(0, VOCABULARY, length)])
        rows.append(EncodedRow(ids, np.arange(150, ids.size)))
    student = TransformersEngine(model, logits_dtype="float32", share_prefixes=share_prefixes)
    found = [tokens.surprisals for tokens in student.score(rows)]
    assert (len(asked) > 1) == (library == "oneDNN" and family != "gpt2")  # whose heads share no keys
    exact = copy.deepcopy(model).double()
    errors, plain_errors = (
        np.concatenate([np.abs(a - plain_scores(exact, row).surprisals) for a, row in zip(each, rows, strict=True)])
        for each in (found, [plain_scores(model, row).surprisals for row in rows])
    )
    assert errors.mean() < 1.1 * plain_errors.mean()


@pytest.mark.parametrize("library", ["oneDNN"], indirect=True)
def test_a_kernel_that_disagrees_is_not_taken(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, right = make_model("llama", VOCABULARY).bfloat16(), attention.by_products
    assert attention.attention_by_products(model) is right
    monkeypatch.setattr(attention, "by_products", lambda *given: 1.1 * right(*given))
    assert attention.attention_by_products(model) is None
    monkeypatch.setattr(attention, "by_products", lambda *_: 1 / 0)
    assert attention.attention_by_products(model) is None
