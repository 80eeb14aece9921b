"""A data set with images through ``map``, under four families of students, against each row's own full logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from oracle import assert_scored_the_same, plain_scores
from vision_students import SEEING, make_picture, make_processor, make_seeing_student

from rsr_datasets import RSRScorer, score_dataset
from rsr_datasets.runs.estimate import estimate_run

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


def make_dataset(rows: int) -> Dataset:
    images = [
        [make_picture(10 * number + i, 30 + 9 * number, 40) for i in range(number % 2 + number // 2 % 2)]
        for number in range(rows)
    ]
    found = [{"images": some, "messages": conversation(number)} for number, some in enumerate(images)]
    return Dataset.from_list(found, features=FEATURES)


@pytest.mark.parametrize("family", SEEING)
def test_map_gives_each_row_the_scores_of_its_own_full_logits(family: str) -> None:
    processor = make_processor(family)
    model = make_seeing_student(family, processor)
    dataset = make_dataset(8)
    add_rsr = RSRScorer(model, tokenizer=processor, token_columns=True)
    scored = dataset.map(add_rsr, batched=True, batch_size=5)
    assert scored["rsr_status"][:] == ["scored"] * 8
    encoded = add_rsr.encode(list(dataset), add_rsr.find_format(dataset.column_names))
    for number, (row, read) in enumerate(zip(scored, encoded, strict=True)):
        text = processor.apply_chat_template(conversation(number), tokenize=False)
        images = [row["images"]] if row["images"] else None
        given = processor(text=[text], images=images, return_tensors="pt")
        assert given["input_ids"][0, : read.input_ids.size].tolist() == read.input_ids.tolist()
        assert row["rsr_token_ids"] == read.input_ids[read.positions].tolist()
        with torch.inference_mode():
            expected = plain_scores(lambda given=given, **_: model(**given), read)
        assert_scored_the_same(np.array(row["rsr_token_ranks"]), np.array(row["rsr_token_surprisals"]), expected)


def test_a_run_with_a_student_in_a_folder_scores_and_estimates_alike(tmp_path: Path) -> None:
    processor = make_processor("llava")
    model = make_seeing_student("llava", processor)
    model.save_pretrained(tmp_path / "student")
    processor.save_pretrained(tmp_path / "student")
    dataset = make_dataset(6)
    add_rsr = RSRScorer(tmp_path / "student")
    assert estimate_run(dataset, add_rsr, tmp_path / "estimated", 3)["parameters"] == model.num_parameters()
    scored = score_dataset(dataset, add_rsr, tmp_path / "run", unit_rows=3)
    expected = dataset.map(RSRScorer(model, tokenizer=processor), batched=True)
    np.testing.assert_allclose(scored["rsr"][:], expected["rsr"][:], rtol=1e-5)
