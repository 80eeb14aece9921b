"""Rows as bad as data sets can make them, and long ones: none stops a run, changes another or goes unexplained."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import conversation, make_model, make_tokenizer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rsr_datasets import RSRScorer
from rsr_datasets.reading.formats import FORMATS, OPTIONAL_COLUMNS, find_format
from rsr_datasets.tables.columns import STATUSES_WITH_SCORE, STATUSES_WITHOUT_SCORE

ROWS_A_DATASET, DATASETS = 25, 220  # 5,500 rows

FRAGMENTS = [
    *(
        "",
        " ",
        "\n\n",
        "\x00",
        "\x07\x1b[31m",
        "\u200f",
        "שלום",
        "مرحبا",
        "👩‍👩‍👧‍👦🏳️‍🌈",
        "e\u0301\u0327",
        "\ufeff",
        "\ufffd",
        "答案",
    ),
    *("{{ 7*7 }}", "{% raw %}", "{%- endfor %}", "{# x #}", "{{ raise_exception('x') }}", "{% generation %}"),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>", "<tool_call>", "</s>", "<|eot_id|>"),
    *("assistant", "user", "\U000f0100", "\U000f0101", "\U000ffffd", "\ud800", "x = 3", "the answer is 42."),
]
HUGE = ["x" * 50_000, "the answer " * 5_000, "🙂" * 3_000, "\n" * 20_000, "<|im_end|>" * 2_000]

texts = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=5).map("".join),
    st.text(max_size=30),
    st.just("The answer is 42."),
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.binary(max_size=3), st.dates(), texts, st.just(10**4000)
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(texts, st.integers()), inner, max_size=3),
        st.tuples(inner, inner),
    ),
    max_leaves=6,
)
arguments = st.one_of(
    st.dictionaries(texts, anything, max_size=2),
    st.just('{"city": "Paris"}'),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2).map(json.dumps),
    anything,
)
names = st.one_of(st.just("get_weather"), texts)
plain_calls = st.fixed_dictionaries({}, optional={"name": names, "arguments": arguments, "id": anything})
calls = st.one_of(
    plain_calls, st.fixed_dictionaries({"function": plain_calls}, optional={"type": st.just("function")})
)
tool_calls = st.one_of(
    st.lists(calls, max_size=3),
    st.lists(st.one_of(calls, anything), max_size=2),
    anything,
    st.just("[]"),
    st.just("[{}]"),
)
blocks = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "video", None, "thinking", "tool_use", "tool_result"])},
    optional={
        name: st.one_of(texts, anything)
        for name in ("text", "value", "thinking", "name", "input", "content", "image", "path", "source")
    },
)
contents = st.one_of(texts, texts, texts, st.lists(blocks, max_size=3), anything)
messages = st.fixed_dictionaries(
    {},
    optional={
        "role": st.one_of(
            st.sampled_from(["system", "user", "assistant", "tool", "gpt", "Human", "function_call", "narrator"]),
            anything,
        ),
        "content": contents,
        "from": st.sampled_from(["human", "gpt", "function_call", 7]),
        "value": contents,
        "reasoning_content": st.one_of(texts, anything),
        "thinking": texts,
        "tool_calls": tool_calls,
        "function_call": calls,
        "weight": anything,
    },
)
good_turns = st.builds(conversation, texts, texts)
good_calls = st.builds(
    lambda question, content, some: [
        {"role": "user", "content": question},
        {"role": "assistant", "content": content, "tool_calls": some},
        {"role": "tool", "content": content},
        {"role": "assistant", "content": "Done."},
    ],
    texts,
    texts,
    tool_calls,
)
conversations = st.one_of(
    good_turns,
    st.lists(good_turns, max_size=3).map(lambda turns: [message for turn in turns for message in turn]),
    good_calls,
    st.lists(messages, max_size=4),
    anything,
)
keyword_names = ["enable_thinking", "messages", "tools", "conversations", "chat_template", "add_generation_prompt"]
keywords = st.one_of(
    st.none(),
    st.dictionaries(
        st.one_of(st.sampled_from([*keyword_names, "continue_final_message"]), texts), anything, max_size=2
    ),
    anything,
)
numbers = st.one_of(
    st.none(), st.just([1, 2, 3]), st.just([-100, 2, 3]), st.lists(st.integers(-101, 500), max_size=4), anything
)
VALUES = {
    **dict.fromkeys(("messages", "conversations", "conversation"), st.one_of(conversations, texts)),
    **dict.fromkeys(("prompt", "completion"), st.one_of(texts, conversations)),
    **dict.fromkeys(("instruction", "input", "output", "text", "query", "response"), st.one_of(texts, anything)),
    **dict.fromkeys(("system", "user", "assistant", "reasoning"), st.one_of(texts, anything)),
    "history": st.one_of(st.none(), st.lists(st.tuples(texts, texts), max_size=2), conversations),
    "tools": st.one_of(st.none(), st.lists(st.one_of(calls, texts), max_size=2), anything),
    "chat_template_kwargs": keywords,
    **dict.fromkeys(("images", "videos"), st.one_of(st.none(), st.none(), st.none(), st.just([]), anything)),
    **dict.fromkeys(("input_ids", "position_ids"), numbers),
    **dict.fromkeys(("labels", "completion_mask", "assistant_masks"), st.one_of(st.none(), numbers)),
    **dict.fromkeys(("attention_mask", "seq_lengths"), st.one_of(st.none(), st.none(), numbers)),
}


@st.composite
def datasets_of_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    kind = draw(st.sampled_from(["messages", "messages", *FORMATS]))
    row = st.fixed_dictionaries(
        {name: VALUES[name] for name in FORMATS[kind]},
        optional={name: VALUES[name] for name in OPTIONAL_COLUMNS[kind]},
    )
    rows = draw(st.lists(row, min_size=ROWS_A_DATASET, max_size=ROWS_A_DATASET))
    if draw(st.integers(0, 19)) == 0:
        name = FORMATS[kind][-1]
        huge = draw(st.sampled_from(HUGE))
        rows[0] = {**rows[0], name: conversation("?", huge) if name in ("messages", "conversations") else huge}
    return [{name: row.get(name) for name in (*FORMATS[kind], *OPTIONAL_COLUMNS[kind])} for row in rows]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return make_model("llama", len(make_tokenizer()))


@pytest.fixture(scope="module", params=[None, "trl:qwen3", "trl:gemma4_v5"])
def add_rsr(request: pytest.FixtureRequest, model: PreTrainedModel) -> RSRScorer:
    tokenizer = make_tokenizer()
    tokenizer.bos_token = "<|endoftext|>"
    return RSRScorer(model, tokenizer=tokenizer, chat_template=request.param, max_length=64, token_columns=True)


def test_hostile_rows_are_scored_or_explained_each_for_itself(add_rsr: RSRScorer) -> None:
    seen: dict[str, int] = {}

    @settings(
        max_examples=-(-DATASETS // 3),
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(datasets_of_rows())
    def check(rows: list[dict[str, Any]]) -> None:
        row_format = find_format(rows[0])
        encoded = add_rsr.encode(rows, row_format)
        outcomes = add_rsr.score_encoded(encoded)
        assert len(outcomes) == len(rows)
        alone = [add_rsr.score_encoded(add_rsr.encode([row], row_format))[0] for row in rows]
        for outcome, single in zip(outcomes, alone, strict=True):
            assert outcome.status == single.status
            seen[outcome.status] = seen.get(outcome.status, 0) + 1
            if outcome.status in STATUSES_WITH_SCORE:
                assert np.array_equal(outcome.token_ids, single.token_ids)
                np.testing.assert_allclose(outcome.surprisals, single.surprisals, rtol=0, atol=1e-5)
            else:
                assert outcome.status in STATUSES_WITHOUT_SCORE and outcome.surprisals is None
        columns = add_rsr.to_columns(outcomes)
        scores, statuses = columns["rsr"].to_pylist(), columns["rsr_status"].to_pylist()
        assert [score is None for score in scores] == [status not in STATUSES_WITH_SCORE for status in statuses]
        assert {len(column) for column in columns.values()} == {len(rows)}

    check()
    assert sum(seen.values()) >= DATASETS // 3 * ROWS_A_DATASET
    assert min(seen.get(status, 0) for status in ("scored", "truncated", "no_response", "bad_row")) > 20, seen


@settings(max_examples=60, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(datasets_of_rows())
def test_a_table_of_hostile_rows_keeps_its_rows(rows: list[dict[str, Any]]) -> None:
    add_rsr = _small_scorer()
    kept: list[dict[str, Any]] = []
    for row in rows:
        try:
            pa.Table.from_pylist([*kept, row]).validate(full=True)
        except (pa.ArrowException, OverflowError, ValueError, TypeError):
            continue  # Arrow cannot hold this row beside the others
        kept.append(row)
    if not kept:
        return
    table = pa.Table.from_pylist(kept)
    if any(pa.types.is_binary(field.type) or pa.types.is_date(field.type) for field in table.schema):
        return
    scored = add_rsr(table)
    assert scored.num_rows == len(kept) and scored.column_names[: table.num_columns] == table.column_names
    assert scored["rsr_status"].null_count == 0


def _small_scorer(cache: list[RSRScorer] = []) -> RSRScorer:  # noqa: B006  built once
    if not cache:
        tokenizer = make_tokenizer()
        cache.append(RSRScorer(make_model("llama", len(tokenizer)), tokenizer=tokenizer, max_length=64))
    return cache[0]


@pytest.mark.parametrize(
    "value", [10**5000, b"x", float("nan"), {1: {(2, 3): None}}], ids=["long", "bytes", "nan", "keys"]
)
@pytest.mark.parametrize("template", ["chatml", "trl:deepseekv3", "trl:qwen3", "trl:gemma4_v5"])
def test_arguments_that_are_no_json_stay_with_their_row(
    tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel, value: object, template: str
) -> None:
    calls = [{"type": "function", "function": {"name": "f", "arguments": {"n": value}}}]
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "x = 3", "tool_calls": calls}]
    add_rsr = RSRScorer(model, tokenizer=tokenizer, chat_template=template)
    bad, good = add_rsr.encode([{"messages": turns}, {"messages": TURNS}], find_format(["messages"]))
    assert bad.status in ("scored", "bad_row", "template_dropped_text") and good.status == "scored"


@pytest.mark.parametrize("place", ["role", "content", "tool_calls", "weight", "arguments"])
def test_a_number_too_long_to_print_is_a_bad_row_or_ignored(tokenizer: PreTrainedTokenizerFast, place: str) -> None:
    number = 10**5000
    answer: dict[str, Any] = {"role": "assistant", "content": "x = 3", place: number}
    if place == "arguments":
        answer = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"n": number}}]}
    row = {"messages": [{"role": "user", "content": "?"}, answer]}
    encoded = _small_scorer().encode([row], find_format(row))[0]
    expected = {"weight": "scored", "arguments": "template_dropped_text"}
    assert encoded.status == expected.get(place, "bad_row")


def test_a_tuple_of_conversations_is_a_batch(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel) -> None:
    add_rsr = RSRScorer(model, tokenizer=tokenizer)
    turns = [conversation("Solve it.", "x = 3"), conversation("And?", "the answer is 42.")]
    assert add_rsr({"messages": tuple(turns)}) == add_rsr({"messages": turns})
    assert add_rsr({"messages": tuple(turns[0])}) == add_rsr({"messages": turns[0]})


def test_columns_of_different_lengths_are_the_callers_mistake(
    tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel
) -> None:
    add_rsr = RSRScorer(model, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"different lengths: \{'prompt': 2, 'completion': 1\}"):
        add_rsr({"prompt": ["Solve it.", "And?"], "completion": [" x = 3"]})
    history = [*conversation("Solve it.", "x = 3"), {"role": "user", "content": "And?"}]
    assert (
        add_rsr({"prompt": history, "completion": [{"role": "assistant", "content": "y"}]})["rsr_status"] == "scored"
    )


def test_columns_that_are_no_dict_are_the_callers_mistake(
    tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel
) -> None:
    with pytest.raises(ValueError, match="columns='messages': must be a dict"):
        RSRScorer(model, tokenizer=tokenizer, columns="messages")


TURNS = [*conversation("Solve it.", "the answer is 42."), *conversation("And this?", "f(n) = 2 f(n-1) + 3")]


@pytest.mark.parametrize("over", [-1, 0, 1, 2])
def test_a_row_around_max_length(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel, over: int) -> None:
    whole = RSRScorer(model, tokenizer=tokenizer, token_columns=True)({"id": 0, "messages": TURNS})
    length = RSRScorer(model, tokenizer=tokenizer).encode([{"messages": TURNS}], find_format(["messages"]))[0]
    limited = RSRScorer(model, tokenizer=tokenizer, token_columns=True, max_length=length.input_ids.size - over)
    found = limited({"id": 0, "messages": TURNS})
    assert found["rsr_status"] == ("truncated" if over > 0 else "scored")
    kept = whole["rsr_num_tokens"] - max(over, 0)
    assert found["rsr_num_tokens"] == kept
    assert found["rsr_token_ids"] == whole["rsr_token_ids"][:kept]
    np.testing.assert_allclose(found["rsr_token_surprisals"], whole["rsr_token_surprisals"][:kept], rtol=0, atol=1e-5)


def test_every_length_keeps_the_tokens_that_fit(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel) -> None:
    """Cut in the first turn, between the turns, in the later turn, and before any response token."""
    row, row_format = {"messages": TURNS}, find_format(["messages"])
    whole = RSRScorer(model, tokenizer=tokenizer).encode([row], row_format)[0]
    for limit in range(2, whole.input_ids.size + 1):
        cut = RSRScorer(model, tokenizer=tokenizer, max_length=limit).encode([row], row_format)[0]
        fitting = whole.positions[whole.positions < limit]
        if not fitting.size:
            assert cut.status == "skipped_too_long"
            continue
        assert np.array_equal(cut.positions, fitting)
        assert np.array_equal(cut.input_ids, whole.input_ids[: fitting[-1] + 1])
        assert cut.status == ("scored" if limit == whole.input_ids.size else "truncated")


def test_positions_beyond_the_students_own_are_warned_of_once(
    tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    student = make_model("llama", len(tokenizer), max_position_embeddings=12)
    rows = [{"messages": TURNS}]
    with caplog.at_level(logging.WARNING):
        RSRScorer(student, tokenizer=tokenizer, max_length=12).encode(rows, find_format(["messages"]))
        assert not [record for record in caplog.records if "max_position_embeddings" in record.message]
        caplog.clear()
        longer = RSRScorer(student, tokenizer=tokenizer, max_length=99)
        for _ in range(2):
            longer.encode(rows, find_format(["messages"]))
    warnings = [record.message for record in caplog.records if "max_position_embeddings" in record.message]
    assert len(warnings) == 1 and warnings[0].startswith("max_length=99: the student was made for 12 positions")


def test_a_row_of_a_million_characters_without_a_space(tokenizer: PreTrainedTokenizerFast) -> None:
    found = _small_scorer()({"messages": [conversation("?", "x" * 1_000_000), conversation("?", "x = 3")]})
    assert found["rsr_status"] == ["truncated", "scored"]
