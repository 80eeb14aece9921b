"""How many images a data set shows, whatever way its rows write them."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset

from rsr_datasets.reading.counting import count_images
from rsr_datasets.reading.formats import find_format


def asked(*types: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": kind, "text": "What?", "image": None} for kind in types]}]


@pytest.mark.parametrize(
    ("columns", "count"),
    [
        ({"messages": [asked("text"), asked("text")]}, 0),
        ({"messages": [asked("image", "text", "image"), asked("image")], "images": [["a", "b"], ["c"]]}, 3),
        ({"messages": [asked("image_url", "text"), asked("text")]}, 1),
        ({"query": ["<image>", "x"], "response": ["a", "b"], "images": [["a", "b"], []]}, 2),
        ({"query": ["<image>", "x"], "response": ["a", "b"], "images": ["a", None]}, 1),
    ],
)
def test_images_are_counted_once(columns: dict[str, Any], count: int) -> None:
    assert count_images(Dataset.from_dict(columns), find_format(columns)) == count
