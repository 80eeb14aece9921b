"""A data set with images through ``map``, under four families of students, against each row's own full logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from oracle import assert_scored_the_same, plain_scores
from vision_students import SEEING, make_picture, make_processor, make_seeing_student

from rsr_datasets import RSRScorer

BLOCK = {"type": Value("string"), "text": Value("string")}
FEATURES = Features(
    {
        "images": List(Image()),
        "messages": List({"role": Value("string"), "content": List(BLOCK)}),
    }
)


def turn(role: str, text: str, images: int = 0) -> dict[str, Any]:
    return {"role": role, "content": [*[{"type": "image"}] * images, {"type": "text", "text": text}]}


def conversation(number: int) -> list[dict[str, Any]]:
    """Two questions with images before and after the first answer; every fourth row has none."""
    first, second = (number % 2, number // 2 % 2)
    return [
        turn("user", f"What stands on the left of picture {number}?", first),
        turn("assistant", f"There are {number + 2} strings, and f({number}) = 239."),
        turn("user", "And on the right?", second),
        turn("assistant", "The answer is 42, " * (1 + number % 3) + "and so on."),
    ]


@pytest.mark.parametrize("family", SEEING)
def test_map_gives_each_row_the_scores_of_its_own_full_logits(family: str) -> None:
    processor = make_processor(family)
    model = make_seeing_student(family, processor)
    talks = [conversation(number) for number in range(8)]
    pictures = [
        [make_picture(10 * number + i, 30 + 9 * number, 40) for i in range(number % 2 + number // 2 % 2)]
        for number in range(8)
    ]
    dataset = Dataset.from_list(
        [{"images": some, "messages": talk} for some, talk in zip(pictures, talks, strict=True)], features=FEATURES
    )
    add_rsr = RSRScorer(model, tokenizer=processor, token_columns=True)
    scored = dataset.map(add_rsr, batched=True, batch_size=5)
    assert scored["rsr_status"][:] == ["scored"] * 8
    encoded = add_rsr.encode(list(dataset), add_rsr.find_format(dataset.column_names))
    for talk, some, row, read in zip(talks, pictures, scored, encoded, strict=True):
        text = processor.apply_chat_template(talk, tokenize=False)
        given = processor(text=[text], images=[some] if some else None, return_tensors="pt")
        assert given["input_ids"][0, : read.input_ids.size].tolist() == read.input_ids.tolist()
        assert row["rsr_token_ids"] == read.input_ids[read.positions].tolist()
        with torch.inference_mode():
            expected = plain_scores(lambda given=given, **_: model(**given), read)
        assert_scored_the_same(np.array(row["rsr_token_ranks"]), np.array(row["rsr_token_surprisals"]), expected)
