"""Every chat template of the installed trl package: the scored tokens are the row's own, or the row says why not.

``python tests/test_templates.py`` prints, for each template, the cases tried, those equal to the oracle, those flagged
for a reason that the template's own rendering confirms, and those that are wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trl
from datasets import Dataset
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rsr_datasets.reading.encoder import ConversationEncoder
from rsr_datasets.reading.formats import find_format
from rsr_datasets.reading.rows import EncodedRow, UnscorableRowError
from rsr_datasets.reading.templates import resolve_chat_template

TEMPLATES = sorted(file.stem for file in (Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))

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
    "call": [FIRST, say("", tool_calls=[WEATHER]), tool("sunny"), say("It is sunny.")],
    "call, system": [SYSTEM, FIRST, say("", tool_calls=[WEATHER]), tool("sunny"), say("It is sunny.")],
    "call, last": [FIRST, say("", tool_calls=[WEATHER])],
    "call, again": [
        FIRST,
        say("", tool_calls=[WEATHER]),
        tool("sunny"),
        say("", tool_calls=[WEATHER]),
        tool("sunny"),
        say("It is sunny."),
    ],
    "call, content": [FIRST, say("Let me look.", tool_calls=[WEATHER]), tool("sunny"), say("It is sunny.")],
    "call, reasoning": [
        FIRST,
        say("", reasoning_content="I must look", tool_calls=[WEATHER]),
        tool("sunny"),
        say("It is sunny.", reasoning_content="sun!"),
    ],
    "call, reasoning, content": [
        FIRST,
        say("Let me look.", reasoning_content="I must look", tool_calls=[WEATHER]),
        tool("sunny"),
        say("It is sunny."),
    ],
    "two calls": [FIRST, say("", tool_calls=[WEATHER, TIME]), tool("sunny"), tool("noon"), say("It is sunny.")],
    "call, arguments as text": [FIRST, say("", tool_calls=[TEXT_ARGUMENTS]), tool("sunny"), say("It is sunny.")],
}

# What a template trims off the ends of content; the others keep all of it.
TRIMS_BOTH = ("cohere", "gemma*", "diffusion_gemma", "glm4moe", "llama3*", "qwen3_5*", "qwen3_6", "qwen3_8")
TRIMS_RIGHT = ("nemotron*",)
TRIMS_NEWLINES_LEFT = ("qwen3",)  # without the training form only after the last question
CALLS_BEFORE_CONTENT = ("gemma4*", "diffusion_gemma")

# How each family writes WEATHER, WEATHER and TIME, and TEXT_ARGUMENTS; what stands between two calls does not count.
GEMMA = '<|tool_call>call:get_weather{city:<|"|>%s<|"|>,days:%d}<tool_call|>'
HERMES = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "%s", "days": %d}}\n</tool_call>'
XML = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\n%s\n</parameter>\n<parameter=days>\n%d\n</parameter>\n"
    "</function>\n</tool_call>"
)
GLM = (
    "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>%s</arg_value>\n<arg_key>days</arg_key>\n"
    "<arg_value>%d</arg_value>\n</tool_call>"
)
ATEM = (
    'get_weather<|message|><atem:function_calls>\n<atem:invoke name="get_weather">\n<atem:parameter name="city">%s'
    '</atem:parameter>\n<atem:parameter name="days">%d</atem:parameter>\n</atem:invoke>\n</atem:function_calls>'
)
HARMONY = 'to=functions.get_weather<|channel|>commentary json<|message|>{"city": "%s", "days": %d}'
LLAMA = '{"name": "get_weather", "parameters": {"city": "%s", "days": %d}}'
DEEPSEEK = (
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
    '```json\n{"city": "%s", "days": %d}\n```<｜tool▁call▁end｜>'
)
DEEPSEEK_TIME = (
    '<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n{"opts": {"a": [1, 2]}, "zone": "CET"}\n```'
    "<｜tool▁call▁end｜>"
)
LFM = "get_weather(city='%s', days=%d)"


# What the templates mark as generated beyond the row's own text, per family: headers, end-of-turn tokens, tags around
# reasoning that has a field of its own, empty think blocks, and white space that joins (any other is an error).
IM_END = {"<|im_end|>\n"}
QWEN_THINK = {"<think>\n\n</think>\n\n", "<think>\n", "\n</think>\n\n"}
NEMOTRON = IM_END | {"\n<|im_end|>\n", "<think></think>", "<think></think>\n", "<think>\n"}
LEFT_OUT = {
    "cohere": {"<|END_OF_TURN_TOKEN|>"},
    "cohere2": {"<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"},
    "deepseek_r1_distill": {"<｜Assistant｜>", "<｜end▁of▁sentence｜>"},
    "deepseekv3": {
        "<｜Assistant｜>",
        "<｜end▁of▁sentence｜>",
        "<｜tool▁outputs▁end｜>",
        "<｜tool▁calls▁end｜><｜end▁of▁sentence｜>",  # closes the second message's calls, opened in the first
    },
    "diffusion_gemma": {"<turn|>\n", "<|channel>thought\n", "\n<channel|>"},
    "gemma*": {"<end_of_turn>\n"},
    "glm4moe": {
        "\n<think></think>\n",
        "\n<think>",
        "</think>\n",
        "<|user|>",
        "<|observation|>",
    },
    "gptoss": {
        "<|start|>assistant<|channel|>final<|message|>",
        "<|start|>assistant<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|start|>assistant ",
        "<|return|>",
        "<|end|>",
        "<|call|>",
    },
    "idefics3": {" ", "<end_of_utterance>\n"},
    "lfm2": IM_END,
    "lfm2_v2": IM_END | {", "},  # between two calls
    "llama3": {"<|eot_id|>"},
    "llava_next": {" ", "</s>"},
    "muse_glimmer": {
        "<|start|>assistant to=user<|message|>",
        "<|start|>assistant to=self<|message|>",
        "<|start|>assistant to=",
        "<|eom|><|start|>assistant to=user<|message|>",
        "<|eom|><|start|>assistant to=",
        "<|eot|>",
    },
    "nemotron_3_nano": NEMOTRON | {"\n</think>\n"},
    "nemotron_3_super": NEMOTRON | {"\n</think>\n"},
    "nemotron_3_ultra": NEMOTRON | {"</think>", "</think>\n"},
    "nemotron_3_5_lightning": NEMOTRON | {"</think>", "</think>\n"},
    "phi3*": {"<|end|>\n", "<|end|>\n</s>"},
    "qwen2_5": IM_END,
    "qwen2_5_vl": IM_END,
    "qwen3": IM_END | QWEN_THINK,
    "qwen3_[568]*": IM_END | QWEN_THINK,
    "qwen3_instruct_2507": IM_END,
    "qwen3_vl": IM_END,
    "smolvlm": {" ", "<end_of_utterance>\n"},
}


def is_one_of(template: str, families: tuple[str, ...]) -> bool:
    return any(fnmatch(template.removesuffix("_training"), family) for family in families)


def calls(template: str) -> tuple[str, str, str]:
    """WEATHER, then WEATHER and TIME, then TEXT_ARGUMENTS, as the template's family writes them."""
    base = template.removesuffix("_training")
    if base.startswith(("gemma4", "diffusion_gemma")):
        time = '<|tool_call>call:get_time{opts:{a:[1,2]},zone:<|"|>CET<|"|>}<tool_call|>'
        # A template that writes text arguments as they are puts them in its own braces.
        verbatim = '<|tool_call>call:get_weather{{"city": "Rome", "days": 5}}<tool_call|>'
        as_text = GEMMA % ("Rome", 5) if base in ("gemma4_v5", "diffusion_gemma") else verbatim
        return GEMMA % ('Pa"ris XVI', 3), GEMMA % ('Pa"ris XVI', 3) + time, as_text
    if base.startswith(("qwen2_5", "qwen3_instruct", "qwen3_vl")) or base == "qwen3":
        time = '<tool_call>\n{"name": "get_time", "arguments": {"opts": {"a": [1, 2]}, "zone": "CET"}}\n</tool_call>'
        weather = HERMES % ('Pa\\"ris XVI', 3)
        return weather, weather + time, HERMES % ("Rome", 5)
    if base.startswith(("qwen3", "nemotron")):
        time = (
            '<tool_call>\n<function=get_time>\n<parameter=opts>\n{"a": [1, 2]}\n</parameter>\n<parameter=zone>\n'
            "CET\n</parameter>\n</function>\n</tool_call>"
        )
        return XML % ('Pa"ris XVI', 3), XML % ('Pa"ris XVI', 3) + time, XML % ("Rome", 5)
    if base == "glm4moe":
        time = (
            '<tool_call>get_time\n<arg_key>opts</arg_key>\n<arg_value>{"a": [1, 2]}</arg_value>\n<arg_key>zone'
            "</arg_key>\n<arg_value>CET</arg_value>\n</tool_call>"
        )
        return GLM % ('Pa"ris XVI', 3), GLM % ('Pa"ris XVI', 3) + time, GLM % ("Rome", 5)
    if base == "muse_glimmer":
        time = (
            'get_time<|message|><atem:function_calls>\n<atem:invoke name="get_time">\n<atem:parameter name="opts">'
            '{"a": [1, 2]}</atem:parameter>\n<atem:parameter name="zone">CET</atem:parameter>\n</atem:invoke>\n'
            "</atem:function_calls>"
        )
        return ATEM % ('Pa"ris XVI', 3), ATEM % ('Pa"ris XVI', 3) + time, ATEM % ("Rome", 5)
    if base.startswith("deepseek"):
        begin, end = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
        close = "" if base == "deepseek_r1_distill" else end  # there the template closes only two calls and more
        one, text = (DEEPSEEK % arguments for arguments in (('Pa\\"ris XVI', 3), ("Rome", 5)))
        return begin + one + close, begin + one + DEEPSEEK_TIME + end, begin + text + close
    if base.startswith("lfm2"):
        begin, end = "<|tool_call_start|>[", "]<|tool_call_end|>"
        one, time = LFM % ('Pa"ris XVI', 3), "get_time(opts={\"a\": [1, 2]}, zone='CET')"
        return begin + one + end, begin + one + time + end, begin + LFM % ("Rome", 5) + end
    form = HARMONY if base == "gptoss" else LLAMA
    return form % ('Pa\\"ris XVI', 3), "", form % ("Rome", 5)


def own_markers(template: str) -> list[str]:
    """The tags that the template writes or looks for, found by their look."""
    return sorted(set(re.findall(r"<[^<>\s'\"]+>|\[/?[A-Z_]+\]", resolve_chat_template(f"trl:{template}"))))


def cases(template: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, messages in CASES.items():
        yield name, {"messages": messages} | ({"tools": TOOLS} if "call" in name else {})
    markers = own_markers(template)
    for name, text in (
        ("all its markers", " x ".join(["", *markers, ""]).strip()),
        ("all its markers, unspaced", "".join(markers)),
        *((f"its marker {marker}", f"{marker}\n") for marker in markers),
    ):
        yield name, {"messages": [ask(f"What {text} is 2+2?"), say(f"alpha {text}omega"), SECOND, say("It is 6.")]}


@cache
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are single bytes, so that tokens say all that there is to say about characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def encode(template: str, row: dict[str, Any], **options: Any) -> EncodedRow | UnscorableRowError:
    encoder = ConversationEncoder(byte_tokenizer(), chat_template=resolve_chat_template(f"trl:{template}"), **options)
    return encoder.encode([row], find_format(row))[0]


def scored_text(row: EncodedRow) -> str:
    return byte_tokenizer().decode(row.input_ids[row.positions])


def content_of(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, dict):
        return "".join(content["text"])
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


def pieces(template: str, messages: list[dict[str, Any]]) -> Iterator[str]:
    """What the assistant wrote, in the order and with the trimming of the template: the oracle."""
    last_question = max(i for i, message in enumerate(messages) if message["role"] == "user")
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        content, reasoning = content_of(message), "".join(message.get(k, "") for k in ("reasoning", "thinking"))
        reasoning += message.get("reasoning_content", "")
        if is_one_of(template, TRIMS_BOTH):
            content = content.strip()
        elif is_one_of(template, TRIMS_RIGHT):
            content = content.rstrip()
        elif is_one_of(template, TRIMS_NEWLINES_LEFT) and (i > last_question or "training" in template):
            content = content.lstrip("\n")
        names = [call["function"]["name"] for call in message.get("tool_calls", [])]
        text_arguments = names and message["tool_calls"][0] is TEXT_ARGUMENTS
        call = calls(template)[2 if text_arguments else len(names) - 1] if names else ""
        if template.startswith("deepseek") and i > 2 and names:
            # These templates open the brackets around all calls once in a conversation.
            call = DEEPSEEK % ('Pa\\"ris XVI', 3) + ("<｜tool▁calls▁end｜>" if "r1" in template else "")
        calls_first = is_one_of(template, CALLS_BEFORE_CONTENT)
        yield from (reasoning, call, content) if calls_first else (reasoning, content, call)


def squeeze(text: str) -> str:
    return "".join(text.split())


def rendering(template: str, row: dict[str, Any]) -> str | None:
    """The template's own rendering through transformers, of plain texts or, where that fails, of blocks."""
    plain = [{**message, "content": content_of(message)} for message in row["messages"]]
    blocks = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in plain]
    for messages in (plain, blocks):
        try:
            text = byte_tokenizer().apply_chat_template(
                messages,
                tools=row.get("tools"),
                chat_template=resolve_chat_template(f"trl:{template}"),
                tokenize=False,
            )
        except Exception:
            continue
        if messages is blocks or plain[0]["content"] in text or plain[0]["content"].strip() in text:
            return text
    return None


def outcome(template: str, name: str, row: dict[str, Any]) -> str:
    """``equal``, ``flagged`` (and the template's own rendering confirms why), or what is wrong."""
    encoded = encode(template, row)
    text = rendering(template, row)
    if isinstance(encoded, UnscorableRowError):
        if encoded.status == "bad_row":
            return "flagged" if text is None else f"bad_row, but the template renders it: {encoded}"
        if encoded.status != "template_dropped_text":
            return f"{encoded.status}: {encoded}"
        wanted = [piece for message in row["messages"] for piece in written(message)]
        position = 0
        for piece in wanted:
            found = squeeze(text or "").find(piece, position)
            if found < 0:
                return "flagged"
            position = found
        return f"flagged, but nothing is left out: {encoded}"
    expected = "".join(pieces(template, row["messages"]))
    found = scored_text(encoded)
    loose = "marker" in name or "spaced" in name or ("think" in name and template.startswith("glm4moe"))
    if (squeeze(found) == squeeze(expected)) if loose else (found == expected):
        return "equal"
    return f"scored {found!r}, expected {expected!r}"


def written(message: dict[str, Any]) -> Iterator[str]:
    """Texts that a rendering has to show, without white space."""
    if message["role"] != "assistant":
        return
    for key in ("reasoning_content", "reasoning", "thinking"):
        if message.get(key):
            yield squeeze(message[key])
    yield squeeze(content_of(message))
    for call in message.get("tool_calls", []):
        yield {id(WEATHER): "risXVI", id(TIME): "CET", id(TEXT_ARGUMENTS): "Rome"}[id(call)]


def marked_as_generated(template: str, row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Token ids and the template's own mask, both from transformers alone; ``None`` where it refuses the row."""
    messages = [{**message, "content": content_of(message)} for message in row["messages"]]
    if template.startswith(("idefics3", "smolvlm", "llava_next")):
        messages = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
    try:
        marked = byte_tokenizer().apply_chat_template(
            messages,
            tools=row.get("tools"),
            chat_template=resolve_chat_template(f"trl:{template}"),
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
    except Exception:
        return None
    return np.array(marked["input_ids"]), np.array(marked["assistant_masks"], dtype=bool)


def runs(mask: np.ndarray) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(int), [0]))))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_is_scored_is_the_rows_own_text_or_the_row_says_why_not(template: str) -> None:
    outcomes = {name: outcome(template, name, row) for name, row in cases(template)}
    wrong = {name: found for name, found in outcomes.items() if found not in ("equal", "flagged")}
    assert not wrong
    assert outcomes["one turn"] == outcomes["white space, two turns"] == outcomes["code"] == "equal"


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name.endswith("_training")])
def test_what_is_scored_lies_inside_the_generation_marks_and_leaves_out_only_what_is_listed(template: str) -> None:
    listed = set().union(*(texts for family, texts in LEFT_OUT.items() if is_one_of(template, (family,))))
    seen: set[str] = set()
    for _, row in cases(template):
        encoded, marked = encode(template, row), marked_as_generated(template, row)
        if isinstance(encoded, UnscorableRowError) or marked is None:
            continue
        ids, mask = marked
        if not np.array_equal(ids[: encoded.input_ids.size], encoded.input_ids):
            assert "tools" in row  # other forms of a call's arguments than the row's own
            continue
        scored = np.zeros_like(mask)
        scored[encoded.positions] = True
        assert not np.any(scored & ~mask)
        seen |= {byte_tokenizer().decode(ids[start:end]) for start, end in runs(mask & ~scored)}
    assert {text for text in seen if text.strip()} - listed == set()
    assert {text for text in listed if text.strip()} - seen == set()


@pytest.mark.parametrize("template", TEMPLATES)
def test_messages_as_arrow_returns_them_score_as_the_originals_do(template: str) -> None:
    rows = [
        {"messages": messages, "tools": TOOLS if "call" in name else None}
        for name, messages in CASES.items()
        if "blocks" not in name and "as text" not in name
    ]
    returned = Dataset.from_list(rows).to_list()
    assert returned[0]["messages"][0]["tool_calls"] is None
    encoder = ConversationEncoder(byte_tokenizer(), chat_template=resolve_chat_template(f"trl:{template}"))
    originals, again = (encoder.encode(some, find_format(["messages", "tools"])) for some in (rows, returned))
    for original, found in zip(originals, again, strict=True):
        if isinstance(original, EncodedRow):
            assert isinstance(found, EncodedRow)
            assert np.array_equal(found.input_ids, original.input_ids)
            assert np.array_equal(found.positions, original.positions)
        else:
            assert isinstance(found, UnscorableRowError) and found.status == original.status


def print_table() -> None:
    print("| template | cases | equal to the oracle | flagged | wrong |\n|---|---|---|---|---|")
    total: Counter[str] = Counter()
    for template in TEMPLATES:
        kinds = Counter(outcome(template, name, row) for name, row in cases(template))
        counts = kinds.total(), kinds["equal"], kinds["flagged"], kinds.total() - kinds["equal"] - kinds["flagged"]
        print(f"| {template} | {' | '.join(map(str, counts))} |")
        total.update(dict(zip(("cases", "equal", "flagged", "wrong"), counts, strict=True)))
    print(f"| **all** | {' | '.join(str(total[key]) for key in ('cases', 'equal', 'flagged', 'wrong'))} |")


if __name__ == "__main__":
    print_table()
