"""Messages in the conventions of trainers and of APIs, and their reasoning in a field or in the content."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import make_model
from transformers import PreTrainedTokenizerFast

from rsr_datasets import RSRScorer
from rsr_datasets.reading.calls import read_tools
from rsr_datasets.reading.encoder import ConversationEncoder
from rsr_datasets.reading.formats import find_format, read_conversation
from rsr_datasets.reading.messages import read_messages
from rsr_datasets.reading.reasoning import Reasoning, place_reasoning
from rsr_datasets.reading.rows import UnscorableRowError
from rsr_datasets.reading.templates import resolve_chat_template

Row = dict[str, Any]

FUNCTION = {"name": "weather", "arguments": {"city": "Rome"}}
TEXT_FUNCTION = {"name": "weather", "arguments": '{"city": "Rome"}'}
CALL = {"type": "function", "function": FUNCTION}
TEXT_CALL = {"type": "function", "function": TEXT_FUNCTION}
QUESTION = {"role": "user", "content": "q"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def read(*turns: Any) -> list[Row]:
    return read_messages([*turns], "messages")[0]


def said(role: str, **turn: Any) -> Row:
    (message,) = read({"role": role, **turn})
    return message


@pytest.mark.parametrize(
    ("names", "role"),
    [
        (["user", "User", "human", "HUMAN", "prompter"], "user"),
        (["assistant", "gpt", "GPT", "ai", "AI", "bot", "model", "chatbot", " Assistant "], "assistant"),
        (["tool", "observation", "tool_response", "Tool Response", "function-response", "ipython"], "tool"),
        (["tool_result", "tool_results", "function_output", "function"], "tool"),
        (["system", "System", "system_prompt"], "system"),
    ],
)
def test_a_role_is_read_under_the_names_in_use(names: list[str], role: str) -> None:
    assert {said(name, content="x")["role"] for name in names} == {role}


@pytest.mark.parametrize("role", ["function_call", "tool_call", "Tool Calls"])
@pytest.mark.parametrize(
    "content",
    [
        FUNCTION,
        [FUNCTION],
        CALL,
        json.dumps(FUNCTION),
        json.dumps([FUNCTION]),
        {"name": "weather", "parameters": {"city": "Rome"}},
    ],
)
def test_a_turn_that_is_a_call_is_the_templates_tool_call(role: str, content: Any) -> None:
    assert said(role, content=content) == {"role": "assistant", "content": "", "tool_calls": [CALL]}


def test_calls_in_a_row_are_one_turn_and_keep_to_their_masks() -> None:
    call = {"from": "tool_call", "value": json.dumps(FUNCTION)}
    assert read(QUESTION, call, call)[1:] == [{"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}]
    text = {"from": "gpt", "value": "Let me see."}
    assert read(QUESTION, text, call)[1:] == [{"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]}]
    messages, masked = read_messages([QUESTION, text, {**call, "loss": False}], "messages")
    assert len(messages) == 3 and masked == {2}


def test_a_call_turn_keeps_its_reasoning_and_other_text_stays_text() -> None:
    thought = said("function_call", content=f"<think>hm</think>\n{json.dumps(FUNCTION)}")
    assert thought == {"role": "assistant", "content": "<think>hm</think>", "tool_calls": [CALL]}
    assert said("function_call", content="weather(Rome)") == {"role": "assistant", "content": "weather(Rome)"}


@pytest.mark.parametrize(
    "turn",
    [
        {"tool_calls": [CALL]},
        {"tool_calls": json.dumps([CALL])},
        {"tool_calls": [FUNCTION]},
        {"tool_calls": [{"name": "weather", "args": {"city": "Rome"}}]},
        {"function_call": FUNCTION},
        {"function_call": FUNCTION, "tool_calls": [CALL]},
        {"content": [{"type": "tool_use", "name": "weather", "input": {"city": "Rome"}}]},
        {"content": [{"type": "tool_call", "value": json.dumps(FUNCTION)}]},
        {"content": [{"type": "tool_use", "name": "weather", "input": {"city": "Rome"}}], "tool_calls": [CALL]},
    ],
)
def test_a_call_is_one_wherever_it_is_stored(turn: Row) -> None:
    assert said("assistant", **turn) == {"role": "assistant", "content": "", "tool_calls": [CALL]}


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "an answer"}],
        [{"type": "text", "value": "an "}, {"type": "output_text", "text": "answer"}],
        [{"type": "text", "content": "an answer"}],
        ["an ", "answer"],
        [{"text": "an answer"}],
        {"type": "text", "text": "an answer"},
    ],
)
def test_blocks_of_text_are_text(content: Any) -> None:
    assert said("assistant", content=content) == {"role": "assistant", "content": "an answer"}


def test_blocks_of_anthropic_are_reasoning_calls_and_tool_results() -> None:
    call = {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Rome"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "12"}]}
    thinking = {"type": "thinking", "thinking": "hm", "signature": "x"}
    text = {"type": "text", "text": "Let me see."}
    as_call = {"id": "t", **CALL}
    assert read(
        QUESTION,
        {"role": "assistant", "content": [thinking, text, call]},
        {"role": "user", "content": [result, {"type": "text", "text": "go on"}]},
        {"role": "assistant", "content": [call, text]},
    ) == [
        QUESTION,
        {"role": "assistant", "reasoning_content": "hm", "content": "Let me see.", "tool_calls": [as_call]},
        {"role": "tool", "tool_call_id": "t", "content": "12"},
        {"role": "user", "content": "go on"},
        {"role": "assistant", "content": "", "tool_calls": [as_call]},
        {"role": "assistant", "content": "Let me see."},
    ]


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (
            {"role": "user", "content": [{"type": "image", "url": "x"}]},
            "message 0: cannot read a block of type 'image'",
        ),
        ({"role": "user", "content": [{"type": "x" * 500}]}, "cannot read a block of type 'xxx"),
        ({"role": "assistant", "content": [{"type": "tool_use"}]}, "cannot read a block of type 'tool_use' with the"),
        (
            {"role": "user", "content": [{"type": "thinking", "thinking": "x"}]},
            "type 'thinking' in a turn of the role",
        ),
        ({"role": "user", "text": "q"}, r"message 0: no 'content'; found the keys \['role', 'text'\]"),
        ({"role": "user", "text": "q", "content": None}, "message 0: no 'content'"),
        ({"speaker": "user", "text": "q"}, r"message 0: no 'role'; found the keys \['speaker', 'text'\]"),
        ({"role": "narrator" * 100, "content": "q"}, "unknown role 'narrator"),
        ({"role": "assistant", "function_call": "weather"}, "'function_call' must be a dict"),
        (
            {"role": "assistant", "reasoning": "a", "content": [{"type": "thinking", "thinking": "b"}]},
            "hold different reasoning",
        ),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(turn: Row, reason: str) -> None:
    with pytest.raises(UnscorableRowError, match=reason) as error:
        read(turn)
    assert error.value.status == "bad_row" and len(str(error.value)) <= 400


def test_nulls_of_json_stay_and_those_that_arrow_fills_in_go() -> None:
    call = {"function": {"name": "f", "arguments": {"unit": None}}, "id": None}
    turn = {"role": "assistant", "content": "x", "tool_calls": [call], "name": None}
    (as_json,) = read_messages(json.dumps([turn]), "messages")[0]
    assert as_json["tool_calls"][0]["function"]["arguments"] == {"unit": None}
    assert "name" not in as_json and "id" not in as_json["tool_calls"][0]
    assert said(**turn)["tool_calls"][0]["function"]["arguments"] == {}


@pytest.mark.parametrize(
    "tools",
    [
        [{"name": "weather", "parameters": SCHEMA}],
        {"name": "weather", "parameters": SCHEMA},
        [{"type": "function", "name": "weather", "parameters": SCHEMA}],
        [{"name": "weather", "input_schema": SCHEMA}],
        json.dumps([{"name": "weather", "parameters": SCHEMA}]),
        [json.dumps({"name": "weather", "parameters": SCHEMA})],
        [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}],
    ],
)
def test_tools_are_wrapped_as_templates_expect(tools: Any) -> None:
    assert read_tools(tools) == [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]


def test_arguments_are_tried_as_an_object_before_text(tokenizer: PreTrainedTokenizerFast) -> None:
    template = ConversationEncoder(tokenizer, chat_template=resolve_chat_template("trl:gemma4_v5"))
    found = []
    for call in (CALL, TEXT_CALL):
        row = {"messages": [QUESTION, {"role": "assistant", "content": "", "tool_calls": [call]}]}
        found.append(tokenizer.decode(template.encode([row], find_format(row))[0].input_ids))
    assert found[0] == found[1] and "{{" not in found[1]


REASONED = {"content": "four", "reasoning_content": "hm"}
INLINE = "<think>\nhm\n</think>\n\nfour"


@pytest.mark.parametrize(
    ("turn", "reasoning", "placed"),
    [
        (REASONED, "as_is", REASONED),
        (REASONED, "in_content", {"content": INLINE}),
        ({"content": "four", "thinking": "hm", "reasoning": "hm"}, "in_content", {"content": INLINE}),
        ({"content": INLINE, "reasoning": "hm"}, "in_content", {"content": INLINE}),
        ({"content": INLINE}, "in_content", {"content": INLINE}),
        ({"content": "four"}, "in_content", {"content": "four"}),
        ({"content": INLINE}, "in_field", REASONED),
        ({"content": "<think>hm</think>four"}, "in_field", REASONED),
        ({"content": "hm\n</think>\n\nfour"}, "in_field", REASONED),
        ({"content": INLINE, "reasoning_content": "hm"}, "in_field", REASONED),
        (REASONED, "in_field", REASONED),
        ({"content": "so <think>hm</think> four"}, "in_field", {"content": "so <think>hm</think> four"}),
        ({"content": "four"}, "in_field", {"content": "four"}),
    ],
)
def test_reasoning_is_placed_where_the_argument_says(turn: Row, reasoning: Reasoning, placed: Row) -> None:
    row = {"messages": [QUESTION, {"role": "assistant", **turn}]}
    conversation = read_conversation(row, find_format(row))
    assert not isinstance(conversation, tuple)
    assert place_reasoning(conversation, reasoning).messages[1] == {"role": "assistant", **placed}


def test_different_reasoning_in_two_places_is_refused() -> None:
    row = {"messages": [QUESTION, {"role": "assistant", "content": INLINE, "reasoning": "another"}]}
    conversation = read_conversation(row, find_format(row))
    assert not isinstance(conversation, tuple)
    assert place_reasoning(conversation, "as_is") is conversation
    for reasoning in ("in_content", "in_field"):
        with pytest.raises(UnscorableRowError, match="different reasoning in several places"):
            place_reasoning(conversation, reasoning)


def test_reasoning_is_a_setting_where_it_is_not_the_default(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("llama", len(tokenizer))
    assert "reasoning" not in RSRScorer(model, tokenizer=tokenizer).settings
    assert RSRScorer(model, tokenizer=tokenizer, reasoning="in_field").settings["reasoning"] == "in_field"
    with pytest.raises(ValueError, match="reasoning='inline': must be one of"):
        RSRScorer("student", reasoning="inline")
