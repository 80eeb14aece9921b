"""Tokens and steps as text: the parts put together are the text, whatever the tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from rsr_datasets.reading.steps import split_text, step_ends, token_steps


@given(text=st.text(max_size=40))
def test_parts_of_a_text_put_together_are_the_text(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    parts = split_text(tokenizer, ids)
    assert len(parts) == len(ids) and "".join(parts) == tokenizer.decode(ids)


@given(data=st.data())
def test_parts_of_any_tokens_put_together_are_their_text(
    tokenizer: PreTrainedTokenizerFast, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    assert "".join(split_text(tokenizer, ids)) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_a_character_of_several_tokens_belongs_to_the_last(tokenizer: PreTrainedTokenizerFast) -> None:
    assert split_text(tokenizer, tokenizer("x🎉")["input_ids"]) == ["x", "", "", "", "🎉"]


def test_a_tokenizer_of_another_student_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="token id 49152 is not one of the"):
        split_text(tokenizer, [1, 49152])


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("First, let x be 3. Then f(x) = 2 x + 1!\nSo f(x) = 7. We know that.\n\nDone. Yes?", 6),
        ("", 0),
        (" \n ", 0),
        ("one", 1),
        ("It is 3.5 or 4,5", 1),
        ("A. B! C? D", 4),
        ("line\nline\n\nline\n", 3),
        ('He said "no." Then he left.', 2),
        ("  \n lead. tail", 2),
        ("先算x。再算y！」 所以？！7", 4),
    ],
)
def test_steps_are_sentences_and_lines(text: str, steps: int) -> None:
    ends = step_ends(text)
    assert len(ends) == steps
    assert not steps or ends[-1] == len(text)
    parts = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert "".join(parts) == (text if steps else "") and all(part.strip() for part in parts)


def test_a_token_belongs_to_the_step_of_its_first_visible_character() -> None:
    parts = ["One", ".", " Two", "", "!\n\n", "\n", "Thr", "ee"]
    assert token_steps(parts).tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
