"""Rows in one sequence: what is shared stands once, and each row is read as if it were alone."""

from __future__ import annotations

import functools
import itertools

import accelerate
import numpy as np
import pytest
import torch
import transformers
from conftest import SIZES, make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_datasets.engines.transformers.packing import Pack, packed_decoder, plan_packs, read_pack, sharing_runs

VOCABULARY = 7
MOST_POSITIONS = 512  # of GPT-2's table
Rows = list[np.ndarray]
# Weights under which rounding stays below 1e-5, whatever rows are drawn.
model_of = functools.cache(functools.partial(make_model, spread=0.15))


@st.composite
def rows_that_begin_alike(draw: st.DrawFn, most: int = 8, longest: int = 300) -> Rows:
    """Rows of few kinds of tokens, each of which may begin as one before it does; some are equal."""
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    rows: Rows = []
    for _ in range(draw(st.integers(1, most))):
        kept = rows[draw(st.integers(0, len(rows) - 1))] if rows and draw(st.booleans()) else np.empty(0, np.int64)
        kept = kept[: draw(st.integers(0, kept.size))]
        new = generator.integers(0, VOCABULARY, draw(st.integers(0 if kept.size else 1, longest)))
        rows.append(np.concatenate([kept, new])[:MOST_POSITIONS])
    return rows


def beginnings(rows: Rows) -> int:
    """How many different things rows begin with: the tokens that must be read if each is read once."""
    return len({tuple(row[:end]) for row in rows for end in range(1, row.size + 1)})


@given(rows_that_begin_alike(longest=40), st.sampled_from([None, 10**9]))
def test_what_rows_begin_with_stands_in_the_sequence_once(rows: Rows, hidden_size: int | None) -> None:
    pack = Pack(rows, least_shared=0.0, hidden_size=hidden_size)
    ids, positions = pack.input_ids[0].numpy(), pack.position_ids[0].numpy()
    assert ids.size == positions.size == beginnings(rows)
    for row, path in zip(rows, pack.paths, strict=True):
        assert ids[path].tolist() == row.tolist()
        assert positions[path].tolist() == list(range(row.size))
    alone = Pack(rows, least_shared=2.0, hidden_size=hidden_size)
    assert alone.input_ids.numel() == sum(row.size for row in rows)
    assert sorted(np.concatenate(alone.paths).tolist()) == list(range(alone.input_ids.numel()))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@settings(max_examples=25, deadline=None)
@given(rows_that_begin_alike(), st.sampled_from([0.0, 0.05, 0.4, 2.0]), st.sampled_from([None, 40, 10**9]))
def test_each_row_is_read_as_if_it_were_alone(
    family: str, rows: Rows, least_shared: float, hidden_size: int | None
) -> None:
    """Calls for each row, and few for all, of rows of up to several hundred tokens."""
    decoder = model_of(family, VOCABULARY).base_model
    with torch.no_grad():
        found = read_pack(packed_decoder(decoder), pack := Pack(rows, least_shared, hidden_size=hidden_size))
        for row, path in zip(rows, pack.paths, strict=True):
            alone = decoder(torch.from_numpy(row)[None]).last_hidden_state[0]
            torch.testing.assert_close(found[path], alone, rtol=0, atol=1e-5)


def test_the_decoder_that_packs_leaves_the_other_as_it_was() -> None:
    decoder = make_model("llama", VOCABULARY).base_model
    modules = list(decoder.modules())
    weights = {name: weight.data_ptr() for name, weight in decoder.named_parameters()}
    packs = packed_decoder(decoder)
    assert {name: weight.data_ptr() for name, weight in packs.named_parameters()} == weights
    assert list(decoder.modules()) == modules
    assert decoder.config._attn_implementation == decoder.layers[0].self_attn.config._attn_implementation == "sdpa"
    assert not set(modules) & set(packs.modules())


def test_layers_that_hooks_move_among_devices_are_packed_too() -> None:
    """As with a ``device_map`` over several devices."""
    model = make_model("llama", VOCABULARY)
    rows = [np.arange(9) % VOCABULARY, np.append(np.arange(7) % VOCABULARY, [5, 5])]
    with torch.no_grad():
        expected = [model.base_model(torch.from_numpy(row)[None]).last_hidden_state[0] for row in rows]
        layers = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
        layers |= {f"model.layers.{i}": "cpu" for i in range(SIZES["num_hidden_layers"])}
        hooked = accelerate.dispatch_model(model, layers, main_device="cpu", force_hooks=True).base_model
        assert hooked.layers[0]._hf_hook is not None
        found = read_pack(packed_decoder(hooked), pack := Pack(rows, 0.0))
    assert pack.attended == SIZES["num_hidden_layers"]
    for path, alone in zip(pack.paths, expected, strict=True):
        torch.testing.assert_close(found[path], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        (transformers.Qwen2Config, {"use_sliding_window": True, "max_window_layers": 0}, "keys and values of all"),
        (transformers.MistralConfig, {"sliding_window": 8}, "keys and values of all"),
        (transformers.LlamaConfig, {"attn_implementation": "eager"}, "its attention is eager"),
    ],
)
def test_other_attention_is_refused(family: type, changes: dict[str, object], reason: str) -> None:
    model = transformers.AutoModelForCausalLM.from_config(family(**SIZES, vocab_size=VOCABULARY, **changes))
    with pytest.raises(ValueError, match=reason):
        packed_decoder(model.base_model)


def test_attention_that_is_asked_for_more_is_refused() -> None:
    decoder = packed_decoder(make_model("llama", VOCABULARY).base_model)
    forward = decoder.layers[0].self_attn.forward
    decoder.layers[0].self_attn.forward = functools.partial(forward, softcap=30.0)
    with pytest.raises(ValueError, match=r"not merely causal: \['softcap'\]"):
        read_pack(decoder, Pack([np.arange(5)], 0.0))


def read_tokens(rows: Rows, least_shared: float, hidden_size: int | None) -> int:
    return Pack(rows, least_shared, hidden_size=hidden_size).input_ids.numel()


@settings(deadline=None)
@given(
    rows_that_begin_alike(most=6, longest=30),
    st.integers(1, 200),
    st.sampled_from([0.0, 0.05, 0.4, 2.0]),
    st.sampled_from([None, 20]),
)
def test_batches_fit_and_no_other_cut_costs_less(
    rows: Rows, budget: int, least_shared: float, hidden_size: int | None
) -> None:
    batches = plan_packs(rows, budget, least_shared, hidden_size)
    assert sorted(itertools.chain(*batches)) == list(range(len(rows)))

    def fits(batch: list[int]) -> bool:
        some = [rows[i] for i in batch]
        shared = sum(row.size for row in some[:2]) - read_tokens(some[:2], least_shared, hidden_size)
        own = read_tokens(some, least_shared, hidden_size) - shared
        return len(batch) == 1 or own <= budget

    def cost(batches: list[list[int]]) -> float:
        return sum(read_tokens([rows[i] for i in batch], least_shared, hidden_size) + budget / 16 for batch in batches)

    assert all(fits(batch) for batch in batches)
    if hidden_size is not None:
        return  # where a run is cut, more of it may share than was planned
    order = sorted(range(len(rows)), key=lambda i: rows[i].tolist())
    costs = []
    for cuts in itertools.product((False, True), repeat=len(rows) - 1):
        bounds = [0, *(i for i, cut in enumerate(cuts, 1) if cut), len(rows)]
        others = [order[start:end] for start, end in itertools.pairwise(bounds)]
        if all(fits(batch) for batch in others):
            costs.append(cost(others))
    assert cost(batches) == min(costs)


def test_a_prompt_longer_than_a_batch_is_shared() -> None:
    prompt = np.zeros(2500, np.int64)
    rows = [np.concatenate([prompt, np.arange(300) + i]) for i in range(1, 9)]
    assert sum(read_tokens([rows[i] for i in batch], 0.05, None) for batch in plan_packs(rows, 2048, 0.05)) < 7500


def test_a_batch_needs_a_token() -> None:
    with pytest.raises(ValueError, match="tokens_per_batch=0"):
        plan_packs([np.arange(3)], 0, 0.05)


def test_the_longest_row_is_read_with_the_first_batch() -> None:
    """A row that does not fit into memory shows at once."""
    rows = [np.full(size, i) for i, size in enumerate([10, 80, 30])]
    assert plan_packs(rows, 50, 0.0) == [[1], [2], [0]]


def test_rows_share_where_that_saves_enough() -> None:
    def row(prompt: int, response: int, seed: int) -> np.ndarray:
        return np.concatenate([np.zeros(prompt, np.int64), np.arange(response) + seed])

    assert sharing_runs([row(30, 20, 1), row(30, 50, 2), row(0, 49, 3)], 0.05) == [[0, 1], [2]]
    assert sharing_runs([row(30, 500, 1), row(30, 500, 2)], 0.05) == [[0, 1]]
    assert sharing_runs([row(30, 2000, 1), row(30, 2000, 2)], 0.05) == [[0], [1]]  # too little
    assert sharing_runs([row(100, 400, 1), row(100, 400, 2)], 0.05, hidden_size=4000) == [[0, 1]]
    assert sharing_runs([row(100, 400, 1), row(100, 400, 2)], 0.05, hidden_size=300) == [
        [0],
        [1],
    ]  # the mask costs more
