"""The columns of data sets: what counts, what is context, and what is said about columns that are not read."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from rsr_datasets import RSRScorer
from rsr_datasets.reading.encoder import ConversationEncoder
from rsr_datasets.reading.formats import FORMATS, check_columns, find_format
from rsr_datasets.reading.rows import EncodedRow, UnscorableRowError
from rsr_datasets.reading.templates import resolve_chat_template

Row = dict[str, Any]

QUESTION, ANSWER = {"role": "user", "content": "two plus two"}, {"role": "assistant", "content": "four"}
TURN = "<|im_start|>user\ntwo plus two<|im_end|>\n<|im_start|>assistant\nfour"
SYSTEM = "<|im_start|>system\nBe brief<|im_end|>\n"
EARLIER = "<|im_start|>user\nold question<|im_end|>\n<|im_start|>assistant\nold answer<|im_end|>\n"
PAIRS = [["old question", "old answer"]]
CONTEXT = {"system": "Be brief", "history": PAIRS}
QUERY = {"query": "two plus two", "response": "four"}


def encode(tokenizer: PreTrainedTokenizerFast, row: Row, columns: dict[str, str] | None = None) -> EncodedRow:
    encoder = ConversationEncoder(tokenizer, chat_template=resolve_chat_template("chatml"))
    encoded = encoder.encode([row], find_format(row, columns))[0]
    if isinstance(encoded, UnscorableRowError):
        raise encoded
    return encoded


def texts(tokenizer: PreTrainedTokenizerFast, row: Row, columns: dict[str, str] | None = None) -> tuple[str, str]:
    """All that the student reads, and what counts."""
    encoded = encode(tokenizer, row, columns)
    return tokenizer.decode(encoded.input_ids), tokenizer.decode(encoded.input_ids[encoded.positions])


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"messages": [QUESTION, ANSWER]}, None),
        ({"messages": json.dumps([QUESTION, ANSWER])}, None),
        ({"messages": [json.dumps(QUESTION), json.dumps(ANSWER)]}, None),
        ({"conversations": [{"from": "human", "value": "two plus two"}, {"from": "gpt", "value": "four"}]}, None),
        ({"conversations": [{"human": "two plus two", "assistant": "four"}]}, None),
        ({"conversation": [{"human": "two plus two", "assistant": "four"}]}, None),
        ({"prompt": [QUESTION], "completion": [ANSWER]}, None),
        ({"prompt": json.dumps([QUESTION]), "completion": json.dumps([ANSWER])}, None),
        ({"prompt": [QUESTION], "completion": "four"}, None),
        ({"prompt": [QUESTION], "chosen": ANSWER}, {"completion": "chosen"}),
        ({"instruction": "two plus two", "input": "", "output": "four"}, None),
        (QUERY, None),
        ({"user": "two plus two", "assistant": "four"}, None),
        ({"question": "two plus two", "attempt": ["four"]}, {"user": "question", "assistant": "attempt"}),
        ({"conversations": [QUESTION], "chosen": ANSWER}, {"user": "conversations", "assistant": "chosen"}),
    ],
)
def test_a_format_is_a_conversation_after_its_system_prompt_and_history(tokenizer, row: Row, columns) -> None:
    assert texts(tokenizer, row, columns) == (TURN, "four")
    assert texts(tokenizer, row | CONTEXT, columns) == (SYSTEM + EARLIER + TURN, "four")
    assert texts(tokenizer, row | {"system": None, "history": []}, columns) == (TURN, "four")
    blocks = [{"type": "text", "text": "Be brief"}]
    assert texts(tokenizer, row | {"system": blocks}, columns) == (SYSTEM + TURN, "four")


@pytest.mark.parametrize(
    "history",
    [
        PAIRS,
        json.dumps(PAIRS),
        [{"role": "user", "content": "old question"}, {"from": "gpt", "value": "old answer"}],
        [{"query": "old question", "response": "old answer"}],
    ],
)
def test_a_history_is_pairs_or_messages_and_stands_after_a_system_turn(tokenizer, history: Any) -> None:
    turns = [{"role": "system", "content": "Be brief"}, QUESTION, ANSWER]
    for row in (QUERY | {"system": "Be brief"}, {"messages": turns}):
        assert texts(tokenizer, row | {"history": history}) == (SYSTEM + EARLIER + TURN, "four")


def test_masks_and_history_keep_to_their_turns(tokenizer) -> None:
    turns = [QUESTION, {**ANSWER, "weight": 0}, QUESTION, {**ANSWER, "content": "4"}]
    assert texts(tokenizer, {"messages": turns, **CONTEXT})[1] == "4"


def test_a_column_is_read_once(tokenizer) -> None:
    row = {"input": "two plus two", "output": "four"}
    assert texts(tokenizer, row, {"instruction": "input", "output": "output"}) == (TURN, "four")
    with pytest.raises(ValueError, match="'user' and 'assistant' are both 'text'"):
        check_columns({"user": "text", "assistant": "text"})


def test_formats_that_were_read_before_come_first() -> None:
    row = {name: "x" for names in FORMATS.values() for name in names}
    order = []
    for _ in FORMATS:
        order.append(find_format(row).kind)
        del row[FORMATS[order[-1]][0]]
    assert order == [
        *("messages", "conversations", "prompt_completion", "alpaca", "text", "tokenized"),
        *("swift", "conversation", "parts"),
    ]
    assert find_format(["messages", "q", "a"], {"user": "q", "assistant": "a"}).kind == "parts"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (QUERY | {"history": [["only a question"]]}, "column 'history', entry 0: expected a question and its answer"),
        (QUERY | {"history": 3}, "column 'history': expected a list of pairs or of messages, found int"),
        (QUERY | {"system": 3}, "column 'system': expected text, found int"),
        ({"user": ["a", "b"], "assistant": "x"}, "column 'user': a list of 2 texts; explode_candidates"),
        ({"user": "q", "assistant": [QUESTION], "reasoning": "hm"}, "column 'reasoning': reasoning without"),
    ],
)
def test_a_part_that_cannot_be_read_is_named(tokenizer, row: Row, reason: str) -> None:
    with pytest.raises(UnscorableRowError, match=reason) as error:
        encode(tokenizer, row)
    assert error.value.status == "bad_row"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["question", "attempt", "thinking_trajectories", "cot_type"], '"reasoning": "thinking_trajectories"}'),
        (["INSTRUCTION", "RESPONSE"], 'columns={"user": "INSTRUCTION", "assistant": "RESPONSE"}'),
        (["prompt", "chosen", "rejected"], 'else by columns={"user": "prompt", "assistant": "chosen"}'),
        (["instruction", "input", "chosen", "rejected"], 'else by columns={"output": "chosen"}'),
        (["id", "trajectory"], 'columns={"messages": "trajectory"}'),
        (["id", "score"], "accepted are messages, conversations, prompt [+] completion"),
    ],
)
def test_without_a_format_the_error_says_what_to_type(names: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find_format(names)


def test_errors_fit_into_a_line() -> None:
    names = [f"a_column_with_a_long_name_{i}" for i in range(100)]
    for columns in (None, {"user": "x" * 500}, {"x" * 500: "messages"}, {"user": names[0]}):
        with pytest.raises(ValueError, match="column") as error:
            find_format(names, columns)
        assert len(str(error.value)) <= 400


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"system_prompt": "Be brief"}, 'to read them: columns={"system": "system_prompt"}'),
        ({"chat_history": []}, 'to read them: columns={"history": "chat_history"}'),
        ({"functions": []}, 'to read them: columns={"tools": "functions"}'),
        ({"thinking": "hm"}, r"\['thinking'\] seem to belong to the conversation and are not read"),
        ({"chosen": "x", "rejected": "y"}, r"\['chosen', 'rejected'\].*score each side"),
        ({"image": "x.png"}, 'to read them: columns={"images": "image"}'),
        ({"audio": "x.wav"}, r"\['audio'\] seem to belong to the conversation and are not read"),
        ({"history": PAIRS, "system": "Be brief", "id": 3, "source": "web"}, None),
    ],
)
def test_a_column_of_the_conversation_that_is_not_read_is_named_once(
    tokenizer, caplog: pytest.LogCaptureFixture, more: Row, said: str | None
) -> None:
    add_rsr = RSRScorer("student", tokenizer=tokenizer)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            add_rsr.find_format({"messages": [], **more})
    assert len(caplog.records) == (said is not None)
    if said:
        assert re.search(said, caplog.records[0].getMessage()) and len(caplog.records[0].getMessage()) <= 400


def test_the_named_columns_stay_in_what_is_to_be_typed(tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    row = {"q": "two plus two", "completion": "four", "thinking": "hm", "system": "Be brief"}
    RSRScorer("student", tokenizer=tokenizer, columns={"prompt": "q"}).find_format(row)
    named = {"user": "q", "assistant": "completion", "system": "system", "reasoning": "thinking"}
    assert f"to read them: columns={json.dumps(named)}" in caplog.text
    del row["system"], row["thinking"]
    parts = {"user": "q", "assistant": "completion"}
    RSRScorer("student", tokenizer=tokenizer, columns=parts).find_format(row | {"cot": "hm"})
    assert f"to read them: columns={json.dumps(parts | {'reasoning': 'cot'})}" in caplog.text


def said_by(tokenizer: PreTrainedTokenizerFast, rows: list[Row], caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    ConversationEncoder(tokenizer).encode(rows, find_format(rows[0]))
    return [record.getMessage() for record in caplog.records]


def test_texts_that_pass_no_template_are_said_once_with_what_applies_it(tokenizer, caplog) -> None:
    row = {"prompt": "two plus two", "completion": "four"}
    (said,) = said_by(tokenizer, [row, row], caplog)
    assert said.startswith("columns 'prompt' and 'completion' are texts, scored as they stand")
    assert 'columns={"user": "prompt", "assistant": "completion"}' in said
    (said,) = said_by(tokenizer, [row | CONTEXT], caplog)
    assert "and without ['system', 'history']" in said and '"history": "history"}' in said
    assert said_by(tokenizer, [{"prompt": [QUESTION], "completion": [ANSWER]}], caplog) == []


@pytest.mark.parametrize("marker", ["<|im_start|>assistant\n", "[/INST]", "<start_of_turn>model\n", "### Response:\n"])
def test_text_that_holds_a_rendered_chat_is_said_once(tokenizer, caplog, marker: str) -> None:
    row = {"text": f"two plus two\n{marker}four"}
    (said,) = said_by(tokenizer, [row, row], caplog)
    assert said.startswith("column 'text' holds rendered conversations") and marker.strip() in said
    assert said_by(tokenizer, [{"text": "two plus two is four"}], caplog) == []


def test_a_system_column_that_a_system_turn_overrides_is_said(tokenizer, caplog) -> None:
    turns = [{"role": "system", "content": "Be long"}, QUESTION, ANSWER]
    (said,) = said_by(tokenizer, [{"messages": turns, "system": "Be brief"}], caplog)
    assert said.startswith("column 'system' is not read where the messages have a system turn")
    assert said_by(tokenizer, [{"messages": turns, "system": "Be long"}], caplog) == []
