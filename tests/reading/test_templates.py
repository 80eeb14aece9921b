"""Every chat template of the installed trl package: what counts is the response, or the row says why not.

``python tests/reading/test_templates.py`` prints, for each template, the cases tried, those whose response is exactly
what renderings by transformers alone say, those that are right as far as such renderings tell, those flagged for a
reason that the template's own rendering confirms, under ``turns="all"`` and ``"each"``, and those that are wrong.
"""

from __future__ import annotations

import datetime
import json
import re
from collections import Counter
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import trl
from datasets import Dataset
from packaging.version import Version
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rsr_datasets.reading.encoder import ConversationEncoder
from rsr_datasets.reading.formats import find_format
from rsr_datasets.reading.messages import Turns
from rsr_datasets.reading.rows import EncodedRow, UnscorableRowError
from rsr_datasets.reading.templates import resolve_chat_template

TEMPLATES = sorted(file.stem for file in (Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
# Those for training differ by marks around the responses.
TESTED = [pytest.param(name, marks=[pytest.mark.slow] * name.endswith("_training")) for name in TEMPLATES]
Outcome = EncodedRow | UnscorableRowError
Row = dict[str, Any]

SYSTEM = {"role": "system", "content": "Be brief."}
WEATHER = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": 'Pa"ris XVI', "days": 3}}}
TIME = {"type": "function", "function": {"name": "get_time", "arguments": {"opts": {"a": [1, 2]}, "zone": "CET"}}}
TEXT_ARGUMENTS = {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome", "days": 5}'}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a place.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Which one."}}},
        },
    }
]
THINK = "<think>\nhm, 2+2\n</think>\n\nIt is 4."


def say(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def ask(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def tool(content: str) -> dict[str, Any]:
    return {"role": "tool", "name": "get_weather", "content": content}


FIRST, SECOND = ask("What is 2+2?"), ask("And 3+3?")
CASES: dict[str, list[dict[str, Any]]] = {
    "one turn": [FIRST, say("It is 4.")],
    "two turns": [FIRST, say("It is 4."), SECOND, say("It is\n\n6, I think")],
    "system": [SYSTEM, FIRST, say("It is 4.")],
    "system, two turns": [SYSTEM, FIRST, say("It is 4."), SECOND, say("It is\n\n6, I think")],
    "last turn is the user's": [FIRST, say("It is 4."), SECOND],
    "the answer repeats the question": [ask("It is 4."), say("It is 4."), ask("It is 4."), say("It is 4.")],
    "think": [FIRST, say(THINK)],
    "think, first of two": [FIRST, say(THINK), SECOND, say("It is 6.")],
    "think, second of two": [FIRST, say("It is 4."), SECOND, say(THINK)],
    "think, both": [FIRST, say(THINK), SECOND, say(THINK.replace("4", "6"))],
    "think, system": [SYSTEM, FIRST, say(THINK)],
    "think, empty": [FIRST, say("<think>\n\n</think>\n\nIt is 4.")],
    "think, not opened": [FIRST, say("hm, 2+2\n</think>\n\nIt is 4.")],
    "think, on one line": [FIRST, say("<think>hm, 2+2</think>It is 4.")],
    "think, not closed": [FIRST, say("<think>\nhm, 2+2")],
    "reasoning_content": [FIRST, say("It is 4.", reasoning_content="hm, 2+2")],
    "reasoning_content, spaced": [FIRST, say("It is 4.", reasoning_content="\nhm,\n\n2+2\n")],
    "reasoning_content, both": [
        FIRST,
        say("It is 4.", reasoning_content="hm, 2+2"),
        SECOND,
        say("It is 6.", reasoning_content="hm, 3+3"),
    ],
    "reasoning": [FIRST, say("It is 4.", reasoning="hm, 2+2")],
    "thinking": [FIRST, say("It is 4.", thinking="hm, 2+2")],
    "white space around": [FIRST, say("\n  It is 4.\n\n ")],
    "white space before": [FIRST, say(" x")],
    "white space after": [FIRST, say("x\n")],
    "white space, two turns": [FIRST, say("\n\n\nx\n\n\n"), SECOND, say(" y ")],
    "code": [FIRST, say("```python\nif a < b and b > c:\n\treturn {'x': [1, 2]}  # {{ 7*7 }} {% raw %}\n```")],
    "no ASCII": [FIRST, say("答案是 4 🙂‍↔️, שלום, e\u0301\u200d\x00\x1b")],
    "blocks": [
        FIRST,
        {"role": "assistant", "content": [{"type": "text", "text": "It is "}, {"type": "text", "text": "4."}]},
    ],
    "blocks of Arrow": [FIRST, {"role": "assistant", "content": {"type": ["text"], "text": ["It is 4."]}}],
    "call": [FIRST, say("", tool_calls=[WEATHER]), tool("rain"), say("It is sunny.")],
    "call, system": [SYSTEM, FIRST, say("", tool_calls=[WEATHER]), tool("rain"), say("It is sunny.")],
    "call, last": [FIRST, say("", tool_calls=[WEATHER])],
    "call, again": [
        FIRST,
        say("", tool_calls=[WEATHER]),
        tool("rain"),
        say("", tool_calls=[WEATHER]),
        tool("rain"),
        say("It is sunny."),
    ],
    "call, content": [FIRST, say("Let me look.", tool_calls=[WEATHER]), tool("rain"), say("It is sunny.")],
    "call, reasoning": [
        FIRST,
        say("", reasoning_content="I must look", tool_calls=[WEATHER]),
        tool("rain"),
        say("It is sunny.", reasoning_content="sun!"),
    ],
    "call, reasoning, content": [
        FIRST,
        say("Let me look.", reasoning_content="I must look", tool_calls=[WEATHER]),
        tool("rain"),
        say("It is sunny."),
    ],
    "two calls": [FIRST, say("", tool_calls=[WEATHER, TIME]), tool("rain"), tool("noon"), say("It is sunny.")],
    "call, arguments as text": [FIRST, say("", tool_calls=[TEXT_ARGUMENTS]), tool("rain"), say("It is sunny.")],
}

AS_OBJECT = {"city": "Rome", "days": 5}

# Texts of other messages, which no response may hold.
OTHERS = ("Be brief.", "What", "3+3?", "rain", "noon", "Weather of")

OTHER_TEXTS = (
    "Line one.\n\nLine \"two\", 'three' & \\four\\ \t<b>",
    "größe 答案 🙂‍↔️ שלום e\u0301",
    '  {"temp": "20\u00b0", "note": "it\'s\\nfine"}\n',
    "x",
    "aaaa " * 9,
)

# The templates mark more than the response as generated, per family: headers, supplied tags, ends of turns.
LEFT_OUT = {
    "cohere": {"<|END_OF_TURN_TOKEN|>"},
    "cohere2": {"<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"},
    "deepseek*": {"<｜Assistant｜>", "<｜Assistant｜><think>", "<｜end▁of▁sentence｜>"},
    "deepseekv3": {"<｜tool▁outputs▁end｜>"},
    "diffusion_gemma": {"<turn|>"},
    "gemma*": {"<end_of_turn>"},
    "glm4moe": {"<|observation|>", "<|user|>"},
    "gptoss": {"<|call|>", "<|end|>", "<|return|>", "<|start|>assistant"},
    "idefics3": {"<end_of_utterance>"},
    "lfm2*": {"<|im_end|>"},
    "llama3": {"<|eot_id|>"},
    "llava_next": {"</s>"},
    "muse_glimmer": {"<|eot|>", "<|start|>assistant"},
    "nemotron*": {"<think>", "<|im_end|>"},
    "phi3*": {"<|end|>", "<|end|>\n</s>"},
    "qwen*": {"<|im_end|>"},
    "qwen3_5_nothink": {"<think>\n\n</think>"},
    "qwen3_5_think": {"<think>"},
    "qwen3_[68]": {"<think>"},
    "smolvlm": {"<end_of_utterance>"},
}
# After a tool's result this template asks without the header that it writes, outside of its marks, before the answer.
UNASKED = {"diffusion_gemma_training": "<|turn>model\n"}


# Templates under which a turn without reasoning is another one as the last turn than before later turns.
BLOCK, RESULTS = "only the last turn has an empty think block", "a call's results stand between call and content"
EACH_DIFFERS = {
    **dict.fromkeys(("qwen3", "qwen3_5_nothink", "qwen3_5_think", "qwen3_6"), BLOCK),
    **dict.fromkeys(("diffusion_gemma", "diffusion_gemma_training", "gemma4", "gemma4_v3", "gemma4_v4"), RESULTS),
    "gemma4_v5": RESULTS,
}


@cache
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are single bytes, so that tokens say all that there is to say about characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@cache
def source(template: str) -> str:
    return resolve_chat_template(f"trl:{template}") or ""


@cache
def cases(template: str) -> dict[str, Row]:
    rows = {name: {"messages": each} | ({"tools": TOOLS} if "call" in name else {}) for name, each in CASES.items()}
    # The tags that the template writes or looks for, found by their look.
    markers = sorted(set(re.findall(r"<[^<>\s'\"]+>|\[/?[A-Z_]+\]", source(template))))
    for name, text in (
        ("all its markers", " x ".join(["", *markers, ""]).strip()),
        ("all its markers, unspaced", "".join(markers)),
        *((f"its marker {marker}", f"{marker}\n") for marker in markers),
    ):
        rows[name] = {"messages": [ask(f"What {text} is 2+2?"), say(f"alpha {text}omega"), SECOND, say("It is 6.")]}
    return rows


@cache
def encoder_of(template: str, turns: Turns) -> ConversationEncoder:
    return ConversationEncoder(byte_tokenizer(), chat_template=source(template), turns=turns)


def encode_row(template: str, row: Row, turns: Turns = "all") -> Outcome:
    return encoder_of(template, turns).encode([row], find_format(row))[0]


@cache
def encode(template: str, name: str, turns: Turns = "all") -> Outcome:
    return encode_row(template, cases(template)[name], turns)


def scored_text(row: EncodedRow) -> str:
    return "".join(byte_tokenizer().decode(each.input_ids[each.positions]) for each in row.sequences)


def same(some: Outcome, other: Outcome) -> bool:
    """Whether two rows have the same status, tokens and positions."""
    if isinstance(some, UnscorableRowError) or isinstance(other, UnscorableRowError):
        return some.status == other.status
    return all(
        np.array_equal(a.input_ids, b.input_ids) and np.array_equal(a.positions, b.positions)
        for a, b in zip(some.sequences, other.sequences, strict=True)
    )


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(int), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def mask_of(row: EncodedRow, size: int) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[row.positions] = True
    return mask


def content_of(message: Row) -> str:
    content = message["content"]
    if isinstance(content, dict):
        return "".join(content["text"])
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


def render(template: str, row: Row, messages: list[Row], **options: Any) -> Any:
    """The template's own rendering through transformers alone; ``None`` where it refuses the messages.

    Of the forms in which templates take calls, it is the first whose rendering shows the calls.
    """
    found = None
    for change in ({"arguments": AS_OBJECT}, {}, {"content": None, "arguments": AS_OBJECT}, {"content": None}):
        shown = [in_form(template, message, **change) for message in messages]
        try:
            again = byte_tokenizer().apply_chat_template(
                shown,
                tools=row.get("tools"),
                chat_template=re.sub(r"strftime_now\((.)(.*?)\1\)", on_one_day, source(template)),
                **({"tokenize": False} | options),
            )
        except Exception:
            continue
        found = again if found is None else found
        text = again if isinstance(again, str) else byte_tokenizer().decode(again["input_ids"])
        if all(part in text for message in messages for part in called(message)):
            return again
    return found


def on_one_day(match: re.Match[str]) -> str:
    return repr(datetime.date(2025, 1, 1).strftime(match[2]))


def in_form(template: str, message: Row, content: str | None = "", arguments: Any = None) -> Row:
    message = {**message, "content": content_of(message)}
    for key in ("reasoning_content", "reasoning", "thinking"):  # under the name for which the template looks
        if key in message:
            message |= dict.fromkeys(("reasoning_content", "reasoning", "thinking"), message[key])
    if template.startswith(("idefics3", "smolvlm", "llava_next")):
        return {**message, "content": [{"type": "text", "text": message["content"]}]}
    if "tool_calls" in message:
        message["content"] = message["content"] or content
        if arguments and message["tool_calls"] == [TEXT_ARGUMENTS]:
            message["tool_calls"] = [{"type": "function", "function": {"name": "get_weather", "arguments": arguments}}]
    return message


def called(message: Row) -> list[str]:
    """Texts of a message's calls that a rendering has to show as they are."""
    calls = json.dumps(message.get("tool_calls", ""))
    return [part for part in ("ris XVI", "CET", "Rome") if part in calls]


def squeeze(text: str) -> str:
    return "".join(text.split())


def written(message: Row) -> list[str]:
    """Texts that a rendering has to show, without white space."""
    reasoning = [squeeze(message[key]) for key in ("reasoning_content", "reasoning", "thinking") if key in message]
    return [*reasoning, squeeze(content_of(message)), *(squeeze(part) for part in called(message))]


def shows(text: str | None, messages: list[Row]) -> bool:
    """Whether a text has all that the messages' assistant wrote."""
    text = squeeze(text or "")
    position = 0
    for message in messages:
        if message["role"] == "assistant":
            found = [text.find(piece, position) for piece in written(message)]
            if min(found) < 0:
                return False
            position = max(found)
    return True


def expected_span(template: str, row: Row, i: int, turns: Turns) -> tuple[str, int, int] | None:
    """*Told* of turn ``i`` and the response there, where *asked* is what it begins with."""
    before, message = row["messages"][:i], row["messages"][i]
    asked = render(template, row, before, add_generation_prompt=True)
    told, alone = (render(template, row, [*before, turn]) for turn in (message, say("\0")))
    if asked is None or told is None or alone is None:
        return None
    if turns == "each" and "tool_calls" not in message and not shows(told, [message]):
        content, tag = content_of(message), re.search(r"(<[^<>\s]+>)?\s*\Z", asked)
        if tag and tag[1] and content.lstrip().startswith(tag[1]):
            content = content.lstrip()[len(tag[1]) :].lstrip()
        return asked + content, len(asked), len(asked + content)
    if not told.startswith(asked):
        return None
    after = alone[alone.rfind("\0") + 1 :]
    return (told, len(asked), len(told) - len(after)) if told.endswith(after) else None


@cache
def outcome(template: str, name: str, turns: Turns) -> str:
    """``exact``, ``right`` as far as renderings tell, ``flagged`` and rightly so, or what is wrong."""
    row, encoded = cases(template)[name], encode(template, name, turns)
    messages = row["messages"]
    counted = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if isinstance(encoded, UnscorableRowError):
        if turns == "each":
            kept = all(shows(render(template, row, messages[: i + 1]), messages[i : i + 1]) for i in counted)
        else:
            kept = shows(render(template, row, messages), messages)
        return f"flagged, but nothing is left out: {encoded}" if kept else "flagged"
    found = scored_text(encoded)
    if any(text in found for text in OTHERS):
        return f"text of another message is scored: {found!r}"
    # Tags and white space that the prompt supplied are not scored.
    openings = [re.sub(r"^(<[^<>]+>|think>)+", "", squeeze(content_of(messages[i]))) for i in counted]
    if not shows(found, [{**messages[i], "content": text} for i, text in zip(counted, openings, strict=True)]):
        return f"text is left out: {found!r}"
    spans = [expected_span(template, row, i, turns) for i in counted]
    whole = render(template, row, messages) or ""
    if None in spans or (turns == "all" and not all(whole.startswith(told[:end]) for told, _, end in spans)):
        return "right"
    if turns == "all":
        spans = [(whole, start, end) for _, start, end in spans]
    tokens = [len(byte_tokenizer()(text[:end])["input_ids"]) for text, _, end in spans]
    texts = "".join(text[start:end] for text, start, end in spans)
    if found == texts and tokens[-1] == encoded.sequences[-1].input_ids.size:
        return "exact"
    return f"scored {found!r}, expected {texts!r}"


@pytest.mark.parametrize("template", TESTED)
def test_the_response_is_scored_or_the_row_says_why_not(template: str) -> None:
    for turns in ("all", "each"):
        outcomes = {name: outcome(template, name, turns) for name in cases(template)}
        assert {name: found for name, found in outcomes.items() if found not in ("exact", "right", "flagged")} == {}
        assert {outcomes[name] for name in ("one turn", "code", "no ASCII")} <= {"exact", "right"}
        flagged = [name for name, found in outcomes.items() if found == "flagged"]
        assert set(flagged) <= {name for name in cases(template) if outcome(template, name, "all") == "flagged"}


@pytest.mark.parametrize("template", TESTED)
def test_texts_of_others_decide_nothing_about_the_response(template: str) -> None:
    for name in ("system, two turns", "two turns", "call, system", "call, again", "call, reasoning"):
        plain, row = encode(template, name), cases(template)[name]
        for other in OTHER_TEXTS:
            messages = [
                message if message["role"] == "assistant" else {**message, "content": other}
                for message in row["messages"]
            ]
            found = encode_row(template, row | {"messages": messages})
            if isinstance(plain, UnscorableRowError) or isinstance(found, UnscorableRowError):
                assert type(plain) is type(found) and plain.status == found.status, (name, other, str(found))
            else:
                assert scored_text(found) == scored_text(plain), (name, other)


@pytest.mark.parametrize("template", TESTED)
def test_the_response_put_in_as_content_has_the_same_span_where_it_renders_the_same(template: str) -> None:
    for name, row in cases(template).items():
        encoded, messages = encode(template, name), row["messages"]
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if isinstance(encoded, UnscorableRowError):
            continue
        spans = runs(mask_of(encoded, encoded.input_ids.size))
        if len(spans) != len(turns):
            continue
        texts = dict(zip(turns, (byte_tokenizer().decode(encoded.input_ids[a:b]) for a, b in spans), strict=True))
        as_content = [say(texts[i]) if i in texts else message for i, message in enumerate(messages)]
        rendering = render(template, row, as_content)
        if rendering and rendering == render(template, row, messages):
            assert same(encode_row(template, row | {"messages": as_content}), encoded), name


@pytest.mark.parametrize("template", TESTED)
def test_reasoning_is_the_same_under_each_key_and_under_several(template: str) -> None:
    keys = ("reasoning_content", "reasoning", "thinking")
    copies = {"messages": [FIRST, say("It is 4.", **dict.fromkeys(keys, "hm, 2+2"))]}
    for turns in ("all", "each"):
        outcomes = [encode(template, key, turns) for key in keys]
        assert all(same(found, outcomes[0]) for found in [*outcomes, encode_row(template, copies, turns)])


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name.endswith("_training")])
def test_the_generation_marks_hold_the_response_and_beyond_it_only_what_is_listed(template: str) -> None:
    listed = set().union(*(texts for family, texts in LEFT_OUT.items() if fnmatch(template, f"{family}_training")))
    seen: set[str] = set()
    for name, row in cases(template).items():
        encoded = encode(template, name)
        marked = render(
            template, row, row["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        if isinstance(encoded, UnscorableRowError) or marked is None:
            continue
        ids, mask = np.array(marked["input_ids"]), np.array(marked["assistant_masks"], dtype=bool)
        if not np.array_equal(ids[: encoded.input_ids.size], encoded.input_ids):
            assert "tools" in row  # other forms of a call's arguments than the row's own
            continue
        scored = mask_of(encoded, ids.size)
        outside = byte_tokenizer().decode(ids[scored & ~mask])
        assert not outside.replace(UNASKED.get(template, "\0"), ""), name
        seen |= {byte_tokenizer().decode(ids[start:end]).strip() for start, end in runs(mask & ~scored)}
    assert seen - {""} == listed


@pytest.mark.parametrize("template", TESTED)
def test_without_reasoning_each_turn_is_what_it_is_in_the_whole(template: str) -> None:
    differ = set()
    for name in CASES:
        whole, each = encode(template, name), encode(template, name, "each")
        if "think" in name or "reasoning" in name or isinstance(whole, UnscorableRowError):
            continue
        assert isinstance(each, EncodedRow)
        positions = np.concatenate([part.positions for part in each.sequences])
        texts = [np.array_equal(part.input_ids, whole.input_ids[: part.input_ids.size]) for part in each.sequences]
        if not all(texts) or not np.array_equal(positions, whole.positions):
            differ.add(name)
    assert bool(differ) == (template in EACH_DIFFERS), differ


@pytest.mark.skipif(Version(pyarrow.__version__) < Version("24"), reason="it sorts the keys of a dict in a column")
@pytest.mark.parametrize("template", TESTED)
def test_messages_as_arrow_returns_them_score_as_the_originals_do(template: str) -> None:
    names = [name for name in CASES if "blocks" not in name and "as text" not in name]
    rows = [{"messages": CASES[name], "tools": TOOLS if "call" in name else None} for name in names]
    returned = Dataset.from_list(rows).to_list()
    assert returned[0]["messages"][0]["tool_calls"] is None
    encoder = ConversationEncoder(byte_tokenizer(), chat_template=source(template))
    for name, found in zip(names, encoder.encode(returned, find_format(["messages", "tools"])), strict=True):
        assert same(found, encode(template, name))


def print_table() -> None:
    kinds = ("exact", "right", "flagged")
    print("| template | cases | exact | right | flagged | each: exact | right | flagged | wrong |\n|---|" + "---|" * 8)
    total: Counter[str] = Counter()
    for template in TEMPLATES:
        found = Counter(
            f"{turns} {outcome(template, name, turns)}" for name in cases(template) for turns in ("all", "each")
        )
        counts = {f"{turns} {kind}": found[f"{turns} {kind}"] for turns in ("all", "each") for kind in kinds}
        counts = {"cases": len(cases(template)), **counts, "wrong": found.total() - sum(counts.values())}
        total.update(counts)
        print(f"| {template} | {' | '.join(map(str, counts.values()))} |")
    print(f"| **all** | {' | '.join(str(total[key]) for key in counts)} |")


if __name__ == "__main__":
    print_table()
