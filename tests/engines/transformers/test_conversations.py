"""Turns of one conversation: what they begin with is read once, and each is scored as if it were alone."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import benchmark
import numpy as np
import pytest
import torch
from conftest import FAMILIES, make_model
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_scored_the_same, plain_scores

from rsr_datasets import RSRScorer, score_dataset
from rsr_datasets.engines.base import BatchAccount
from rsr_datasets.engines.transformers import conversations as attention
from rsr_datasets.engines.transformers.engine import TransformersEngine
from rsr_datasets.engines.transformers.packing import Pack, packed_decoder, plan_packs, read_pack
from rsr_datasets.reading.rows import EncodedRow, unshared
from rsr_datasets.runs.estimate import _shares_beginnings

VOCABULARY = 7
MOST_POSITIONS = 512  # of GPT-2's table
PACKING_FAMILIES = {"llama", "qwen2", "gpt2", "granite", "cohere"}
# Weights under which rounding stays below 1e-5, whatever rows are drawn.
model_of = functools.cache(functools.partial(make_model, spread=0.15))


def kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_bounds: torch.Tensor,
    key_bounds: torch.Tensor,
    most_queries: int,
    most_keys: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """The kernel of GPUs as torch documents it, row by row."""
    assert window_size == (-1, 0) and enable_gqa
    found = torch.empty_like(query)
    bounds = zip(itertools.pairwise(query_bounds.tolist()), itertools.pairwise(key_bounds.tolist()), strict=True)
    for (first, end), (first_key, end_key) in bounds:
        queries, keys = end - first, end_key - first_key
        assert queries <= most_queries and keys <= most_keys
        parts = (query[first:end], key[first_key:end_key], value[first_key:end_key])
        mask = torch.ones((queries, keys), dtype=torch.bool).tril(keys - queries)
        attended = torch.nn.functional.scaled_dot_product_attention(
            *(part.transpose(0, 1)[None] for part in parts), attn_mask=mask, scale=scale, enable_gqa=True
        )
        found[first:end] = attended[0].transpose(0, 1)
    return found


@pytest.fixture(scope="module", autouse=True)
def _kernel_without_a_gpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "varlen", SimpleNamespace(varlen_attn=kernel))
        yield


@st.composite
def conversations(draw: st.DrawFn, longest: int = 60) -> EncodedRow:
    """Sequences of which each begins as one before it does, up to any token."""
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    parts: list[EncodedRow] = []
    for _ in range(draw(st.integers(1, 7))):
        before = parts[draw(st.integers(0, len(parts) - 1))].input_ids if parts else np.empty(0, np.int64)
        kept = before[: draw(st.integers(0, before.size))]
        new = generator.integers(0, VOCABULARY, draw(st.integers(0 if kept.size > 1 else 2, longest)))
        ids = np.concatenate([kept, new])[:MOST_POSITIONS]
        parts.append(EncodedRow(ids, np.union1d(generator.integers(1, ids.size, 5), [ids.size - 1])))
    return replace(parts[0], more=tuple(parts[1:]))


def beginnings(sequences: list[np.ndarray]) -> int:
    return len({tuple(ids[:end]) for ids in sequences for end in range(1, ids.size + 1)})


@given(conversations())
def test_tokens_that_sequences_begin_with_are_counted_once(row: EncodedRow) -> None:
    sequences = [part.read_ids for part in row.sequences]
    added = unshared(sequences)
    assert min(added) >= 0 and row.num_read == sum(added) == beginnings(sequences)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@settings(max_examples=25, deadline=None)
@given(conversations(longest=300), st.sampled_from([None, 40]))
def test_each_turn_is_read_as_if_it_were_alone(family: str, row: EncodedRow, hidden_size: int | None) -> None:
    """By the kernels of a CPU and of a GPU."""
    decoder = model_of(family, VOCABULARY).base_model
    rows = [part.input_ids for part in row.sequences]
    with torch.no_grad():
        pack = Pack(rows, 0.0, hidden_size=hidden_size, of_conversations=True)
        found = read_pack(packed_decoder(decoder), pack)
        assert pack.input_ids.numel() == beginnings(rows)
        for ids, path in zip(rows, pack.paths, strict=True):
            alone = decoder(torch.from_numpy(ids)[None]).last_hidden_state[0]
            torch.testing.assert_close(found[path], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None)
@given(st.lists(conversations(), min_size=1, max_size=3), st.sampled_from([1, 40, 10_000]), st.booleans())
def test_turns_are_scored_as_if_each_were_alone(
    family: str, rows: list[EncodedRow], tokens_per_batch: int, by_row: bool
) -> None:
    model = model_of(family, VOCABULARY)
    student = TransformersEngine(model, tokens_per_batch=tokens_per_batch)
    student.decoder.attends_by_row = by_row
    batches: list[BatchAccount] = []
    sequences = [part for row in rows for part in row.sequences]
    for part, found in zip(sequences, student.score(sequences, on_batch=batches.append), strict=True):
        assert_scored_the_same(found.ranks, found.surprisals, plain_scores(model, part))
    assert sum(batch.row_tokens for batch in batches) == sum(row.num_read for row in rows)
    assert student.decoder.can_branch == (family in PACKING_FAMILIES)
    if not student.decoder.can_branch:
        assert sum(batch.tokens for batch in batches) == sum(part.input_ids.size - 1 for part in sequences)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rows_beside_a_conversation_keep_their_bits(family: str) -> None:
    student = TransformersEngine(model_of(family, VOCABULARY), tokens_per_batch=100)
    plain = [EncodedRow(np.arange(n) % VOCABULARY, np.arange(1, n)) for n in (9, 30, 31, 80)]
    turns, _ = benchmark.conversation_rows(VOCABULARY, 5, 8, 9, 4, 7)
    alone, beside = student.score(plain), student.score([*turns.sequences, *plain])[-len(plain) :]
    assert [row.surprisals.tolist() for row in alone] == [row.surprisals.tolist() for row in beside]


@pytest.mark.parametrize("hidden_size", [None, 576])
@pytest.mark.parametrize("tokens_per_batch", [512, 2048, 16384])
def test_thirty_turns_are_at_most_1_6_readings(tokens_per_batch: int, hidden_size: int | None) -> None:
    turns, whole = benchmark.conversation_rows(50_000)
    rows = [part.read_ids for part in turns.sequences]
    batches = plan_packs(rows, tokens_per_batch, 0.05, hidden_size, of_conversations=True)
    packs = [Pack([rows[i] for i in batch], 0.05, None, torch.float32, hidden_size, True) for batch in batches]
    assert sum(pack.input_ids.numel() for pack in packs) <= 1.6 * whole.num_read
    assert sum(row.size for row in rows) > 15 * whole.num_read


def test_what_a_conversation_takes_is_bounded_by_its_longest_turn() -> None:
    """Its thinking alone is more than four times as long."""
    turns, whole = benchmark.conversation_rows(50_000, turns=30, thinking=2000)
    rows = [part.read_ids for part in turns.sequences]
    batches = plan_packs(rows, 2048, 0.05, of_conversations=True)
    sizes = [Pack([rows[i] for i in batch], 0.05, of_conversations=True).input_ids.numel() for batch in batches]
    assert len(batches) > 3 and max(sizes) <= 2 * whole.num_read
    assert sum(sizes) <= 1.6 * turns.num_read
    pack = Pack(rows, 0.05, hidden_size=576, of_conversations=True)
    assert max(block.keys.numel() for block in pack.blocks) <= pack.input_ids.numel()


def test_the_account_of_a_run_agrees_with_the_tokens_that_are_read(student_folder: str, tmp_path: Path) -> None:
    turns = [("user", "Solve it."), ("assistant", "f(n) = 2 f(n-1) + 3, so that the answer is 42.")] * 5
    rows = [[{"role": role, "content": f"{seed} {text}"} for role, text in turns] for seed in range(3)]
    dataset = Dataset.from_list([{"messages": row[:count]} for row, count in zip(rows, (10, 2, 6), strict=True)])
    score_dataset(dataset, RSRScorer(student_folder, turns="each"), tmp_path / "run")
    [account] = json.loads((tmp_path / "run" / "manifest.json").read_text())["accounts"]
    assert 0.95 * account["tokens"] < account["forward_tokens"] <= account["tokens"]  # all begin with a header


@pytest.mark.parametrize("family", FAMILIES)
def test_an_estimate_knows_which_students_share(family: str) -> None:
    assert _shares_beginnings(make_model(family, VOCABULARY)) == (family in PACKING_FAMILIES)
