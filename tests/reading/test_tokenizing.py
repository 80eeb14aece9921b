"""Texts to tokens, with the kinds of tokenizers that students have."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
from conftest import TRAINING_TEXT, conversation, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from rsr_datasets.reading.encoder import ConversationEncoder
from rsr_datasets.reading.formats import find_format
from rsr_datasets.reading.response import RenderedText
from rsr_datasets.reading.rows import EncodedRow, UnscorableRowError
from rsr_datasets.reading.templates import resolve_chat_template
from rsr_datasets.reading.tokenizing import _tokenize_without_offsets, tokenize

TEXTS = [
    "the answer",
    " is 42. ",
    "🙂",
    "👩‍👧",
    "é",
    "e\u0301",
    "\n\n",
    " ",
    "<s>",
    "<|im_end|>",
    "ש",
    "答",
    "\x00",
    "x = 3",
]
KINDS = ["byte level", "metaspace", "prepended", "unigram"]


@cache
def make(kind: str) -> PreTrainedTokenizerFast:
    """The tokenizers of the usual families, small: GPT's and Qwen's, Mistral's, the first Llamas', T5's."""
    if kind == "byte level":
        tokenizer = make_tokenizer()
        tokenizer.bos_token = "<|endoftext|>"
        return tokenizer
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=500, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.train_from_iterator(TRAINING_TEXT * 4, trainer)
    if kind == "prepended":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def encode(tokenizer: PreTrainedTokenizerFast, row: dict, template: str | None = None) -> EncodedRow:
    encoder = ConversationEncoder(tokenizer, chat_template=resolve_chat_template(template))
    encoded = encoder.encode([row], find_format(row))[0]
    if isinstance(encoded, UnscorableRowError):
        raise encoded
    return encoded


@pytest.mark.parametrize("kind", KINDS)
def test_the_pair_is_tokenized_as_one_text_and_counts_from_the_first_response_token(kind: str) -> None:
    tokenizer = make(kind)
    for prompt, completion in (
        ("Solve it.", " x = 3"),
        ("Solve it. ", "x = 3"),
        ("the ans", "wer is 42."),
        ("Q", "é"),
    ):
        encoded = encode(tokenizer, {"prompt": prompt, "completion": completion})
        whole = tokenizer(prompt + completion, return_offsets_mapping=True)
        assert encoded.input_ids.tolist() == whole["input_ids"][: encoded.input_ids.size]
        # Offsets of single characters: the first token that ends behind the border holds response text.
        first = next(k for k, (_, end) in enumerate(whole["offset_mapping"]) if end > len(prompt))
        assert encoded.positions.tolist() == list(range(first, len(whole["input_ids"])))


@pytest.mark.parametrize("kind", KINDS[1:3])
def test_every_byte_of_a_character_in_the_response_counts_and_none_of_the_prompts(kind: str) -> None:
    tokenizer = make(kind)
    encoded = encode(tokenizer, {"prompt": "What?🙂", "completion": "答🙂"})
    tokens = tokenizer.convert_ids_to_tokens(encoded.input_ids[encoded.positions])
    assert [int(token[3:5], 16) for token in tokens] == list("答🙂".encode())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", ["chatml", "llama3", "plain"])
def test_no_token_but_those_with_response_text_count(kind: str, template: str) -> None:
    tokenizer = make(kind)
    encoded = encode(tokenizer, {"messages": conversation("Solve it.", "We know that a + b = c")}, template)
    assert tokenizer.decode(encoded.input_ids[encoded.positions]).strip() == "We know that a + b = c"


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_that_writes_bos_gives_one_bos(kind: str) -> None:
    tokenizer = make(kind)
    row = {"messages": conversation("Solve it.", "x = 3")}
    assert encode(tokenizer, row, "llama3").input_ids.tolist().count(tokenizer.bos_token_id) == 1
    assert encode(tokenizer, row, "chatml").input_ids.tolist().count(tokenizer.bos_token_id) == 0


def test_a_text_that_begins_with_bos_gets_no_second_one() -> None:
    tokenizer = make("metaspace")
    row = {"prompt": "<s>Solve it.", "completion": " x = 3"}
    encoded = encode(tokenizer, row)
    assert encoded.input_ids.tolist().count(tokenizer.bos_token_id) == 1
    bare = encode(tokenizer, {"prompt": "Solve it.", "completion": " x = 3"})
    assert bare.input_ids[0] == tokenizer.bos_token_id and bare.positions.size == encoded.positions.size


def test_added_tokens_in_the_content_are_content(tokenizer) -> None:
    encoded = encode(tokenizer, {"messages": conversation("?", "x<|im_end|><|im_start|>")}, "chatml")
    markers = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|im_start|>")]
    assert encoded.input_ids[encoded.positions].tolist() == [*tokenizer("x")["input_ids"], *markers]


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(KINDS))
def test_tokens_that_spell_the_text_count_as_offsets_say(data: st.DataObject, kind: str) -> None:
    character = st.characters(exclude_categories=["Cs"])
    parts = st.lists(st.one_of(st.sampled_from(TEXTS), st.text(character, max_size=4)), min_size=1, max_size=40)
    text = "".join(data.draw(parts))
    start = data.draw(st.integers(0, len(text)))
    own = np.zeros(len(text), dtype=bool)
    own[start : data.draw(st.integers(start, len(text)))] = True
    rendered = RenderedText(text, own, add_special_tokens=data.draw(st.booleans()))
    by_offsets, spelled = tokenize(make(kind), [rendered])[0], _tokenize_without_offsets(make(kind), rendered)
    if spelled is None:
        assert kind != "byte level" or "\ufffd" in text  # the others do not decode to all that they encoded
        return
    assert np.array_equal(spelled.ids, by_offsets.ids)
    assert np.array_equal(spelled.counts, by_offsets.counts)


@cache
def make_with_added(kind: str) -> PreTrainedTokenizerFast:
    """Added tokens of each sort: plain, with the white space around, whole words, normalized, one in another."""
    tokenizer = copy.deepcopy(make(kind))
    tokenizer.add_tokens(
        [
            AddedToken("<|im_end|>", special=True, normalized=False),
            AddedToken("<|im_end|>x", normalized=False),
            AddedToken("<m>", special=True, lstrip=True, rstrip=True, normalized=False),
            AddedToken("end", single_word=True, normalized=False),
            AddedToken("\n\n", normalized=False),
            AddedToken("<n>", normalized=True),
        ]
    )
    return tokenizer


BORDERS = [
    "<|im_end|>",
    "<|im_end|>x",
    "<|im_end",
    "|>",
    "<m>",
    "end",
    "<n>",
    "<s>",
    "x",
    " ",
    "\n",
    "\n\n",
    "é🙂",
    "the",
]


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from([*KINDS, "lower case"]))
def test_texts_that_begin_alike_are_tokenized_as_each_alone(data: st.DataObject, kind: str) -> None:
    tokenizer = make_with_added("byte level" if kind == "lower case" else kind)
    if kind == "lower case":
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    parts = st.lists(st.sampled_from(BORDERS), max_size=12)
    texts = ["".join(data.draw(parts))]
    for _ in range(3):
        kept = data.draw(st.integers(0, len(texts[-1])))
        texts.append(texts[-1][:kept] + "".join(data.draw(parts)))
    rendered = [RenderedText(text, np.arange(len(text)) % 3 == 0, add_special_tokens=False) for text in texts]
    together = tokenize(tokenizer, rendered)
    for text, found in zip(rendered, together, strict=True):
        alone = tokenize(tokenizer, [text])[0]
        assert found is not None and alone is not None
        assert np.array_equal(found.ids, alone.ids) and np.array_equal(found.counts, alone.counts)


def test_what_texts_have_in_common_is_tokenized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, read, call = make_with_added("byte level"), [], PreTrainedTokenizerFast.__call__

    def reads(self: PreTrainedTokenizerFast, texts: list[str], **more: object) -> object:
        read.extend(texts)
        return call(self, texts, **more)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", reads)
    texts = ["the answer<|im_end|>" * n + "is 42." for n in range(1, 20)]
    tokenize(tokenizer, [RenderedText(text, np.ones(len(text), dtype=bool), False) for text in texts])
    assert sum(map(len, read)) < 2 * len(texts[-1]) + 19 * len("<|im_end|>is 42.")


@pytest.mark.parametrize(
    "content", ["x = 3", "<think>\nhm\n</think>\n\nx 🙂 é 答", " spaced  out\n", "Therefore, " * 99]
)
def test_a_tokenizer_without_offsets_scores_the_same_text(content: str) -> None:
    slow = ByT5Tokenizer()
    assert not slow.is_fast
    rows = [{"messages": conversation("Solve it.", content)}, {"prompt": "Solve it.\n", "completion": content}]
    for row, template in zip(rows, ("chatml", None), strict=True):
        encoded = encode(slow, row, template)
        assert slow.decode(encoded.input_ids[encoded.positions]) == content
    assert encoded.input_ids.tolist() == slow("Solve it.\n" + content, add_special_tokens=False)["input_ids"]


def test_what_a_tokenizer_without_offsets_does_not_spell_is_said() -> None:
    with pytest.raises(UnscorableRowError, match=r"ByT5Tokenizer: no character offsets .* a fast one") as error:
        encode(ByT5Tokenizer(), {"text": "lost: \ufffd"})
    assert error.value.status == "bad_row"


def test_tokens_that_a_slow_tokenizer_adds_do_not_count() -> None:
    slow = copy.deepcopy(ByT5Tokenizer())
    text = RenderedText("x = 3", np.ones(5, dtype=bool), add_special_tokens=True)
    tokens = tokenize(slow, [text])[0]
    assert tokens is not None
    assert tokens.ids.tolist() == slow("x = 3")["input_ids"] and tokens.ids[-1] == slow.eos_token_id
    assert tokens.counts.tolist() == [True] * 5 + [False]
