"""Files as people have them: several kinds, other columns in each, compressed, broken."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from datasets import Dataset, Json, List, Value, load_from_disk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsr_datasets import RSRScorer
from rsr_datasets.cli.sources import find_files, open_dataset
from rsr_datasets.tables.records import append_record

QUESTION = {"role": "user", "content": "q"}


def answer(text: Any, **more: Any) -> list[dict[str, Any]]:
    return [QUESTION, {"role": "assistant", "content": text, **more}]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, *rows: Any) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def without_nulls(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


TEACHERS = {
    "a.jsonl": {"problem_id": "p1", "messages": answer("four")},
    "b.jsonl": {"problem_id": "p1", "messages": answer("five", reasoning_content="two and three")},
    "c.jsonl": {"problem_id": "p2", "extra": [1.5], "messages": answer([{"type": "text", "text": "six"}])},
    "d.jsonl": {"problem_id": 7, "extra": None, "messages": answer("42")},
}


@pytest.mark.parametrize("order", list(itertools.permutations(TEACHERS))[::5])
def test_files_of_several_teachers_are_one_dataset_in_any_order(order: tuple[str, ...]) -> None:
    for name, row in TEACHERS.items():
        write(name, row)
    dataset = open_dataset(order, teacher_from_file=True)
    assert list(dataset.features.items()) == [
        ("problem_id", Value("string")),
        ("messages", List(Json())),
        ("teacher", Value("string")),
        ("extra", List(Value("float64"))),
    ]
    expected = [
        {**TEACHERS[name], "problem_id": str(TEACHERS[name]["problem_id"]), "teacher": name[0]} for name in order
    ]
    assert without_nulls(dataset.to_list()) == without_nulls(expected)


def test_structs_are_merged_key_by_key() -> None:
    write("a.jsonl", {"meta": {"x": 1, "deep": {"a": "t"}}, "turns": [{"a": 1}], "share": 1})
    write("b.jsonl", {"meta": {"x": 1.5, "deep": {"b": True}}, "turns": [{"a": 2, "b": "u"}], "share": 0.5})
    dataset = open_dataset(["a.jsonl", "b.jsonl"])
    deep = {"a": Value("string"), "b": Value("bool")}
    assert dataset.features["share"] == Value("float64")
    assert dataset.features["meta"] == {"x": Json(), "deep": deep}  # a template writes the numbers 1 and 1.5
    assert dataset.features["turns"] == List({"a": Value("int64"), "b": Value("string")})
    assert dataset["turns"][:] == [[{"a": 1, "b": None}], [{"a": 2, "b": "u"}]]
    assert dataset["meta"][1] == {"x": 1.5, "deep": {"a": None, "b": True}}


def test_mixed_types_in_a_struct_are_kept_as_they_are() -> None:
    write("a.jsonl", {"messages": answer("42", arguments={"n": 1, "gone": None})})
    write("b.jsonl", {"messages": answer("x", arguments={"n": "1", "gone": None})})
    write("c.jsonl", {"messages": [{"role": "user", "content": "[1]", "arguments": "2024-01-01"}]})
    dataset = open_dataset(["a.jsonl", "b.jsonl", "c.jsonl"])
    assert [row[-1]["content"] for row in dataset["messages"]] == ["42", "x", "[1]"]
    assert [row[-1]["arguments"]["n"] for row in dataset["messages"][:2]] == [1, "1"]
    assert dataset["messages"][2][0]["arguments"] == "2024-01-01"


def test_tools_as_text_beside_tools_as_lists() -> None:
    tools = [{"type": "function", "function": {"name": "f", "default": None}}]
    write("a.jsonl", {"text": "x", "tools": json.dumps(tools)})
    write("b.jsonl", {"text": "y", "tools": [{"type": "function", "function": {"name": "g"}}]})
    assert open_dataset(["a.jsonl", "b.jsonl"])["tools"][:] == [
        json.dumps(tools),
        [{**tools[0], "function": {"name": "g"}}],
    ]


@pytest.mark.parametrize(
    ("one", "other", "types"),
    [
        ({"x": "text"}, {"x": ["list"]}, ("string in a.jsonl", "List(Value('string')) in b.jsonl")),
        ({"x": True}, {"x": 1}, ("bool in a.jsonl", "int64 in b.jsonl")),
        ({"x": {"k": 1}}, {"x": 1}, ("{'k': Value('int64')} in a.jsonl", "int64 in b.jsonl")),
        ({"x": {"k": 1}}, {"x": [1]}, ("{'k': Value('int64')} in a.jsonl", "List(Value('int64')) in b.jsonl")),
    ],
)
def test_columns_that_cannot_be_merged_are_named_with_files_and_types(
    one: dict[str, Any], other: dict[str, Any], types: tuple[str, str]
) -> None:
    write("a.jsonl", one)
    write("b.jsonl", other)
    write("c.jsonl", {"y": 1})
    for order in (["a.jsonl", "b.jsonl", "c.jsonl"], ["c.jsonl", "b.jsonl", "a.jsonl"]):
        with pytest.raises(ValueError) as refused:
            open_dataset(order)
        assert all(part in str(refused.value) for part in ("column 'x'", *types))


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        (
            [{"messages": answer("4")}, {"id": 1, "problem": "2+2?", "solution": "4"}],
            None,
            "0.jsonl has messages, 1.jsonl has ['id', 'problem', 'solution']; name what they are, perhaps "
            'columns={"user": "problem", "assistant": "solution"}; score the files of each format in a run of their',
        ),
        (
            [{"prompt": "2+2?", "completion": "4"}, {"messages": answer("4")}],
            None,
            "1.jsonl has messages, 0.jsonl has prompt",
        ),
        (
            [{"messages": answer("4")}, {"problem": "2+2?", "solution": "4"}],
            {"user": "problem", "assistant": "solution"},
            "1.jsonl has problem and solution, 0.jsonl has messages",
        ),
        ([{"messages": answer("4")}, {"messages": None, "text": "4"}], None, "0.jsonl has messages, 1.jsonl has text"),
    ],
)
def test_files_of_different_formats_need_a_run_each(
    rows: list[dict[str, Any]], columns: dict[str, str] | None, said: str
) -> None:
    names = [write(f"{i}.jsonl", row) for i, row in enumerate(rows)]
    with pytest.raises(ValueError, match="^files of different formats: " + re.escape(said)):
        open_dataset(names, scorer=RSRScorer("not-loaded", columns=columns))
    assert len(open_dataset(names)) == 2  # rows that are scored already may come from any


def test_plain_texts_beside_conversations_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    plain, chat = ({"prompt": "2+2?", "completion": "4"}, {"messages": answer("4")})
    for name, row, columns in (
        ("plain", plain, {}),
        ("chat", chat, {}),
        ("asked", plain, {"user": "prompt", "assistant": "completion"}),
    ):
        record = {"step": "score", "output": {"columns": columns}}
        append_record(Dataset.from_list([row]), record).save_to_disk(name)
    assert len(open_dataset(["chat", "asked"])) == 2
    assert not caplog.messages
    open_dataset(["chat", "plain"])
    (said,) = caplog.messages
    assert "texts of ['plain'] were scored without the chat template, those of ['chat'] with it" in said
    assert said.endswith('with columns={"user": "prompt", "assistant": "completion"} into another folder')


def test_files_of_one_format_may_have_other_columns_beside_it() -> None:
    names = [
        write("0.jsonl", {"messages": answer("4")}),
        write("1.jsonl", {"messages": answer("5"), "prompt": "2+2?", "completion": "4"}),
    ]
    assert len(open_dataset(names, scorer=RSRScorer("not-loaded"))) == 2


def test_kinds_may_be_mixed_and_saved_datasets_stand_beside_files() -> None:
    rows = [{"id": "1", "messages": answer("one")}, {"id": 2, "messages": answer("two", weight=1)}]
    Dataset.from_list(rows[:1]).to_parquet("a.parquet")
    write("b.jsonl", rows[1])
    Dataset.from_list([{"id": 3, "messages": answer("three")}]).save_to_disk("saved")
    Path("c.csv").write_text("id,note\n4,hm\n")
    dataset = open_dataset(["saved", "b.jsonl", "a.parquet", "c.csv"])
    assert dataset["id"][:] == ["3", "2", "1", "4"]
    assert [row and row[-1]["content"] for row in dataset["messages"]] == ["three", "two", "one", None]
    assert dataset["note"][:] == [None, None, None, "hm"]
    assert len(load_from_disk("saved")) == 1 and sorted(p.name for p in Path("saved").iterdir()) == [
        "data-00000-of-00001.arrow",
        "dataset_info.json",
        "state.json",
    ]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    | st.sampled_from(["42", "null", "2024-01-01", "[1]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.fixed_dictionaries({"id": st.just("x")}, optional={"v": VALUES}), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_value_is_read_as_it_is(rows: list[dict[str, Any]]) -> None:
    def as_text(value: Any) -> Any:
        return value if value is None or isinstance(value, str) else json.dumps(value)

    found = open_dataset([write("any.jsonl", *rows)])
    values = [row.get("v") for row in rows]
    if "v" not in found.features:
        assert values == [None] * len(rows)
    elif found.features["v"] == Value("string"):
        assert found["v"][:] == [as_text(value) for value in values]
    else:
        assert without_empty(found["v"][:]) == without_empty(values)


def without_empty(value: Any) -> Any:
    """A value without nulls, which may stand for missing keys; floats as the decoder of ``Json`` rounds them."""
    if isinstance(value, dict):
        return {key: without_empty(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_empty(item) for item in value]
    return pytest.approx(value) if isinstance(value, float) else value


def test_a_key_that_comes_late_in_a_big_file_is_read() -> None:
    plain = json.dumps({"messages": answer("x" * 1000)}) + "\n"
    late = json.dumps({"messages": answer("y", reasoning_content="z"), "note": 3})
    Path("late.jsonl").write_text(plain * 12_000 + late)
    dataset = open_dataset(["late.jsonl"])
    assert len(dataset) == 12_001
    assert dataset[12_000] == {"messages": answer("y", reasoning_content="z"), "note": 3}
    assert dataset[0] == {"messages": answer("x" * 1000), "note": None}


def test_memory_does_not_grow_with_the_files() -> None:
    line = json.dumps({"id": 1, "messages": answer("x" * 5000)}) + "\n"
    other = json.dumps({"id": "a", "messages": answer("x" * 5000, reasoning_content="y")}) + "\n"
    for name, text in (("a.jsonl", line), ("b.jsonl", other)):
        Path(name).write_text(text * 8_000)
    open_dataset([write("c.jsonl", {"id": 1}), write("d.jsonl", {"id": "x"})])  # imports, and buffers of Arrow
    before = allocated()
    assert len(open_dataset(["a.jsonl", "b.jsonl"])) == 16_000
    assert allocated() - before < 40e6 and pa.total_allocated_bytes() < 50e6


def allocated() -> int:
    """Memory of this process alone, without the files that it maps."""
    about = psutil.Process().memory_full_info()
    return int(about.uss - sum(m.rss for m in psutil.Process().memory_maps() if m.path.endswith(".arrow")))


def parquet_without_rows() -> bytes:
    buffer = io.BytesIO()
    Dataset.from_dict({"text": ["x"]}).select([]).to_parquet(buffer)
    return buffer.getvalue()


ROWS = [{"text": f"row {i} é", "n": i} for i in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", LINES),
        ("x.jsonl", LINES.strip()),
        ("x.jsonl", b"\n" + LINES.replace(b"\n", b"\r\n\r\n")),
        ("x.jsonl", b"\xef\xbb\xbf" + LINES),
        ("x.json", LINES),
        ("x.json", json.dumps(ROWS).encode()),
        ("x.json", json.dumps(ROWS, indent=2, ensure_ascii=False).encode()),
        ("x.json", b"\xef\xbb\xbf \n" + json.dumps(ROWS, indent="\t").encode() + b"\n"),
        ("x.json", "\n".join(json.dumps(row, indent=1) for row in ROWS).encode() + b"\n"),
        ("x.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("x.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)),
        ("x.jsonl.bz2", bz2.compress(LINES)),
        ("x.jsonl.zst", pa.compress(LINES, "zstd", asbytes=True)),
        ("x.csv.gz", gzip.compress(b"text,n\n" + "".join(f"{r['text']},{r['n']}\n" for r in ROWS).encode(), mtime=0)),
    ],
)
def test_json_and_csv_however_they_are_written(name: str, content: bytes) -> None:
    Path(name).write_bytes(content)
    dataset = open_dataset([name], teacher_from_file=True)
    assert dataset.to_list() == [{**row, "teacher": "x"} for row in ROWS]


def test_a_list_longer_than_a_block_is_read_item_by_item() -> None:
    rows = [{"text": '"}, [{' * 1000 + str(i)} for i in range(1000)]
    Path("long.json").write_text(json.dumps(rows))
    assert open_dataset(["long.json"]).to_list() == rows
    Path("one.json").write_text(json.dumps([{"text": "y" * 5_000_000}]))
    assert len(open_dataset(["one.json"])[0]["text"]) == 5_000_000
    Path("texts.json").write_text('["one", "two"]')
    assert open_dataset(["texts.json"])["text"][:] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.jsonl",
            b'{"a": 1}\n' * 16 + b'{"a": \n{"a": 2}\n',
            "x.jsonl: line 17 is no whole JSON (Expecting value, column 6)",
        ),
        ("x.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "x.jsonl: line 2 is not UTF-8"),
        ("x.jsonl", b'{"a": 1}\n\n[1]\n', "x.jsonl: line 3: a row must be an object, found [1]"),
        ("x.jsonl", b'{"a": 1}\n{"a": "\\ud83d"}\n', "x.jsonl: line 2 has half a character, '\\ud83d'"),
        ("x.json", b'{\n "a": 1\n}\n{\n "a" 2}', "line 5 is no whole JSON"),
        ("x.json", b'{\n "a": {\n', "line 3 is no whole JSON"),
        ("x.json", b'[\n{"a": 1},\n{"a": 2\n\n}{"a": "', "line 5 is no whole JSON"),
        ("x.json", b'[\n{"a": 1},\n{"a" 2},' + b'\n{"a": 3}' * 9 + b"]", "line 3 is no whole JSON"),
        ("x.json", b'[{"a": 1},\n', "line 2 is no whole JSON"),
        ("x.json", b'[{"a": 1}]\n[{"a": 2}]', "more after the end of the list"),
        ("x.json", b"[]", "x.json is empty"),
        ("x.jsonl", b"", "x.jsonl is empty"),
        ("x.jsonl", b"\n\n", "x.jsonl is empty"),
        ("x.csv", b"", "x.csv is empty"),
        ("x.csv", b"text,n\n", "x.csv is empty"),
        ("x.csv", b"text;n\nhello, you;1\n", "x.csv: its columns stand between ';'"),
        ("x.csv", b'a,b\n1,2\n1,2,3,"x\n', "cannot read x.csv"),
        ("x.parquet", b"", "x.parquet is empty"),
        ("x.parquet", parquet_without_rows(), "x.parquet is empty"),
        ("x.parquet", b"PAR1 and no more", "cannot read x.parquet"),
        ("x.jsonl.gz", LINES, "cannot read x.jsonl.gz"),
        ("x.jsonl.gz", gzip.compress(LINES, mtime=0)[:-20], "cannot read x.jsonl.gz"),
        ("x.txt", LINES, "'x.txt' is no file of rows, which end in .jsonl"),
        ("x.gz", LINES, "'x.gz' is no file of rows"),
        ("x.parquet.gz", LINES, "decompress the file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_place(name: str, content: bytes, message: str) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(ValueError) as refused:
        open_dataset([name])
    assert message in str(refused.value)
    assert len(str(refused.value)) <= 400 and str(refused.value).count(name) == 1


def test_a_file_that_changed_is_read_again() -> None:
    assert open_dataset([write("x.jsonl", {"text": "old"})])["text"][:] == ["old"]
    assert open_dataset([write("x.jsonl", {"text": "newer"})])["text"][:] == ["newer"]


@pytest.mark.parametrize("name", ["nowhere.jsonl", "nowhere.jsonl.gz", "nowhere.txt", "*.jsonl", "no/[x].json"])
def test_names_without_a_file_are_refused(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        find_files([name])


def test_names_that_mean_the_same_file_or_teacher_are_refused() -> None:
    for folder in ("one", "two"):
        Path(folder).mkdir()
        write(f"{folder}/a.jsonl", {"text": folder})
    with pytest.raises(ValueError, match=r"'one/a.jsonl' is named twice"):
        open_dataset(["one/a.jsonl", "one/*.jsonl"])
    with pytest.raises(ValueError, match=r"one/a.jsonl and two/a.jsonl would both be the teacher 'a'"):
        open_dataset(["*/a.jsonl"], teacher_from_file=True)
    assert len(open_dataset(["*/a.jsonl"])) == 2
    assert open_dataset([write("[1].jsonl", {"text": "x"})])["text"][:] == ["x"]
