"""A row to token ids and the positions to score, in the templates of real families."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from conftest import CHATML, conversation, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from rsr_datasets import RSRScorer
from rsr_datasets.reading.encoder import ConversationEncoder
from rsr_datasets.reading.formats import find_format
from rsr_datasets.reading.formats.tokenized import encode_tokenized
from rsr_datasets.reading.rows import EncodedRow, UnscorableRowError, fit
from rsr_datasets.reading.templates import ChatTemplate, resolve_chat_template

USUAL_FAMILIES = [
    "qwen2_5",
    "qwen3",
    "qwen3_instruct_2507",
    "llama3",
    "llama3_1",
    "gemma",
    "gemma3",
    "phi3",
    "cohere2",
]
BLOCK = "<think>\n\n</think>\n\n"  # Qwen3's template inserts it in the last turn, and no prompt supplies it
TRIMMING = ("llama3", "llama3_1", "gemma", "gemma3")
MARKERS = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>"]
MORE_MARKERS = ["<end_of_turn>", "<|end|>", "<|user|>", "<|assistant|>", "<|END_OF_TURN_TOKEN|>", "<tool_call>"]

CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": 'Pa"ris', "days": 3}}}
TOOL_CONVERSATION = [
    {"role": "user", "content": "weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "get_weather", "content": "get_weather says: sunny"},
    {"role": "assistant", "content": "It is sunny."},
]


@pytest.fixture(scope="module")
def family_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that knows the turn markers of the usual families, so that they never merge with text."""
    tokenizer = make_tokenizer()
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.add_tokens([AddedToken(marker, special=True) for marker in (*MARKERS, *MORE_MARKERS)])
    return tokenizer


def encode(
    tokenizer: PreTrainedTokenizerFast, row: dict, template: str | None = None, **options: object
) -> EncodedRow:
    encoder = ConversationEncoder(tokenizer, chat_template=resolve_chat_template(template), **options)
    encoded = encoder.encode([row], find_format(row))[0]
    if isinstance(encoded, UnscorableRowError):
        raise encoded
    return encoded


def scored_text(tokenizer: PreTrainedTokenizerFast, row: dict, template: str | None = None, **options: object) -> str:
    encoded = encode(tokenizer, row, template, **options)
    return tokenizer.decode(encoded.input_ids[encoded.positions])


def own_text(tokenizer: PreTrainedTokenizerFast, row: dict, template: str | None = None) -> str:
    """The characters found to be the assistant's own, before they are tokenized."""
    encoder = ConversationEncoder(tokenizer, chat_template=resolve_chat_template(template))
    rendered = encoder._read(row, find_format(row))[0]
    return "".join(c for c, own in zip(rendered.text, rendered.own, strict=True) if own)


@pytest.mark.parametrize("family", USUAL_FAMILIES)
def test_the_scored_text_is_the_content_of_every_turn(family_tokenizer, family: str) -> None:
    turns = [*conversation("What is 2+2?", "It is 4."), *conversation("And 3+3?", "It is\n\n6, I think")]
    block = BLOCK if family == "qwen3" else ""
    found = scored_text(family_tokenizer, {"messages": turns}, f"trl:{family}")
    assert found == f"It is 4.{block}It is\n\n6, I think"
    last = scored_text(family_tokenizer, {"messages": turns}, f"trl:{family}", turns="last")
    assert last == block + "It is\n\n6, I think"


@pytest.mark.parametrize(
    ("family", "before", "between"),
    [
        ("qwen3", "<think>\n", "\n</think>\n\n"),
        ("qwen3_5_think", "", "\n</think>\n\n"),  # the prompt supplies the opening tag
        ("gptoss", "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ],
)
def test_reasoning_counts_with_all_that_the_prompt_does_not_supply(
    tokenizer, family: str, before: str, between: str
) -> None:
    turns = conversation("What is 2+2?", "It is 4.")
    turns[1]["reasoning_content"] = "hm, 2+2"
    found = own_text(tokenizer, {"messages": turns}, f"trl:{family}")
    assert found == f"{before}hm, 2+2{between}It is 4."


@pytest.mark.parametrize("family", [*USUAL_FAMILIES, None])
@pytest.mark.parametrize("content", ["\n  It is 4.\n\n ", " x", "x\n", "\n\n\nx\n\n\n"])
def test_white_space_at_the_ends_counts_as_far_as_the_template_keeps_it(
    family_tokenizer, family: str | None, content: str
) -> None:
    template = f"trl:{family}" if family else None
    kept = content.strip() if family in TRIMMING else BLOCK + content.lstrip("\n") if family == "qwen3" else content
    assert own_text(family_tokenizer, {"messages": conversation("?", content)}, template) == kept


def test_the_headers_newline_is_not_taken_for_the_contents_own(family_tokenizer) -> None:
    trimming = CHATML.replace("message['content']", "message['content'] | trim")
    row = {"messages": conversation("?", "\nIt is 4.\n")}
    assert scored_text(family_tokenizer, row, trimming) == "It is 4."


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=3), st.sampled_from(["chatml", "llama3", None]))
def test_any_text_is_found_in_any_place(answers: list[str], template: str | None) -> None:
    tokenizer = _hypothesis_tokenizer()
    turns = [message for answer in answers for message in conversation("the answer is 42.", answer)]
    text = "".join(answer for answer in answers if answer.strip())
    try:
        text.encode()
    except UnicodeEncodeError:
        with pytest.raises(UnscorableRowError, match="surrogate"):
            encode(tokenizer, {"messages": turns}, template)
        return
    if not text:
        with pytest.raises(UnscorableRowError, match="empty"):
            encode(tokenizer, {"messages": turns}, template)
        return
    assert own_text(tokenizer, {"messages": turns}, template) == text


def _hypothesis_tokenizer(cache: list = []) -> PreTrainedTokenizerFast:  # noqa: B006  built once
    if not cache:
        cache.append(make_tokenizer())
    return cache[0]


def test_the_first_response_token_is_the_first_that_contains_response_text(tokenizer) -> None:
    whole = tokenizer("the answer")["input_ids"]
    merged = next(
        i
        for i, (start, end) in enumerate(tokenizer("the answer", return_offsets_mapping=True)["offset_mapping"])
        if end - start > 2
    )
    offsets = tokenizer("the answer", return_offsets_mapping=True)["offset_mapping"]
    cut = offsets[merged][0] + 1
    encoded = encode(tokenizer, {"prompt": "the answer"[:cut], "completion": "the answer"[cut:]})
    assert encoded.input_ids.tolist() == whole
    assert encoded.positions.tolist() == [i for i in range(merged, len(whole)) if i > 0]


def test_a_bos_token_is_context_for_the_first_token_of_a_text(tokenizer) -> None:
    from tokenizers.processors import TemplateProcessing

    with_bos = make_tokenizer()
    bos = with_bos.convert_tokens_to_ids("<|endoftext|>")
    processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)])
    with_bos.backend_tokenizer.post_processor = processor
    encoded = encode(with_bos, {"text": "the answer"})
    assert encoded.input_ids.tolist() == [bos, *tokenizer("the answer")["input_ids"]]
    assert encoded.positions.tolist() == list(range(1, encoded.input_ids.size))


def test_a_rows_own_template_arguments_win(tokenizer) -> None:
    template = CHATML.replace("{{ '<|im_start|>'", "{{ style | default('none') }}{{ '<|im_start|>'")
    row = {"messages": conversation("?", "x"), "chat_template_kwargs": {"style": "row's", "other": None}}
    encoder = ConversationEncoder(tokenizer, chat_template=template, chat_template_kwargs={"style": "scorer's"})
    assert encoder._read(row, find_format(row))[0].text.startswith("row's<|im_start|>")
    row.pop("chat_template_kwargs")
    assert encoder._read(row, find_format(row))[0].text.startswith("scorer's<|im_start|>")


def test_tools_and_template_arguments_may_be_json_text(family_tokenizer) -> None:
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
    as_lists = {"messages": TOOL_CONVERSATION, "tools": tools, "chat_template_kwargs": {"enable_thinking": True}}
    as_text = as_lists | {name: json.dumps(as_lists[name]) for name in ("tools", "chat_template_kwargs")}
    expected, found = (encode(family_tokenizer, row, "trl:qwen3") for row in (as_lists, as_text))
    assert np.array_equal(found.input_ids, expected.input_ids)
    with pytest.raises(UnscorableRowError, match="column 'tools': text that is not JSON"):
        encode(family_tokenizer, as_text | {"tools": "{"}, "trl:qwen3")


def test_a_template_from_a_file(tokenizer, tmp_path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text(CHATML)
    assert resolve_chat_template(str(file)) == CHATML


def test_a_template_that_is_no_jinja_is_the_callers_mistake(tokenizer) -> None:
    with pytest.raises(ValueError, match="not valid Jinja, line 1"):
        encode(tokenizer, {"messages": conversation("?", "x")}, "{% for message in %}")


def test_a_template_that_refuses_a_row_says_why(tokenizer) -> None:
    row = {"messages": [{"role": "system", "content": "Be brief."}, *conversation("?", "x")]}
    with pytest.raises(UnscorableRowError, match="System role not supported") as error:
        encode(tokenizer, row, "trl:gemma")
    assert error.value.status == "bad_row"


@pytest.mark.parametrize("family", [*USUAL_FAMILIES, "gptoss", None])
@pytest.mark.parametrize("answer", ["user", "assistant", "string", "model"])
def test_an_answer_that_is_one_of_the_templates_own_strings_is_not_looked_for_in_headers(
    family_tokenizer, family: str | None, answer: str
) -> None:
    turns = [*conversation(f"{answer} or assistant or user?", "x = 3"), *conversation(f"{answer}?", answer)]
    template = f"trl:{family}" if family else None
    encoder = ConversationEncoder(family_tokenizer, chat_template=resolve_chat_template(template))
    try:
        rendered = encoder._read({"messages": turns}, find_format(["messages"]))[0]
    except UnscorableRowError as error:
        assert error.status == "template_dropped_text"
        return
    last = np.flatnonzero(rendered.own)[-len(answer) :]
    assert rendered.text[last[0] : last[-1] + 1] == answer
    assert last[0] > rendered.text.rindex(f"{answer}?")
    if family not in ("qwen3", "gptoss"):  # whose own text counts too
        assert rendered.own.sum() == len("x = 3" + answer)


def test_a_repeated_tool_call_is_found_where_it_was_made_again(family_tokenizer) -> None:
    call, result = TOOL_CONVERSATION[1:3]
    messages = [TOOL_CONVERSATION[0], call, result, call]
    first = encode(family_tokenizer, {"messages": messages[:2]}, "trl:qwen3")
    for row, options in (
        ({"messages": messages}, {"turns": "last"}),
        ({"prompt": messages[:3], "completion": messages[3:]}, {}),
    ):
        again = encode(family_tokenizer, row, "trl:qwen3", **options)
        assert again.positions[0] > first.positions[-1]
        assert again.input_ids[again.positions].tolist() == first.input_ids[first.positions].tolist()


def test_an_empty_system_column_is_no_system_turn(tokenizer) -> None:
    turns = conversation("?", "x")
    rows = [{"conversations": turns, "system": system} for system in (None, "", "  ")]
    assert len({tuple(encode(tokenizer, row).input_ids) for row in rows}) == 1
    with pytest.raises(UnscorableRowError, match="column 'system': expected text, found int"):
        encode(tokenizer, {"conversations": turns, "system": 7})


def test_a_value_nested_too_deeply_is_a_bad_row(tokenizer) -> None:
    rows = [{"messages": conversation("?", "x"), "tools": tools} for tools in ("[" * 200_000, None)]
    deep, plain = ConversationEncoder(tokenizer).encode(rows, find_format(rows[0]))
    assert isinstance(deep, UnscorableRowError) and deep.status == "bad_row"
    assert isinstance(plain, EncodedRow)


def reason(tokenizer: PreTrainedTokenizerFast, row: dict, template: str | None = None, **options: object) -> str:
    with pytest.raises(UnscorableRowError) as error:
        encode(tokenizer, row, template, **options)
    assert error.value.status == "template_dropped_text"
    return str(error.value)


THINK = "<think>\nhm, 2+2\n</think>\n\nIt is 4."


def ways_out(tokenizer: PreTrainedTokenizerFast, row: dict, template: str | None) -> str:
    message = reason(tokenizer, row, template)
    assert len(message) < 400
    return message.partition("To keep the text: ")[2].removesuffix("; chat_template= with one of your own")


THINKING_FIRST = {"messages": [*conversation("What is 2+2?", THINK), *conversation("And 3+3?", "It is 6.")]}
THINKING_LAST = {"messages": [*conversation("And 3+3?", "It is 6."), *conversation("What is 2+2?", THINK)]}


@pytest.mark.parametrize(
    ("template", "row", "ways"),
    [
        (
            "trl:qwen3",
            THINKING_FIRST,
            'turns="each" (every turn as the student sees it); turns="last" (the last turn alone)',
        ),
        ("trl:deepseek_r1_distill", THINKING_LAST, 'turns="each" (every turn as the student sees it)'),
        (
            "trl:qwen3_6",
            THINKING_FIRST,
            'turns="each" (every turn as the student sees it); chat_template_kwargs={"preserve_thinking": True}; '
            'turns="last" (the last turn alone)',
        ),
        (
            "trl:nemotron_3_nano",
            THINKING_FIRST,
            'turns="each" (every turn as the student sees it); '
            'chat_template_kwargs={"truncate_history_thinking": False}; turns="last" (the last turn alone)',
        ),
    ],
)
def test_a_template_that_drops_reasoning_is_named_with_what_keeps_it(
    family_tokenizer, template: str, row: dict, ways: str
) -> None:
    assert ways_out(family_tokenizer, row, template) == ways


def test_every_way_out_keeps_the_text_of_the_row(family_tokenizer) -> None:
    calls = [{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}]
    agent = [
        TOOL_CONVERSATION[0],
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": calls},
        *TOOL_CONVERSATION[2:],
    ]
    for template in (
        "qwen3",
        "qwen3_5_think",
        "glm4moe",
        "gptoss",
        "gemma4",
        "llama3_1",
        "deepseekv3",
        "nemotron_3_nano",
    ):
        for row in (THINKING_FIRST, {"messages": agent}, {"messages": [*agent, *THINKING_FIRST["messages"]]}):
            try:
                ways = ways_out(family_tokenizer, row, f"trl:{template}")
            except pytest.fail.Exception:
                continue  # the row keeps its text
            for way in re.sub(r" \([^()]*\)", "", ways).split("; ") if ways else ():
                encode(family_tokenizer, row, f"trl:{template}", **eval(f"dict({way.replace(' with ', ', ')})"))


OTHERS_CHANGED = [
    *("upper", "trim", "capitalize", "title", "tojson", "truncate(20, true, '...')", "wordwrap(9)", "reverse"),
    *("indent(4)", "center(40)", "list | join('-')"),
]
OTHER_TEXTS = ["It is 4.", "a", "aaaa aaaa", " ", "\n", '"', "größe 🙂", "</think>", "<|im_start|>assistant\n"]
other_texts = st.lists(st.sampled_from(OTHER_TEXTS)).map("".join)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(OTHERS_CHANGED), other_texts, other_texts)
def test_a_template_may_change_texts_that_are_not_the_assistants(change: str, question: str, result: str) -> None:
    changed = f"(message['content'] if message['role'] == 'assistant' else message['content'] | {change})"
    template = CHATML.replace("message['content']", changed)
    answers = ["It is 4.", THINK, "aaaa"]
    messages = [{"role": "system", "content": result}]
    for answer in answers:
        messages += [*conversation(question, answer), {"role": "tool", "content": result}]
    row = {"messages": messages}
    try:
        assert own_text(_hypothesis_tokenizer(), row, template) == "".join(answers)
        assert scored_text(_hypothesis_tokenizer(), row, template, turns="last") == answers[-1]
    except UnscorableRowError as error:  # wrapped lines may hide where a text is: then the row is refused, never wrong
        assert change == "wordwrap(9)" and error.status == "template_dropped_text"


def test_text_that_a_template_changes_is_not_scored_where_the_assistant_wrote_it(tokenizer) -> None:
    for change in ("upper", "truncate(4, true, '')", "replace('four', '4')"):
        template = CHATML.replace("message['content']", f"message['content'] | {change}")
        reason(tokenizer, {"messages": conversation("What?", "It is four.")}, template)


def test_the_ways_out_are_said_once(family_tokenizer) -> None:
    row = {"messages": conversation("What is 2+2?", THINK)}
    encoder = ConversationEncoder(family_tokenizer, chat_template=resolve_chat_template("trl:deepseek_r1_distill"))
    said = [str(error) for error in encoder.encode([row, row], find_format(row))]
    assert "To keep the text" in said[0] and "To keep the text" not in said[1]


def test_the_students_own_template_is_named(family_tokenizer) -> None:
    row = {"messages": [{**message, "reasoning_content": "hm"} for message in conversation("?", "x")]}
    assert "template of 'the student')" in reason(family_tokenizer, row)


def test_generation_marks_do_not_matter(tokenizer) -> None:
    for mark in ("{# {% generation %} #}", "{% generation %}{% endgeneration %}"):
        assert scored_text(tokenizer, {"messages": conversation("?", "x = 3")}, mark + CHATML) == "x = 3"


def test_strings_of_the_template_that_overlap_in_the_content_are_both_left_as_they_are(tokenizer) -> None:
    looks = "{% if '\n<' in m['content'] %}{% endif %}"
    splits = "{{ (m['content'].split('</think>')[0] ~ '</think>' ~ m['content'].split('</think>')[-1]) }}"
    template = "{% for m in messages %}[" + looks + splits + "]{% endfor %}"
    messages = [{"role": "user", "content": "?</think>"}, {"role": "assistant", "content": "hm\n</think>x"}]
    assert own_text(tokenizer, {"messages": messages}, template) == "[hm\n</think>x"


@pytest.mark.parametrize(
    "calls",
    [
        json.dumps([CALL]),
        [json.dumps(CALL)],
        [
            {
                "type": "function",
                "function": {**CALL["function"], "arguments": json.dumps(CALL["function"]["arguments"])},
            }
        ],
        {"type": ["function"], "function": [CALL["function"]]},
    ],
)
@pytest.mark.parametrize("family", ["qwen2_5", "qwen3", "qwen3_5_think", "llama3_1", "lfm2_v2", "gptoss"])
def test_tool_calls_in_other_forms_are_read_as_the_usual_ones(family_tokenizer, family: str, calls: object) -> None:
    messages = [*TOOL_CONVERSATION[:1], {"role": "assistant", "content": "", "tool_calls": calls}]
    usual = own_text(family_tokenizer, {"messages": TOOL_CONVERSATION[:2]}, f"trl:{family}")
    assert "get_weather" in usual
    assert own_text(family_tokenizer, {"messages": messages}, f"trl:{family}") == usual


def test_tool_calls_that_cannot_be_read_are_a_bad_row(tokenizer) -> None:
    for calls, found in (("{", "not JSON"), (7, "found int"), (["x"], "not JSON"), ([7], "list of dicts")):
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "x", "tool_calls": calls}]
        with pytest.raises(UnscorableRowError, match=found) as error:
            encode(tokenizer, {"messages": messages})
        assert error.value.status == "bad_row" and "message 1: 'tool_calls'" in str(error.value)


@pytest.mark.parametrize(("preset", "family"), [("chatml", "qwen2_5"), ("llama3", "llama3")])
def test_presets_render_as_the_family_does(family_tokenizer, preset: str, family: str) -> None:
    turns = [{"role": "system", "content": "Be brief."}, *conversation("What?", "x = 3"), *conversation("So?", "y")]
    ours, theirs = (encode(family_tokenizer, {"messages": turns}, name) for name in (preset, f"trl:{family}"))
    assert np.array_equal(ours.input_ids, theirs.input_ids)
    assert np.array_equal(ours.positions, theirs.positions)


def test_the_plain_preset_is_the_texts_and_the_end_of_each_answer(family_tokenizer) -> None:
    encoder = ConversationEncoder(family_tokenizer, chat_template=resolve_chat_template("plain"))
    rendered = encoder._read({"messages": [*conversation("What?", "x = 3")] * 2}, find_format(["messages"]))[0]
    assert rendered.text == "<|endoftext|>" + "What?\n\nx = 3<|endoftext|>" * 2


def test_prompt_and_completion_texts_need_no_template(tokenizer) -> None:
    bare = make_tokenizer()
    bare.chat_template = None
    assert scored_text(bare, {"prompt": "Solve it.\n", "completion": "x = 3"}) == "x = 3"
    with pytest.raises(ValueError, match="no chat template"):
        encode(bare, {"prompt": conversation("?", "x")[:1], "completion": conversation("?", "x")[1:]})


TWO_TURNS = [*conversation("What is 2+2?", "It is 4."), *conversation("And 3+3?", "It is 6.")]


@pytest.mark.parametrize(
    "flag", [{"weight": 0}, {"train": False}, {"training": False}, {"loss": False}, {"loss_weight": 0}]
)
def test_a_masked_turn_is_context_and_its_flag_is_not_rendered(tokenizer, flag: dict) -> None:
    name, off = next(iter(flag.items()))
    masked = [{**message, name: off if i == 1 else 1} for i, message in enumerate(TWO_TURNS)]
    found = encode(tokenizer, {"messages": masked}, "chatml")
    assert tokenizer.decode(found.input_ids[found.positions]) == "It is 6."
    assert np.array_equal(found.input_ids, encode(tokenizer, {"messages": TWO_TURNS}, "chatml").input_ids)
    parts = [TWO_TURNS[0], {"role": "assistant", "content": [{"type": "text", "text": "hm", **flag}]}, *TWO_TURNS[2:]]
    assert scored_text(tokenizer, {"messages": parts}, "chatml") == "It is 6."
    parts[1]["content"].append({"type": "text", "text": "4"})
    with pytest.raises(UnscorableRowError, match="leaves out a part of a turn") as error:
        encode(tokenizer, {"messages": parts}, "chatml")
    assert error.value.status == "bad_row"
    with pytest.raises(UnscorableRowError, match="every assistant turn is left out by its flags"):
        encode(tokenizer, {"messages": [TWO_TURNS[0], {**TWO_TURNS[1], **flag}]}, "chatml")


def test_each_turn_is_read_as_the_student_sees_it(family_tokenizer) -> None:
    turns = [
        {**message, "reasoning_content": "hm"} if message["role"] == "assistant" else message for message in TWO_TURNS
    ]
    row = encode(family_tokenizer, {"messages": turns}, "trl:qwen3", turns="each")
    texts = [family_tokenizer.decode(part.input_ids[part.positions]) for part in row.sequences]
    assert texts == [f"<think>\nhm\n</think>\n\nIt is {n}." for n in (4, 6)]
    assert "hm" not in family_tokenizer.decode(row.sequences[1].input_ids[: row.sequences[1].positions[0]])
    first, second = (part.input_ids.size for part in row.sequences)
    fitted = fit(row, second - 1, "truncate")
    assert fitted.status == "truncated" and [part.input_ids.size for part in fitted.sequences] == [first, second - 1]
    alone = fit(row, first, "truncate")  # the second turn does not begin there
    assert alone.status == "truncated" and len(alone.sequences) == 1
    for limit, option in ((second - 1, "skip"), (3, "truncate")):
        with pytest.raises(UnscorableRowError) as error:
            fit(row, limit, option)
        assert error.value.status == "skipped_too_long"


def tokenized(**row: object) -> EncodedRow:
    found = encode_tokenized([row], find_format(row))[0]
    if isinstance(found, UnscorableRowError):
        raise found
    return found


def test_a_tokenized_row_is_scored_where_its_masks_say() -> None:
    for masks in (
        {"labels": [-100, -100, 7, 8]},
        {"completion_mask": [0, 0, 1, 1]},
        {"assistant_masks": [0, 0, 1, 1]},
    ):
        assert tokenized(input_ids=[5, 6, 7, 8], **masks).positions.tolist() == [2, 3]
    for padding in ([0, 1, 1, 1], [1, 1, 1, 0]):
        row = tokenized(input_ids=[5, 6, 7, 8], completion_mask=[0, 1, 1, 1], attention_mask=padding)
        assert row.positions.tolist() == [1, 2][: padding.count(1)]
    for packing in ({"seq_lengths": [2, 2]}, {"position_ids": [0, 1, 0, 1]}):
        row = tokenized(input_ids=[5, 6, 7, 8], labels=[5, 6, 7, 8], **packing)
        assert [part.input_ids.tolist() for part in row.sequences] == [[5, 6], [7, 8]]


@pytest.mark.parametrize(
    ("row", "status", "reason"),
    [
        ({"labels": [1]}, "bad_row", "has 1 entries, 'input_ids' 3"),
        ({"input_ids": [-1, 2, 3], "labels": [1, 2, 3]}, "bad_row", "none of them negative"),
        ({"labels": [1, 2, 3], "attention_mask": [1, 0, 1]}, "bad_row", "zeros between ones"),
        ({"labels": [1, 2, 3], "seq_lengths": [1, 1]}, "bad_row", "the sum is 2, not 3"),
        ({"labels": [1, 2, 9]}, "bad_row", "differs from 'input_ids'"),
        ({"labels": None}, "bad_row", "needs one of"),
        ({"labels": [-100] * 3}, "no_response", "no token is scored"),
        ({"labels": [1, -100, -100]}, "no_response", "context before"),
    ],
)
def test_a_tokenized_row_that_cannot_be_scored_says_why(row: dict, status: str, reason: str) -> None:
    with pytest.raises(UnscorableRowError, match=reason) as error:
        tokenized(**({"input_ids": [1, 2, 3]} | row))
    assert error.value.status == status


@pytest.mark.parametrize(("family", "day"), [("gptoss", "{}"), ("llama3_2", "03 Feb 2024"), ("muse_glimmer", "{}")])
def test_templates_write_one_date(tokenizer, family: str, day: str) -> None:
    row, template = {"messages": TWO_TURNS}, resolve_chat_template(f"trl:{family}")
    encoder = ConversationEncoder(tokenizer, chat_template=template, template_date="2024-02-03")
    assert day.format("2024-02-03") in encoder._read(row, find_format(row))[0].text
    for date in ("3rd of May", "20240503"):
        with pytest.raises(ValueError, match=f"template_date='{date}'"):
            RSRScorer("student", template_date=date)


def test_json_text_of_tools_keeps_its_nulls(family_tokenizer) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"default": None}}}
    for tools, kept in ((json.dumps([tool]), True), ([json.dumps(tool)], True), ([tool], False)):
        found = encode(family_tokenizer, {"messages": TWO_TURNS, "tools": tools}, "trl:qwen3")
        assert ('"default": null' in family_tokenizer.decode(found.input_ids)) == kept


def test_a_long_conversation_is_rendered_a_few_times(family_tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    renderings = []
    render = ChatTemplate.render
    monkeypatch.setattr(ChatTemplate, "render", lambda *args, **more: renderings.append(0) or render(*args, **more))
    messages = [*TOOL_CONVERSATION[:1], *TOOL_CONVERSATION[1:3] * 60, TOOL_CONVERSATION[3]]
    encode(family_tokenizer, {"messages": messages}, "trl:qwen3")
    assert len(renderings) <= 20
