import datetime
import math

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, concatenate_datasets

from rsr_datasets.tables.arrays import read_categories, read_flags, read_numbers, read_present
from rsr_datasets.tables.content_hash import content_hash
from rsr_datasets.tables.groups import group_by_columns


def shuffled(values, order):
    return Dataset.from_dict({"x": values}).select(order)


def in_chunks(values, size):
    pieces = [pa.table({"x": pa.array(values[i : i + size])}) for i in range(0, len(values), size)]
    return concatenate_datasets([Dataset(piece) for piece in pieces])


def test_numbers_are_read_through_an_indices_mapping():
    assert read_numbers(shuffled([1, 2, 3, 4], [3, 0, 0, 2]), "x").tolist() == [4, 1, 1, 3]


def test_a_missing_number_is_not_a_number():
    assert np.isnan(read_numbers(Dataset.from_dict({"x": [1.0, None, math.nan]}), "x")).tolist() == [False, True, True]


def test_a_missing_flag_is_false():
    assert read_flags(shuffled([True, None, False], [1, 0, 2]), "x").tolist() == [False, True, False]


def test_a_row_is_present_where_no_column_is_null():
    dataset = Dataset.from_dict({"x": ["", None, "b", "c"], "y": [[1], [2], None, []]})
    assert read_present(dataset, ["x", "y"]).tolist() == [True, False, False, True]
    assert read_present(dataset.select([3, 1]), ["x"]).tolist() == [True, False]
    assert read_present(dataset.select([]), ["x"]).tolist() == []


def test_categories_are_numbered_in_order_of_appearance():
    categories = read_categories(shuffled(["a", "b", None, "c"], [3, 2, 1, 3, 0]), "x")
    assert categories.values == ["c", "b", "a"]
    assert categories.codes.tolist() == [0, -1, 1, 0, 2]


def test_categories_agree_across_chunks():
    categories = read_categories(in_chunks(["a", "b", "b", "a", "c"], 2), "x")
    assert [categories.values[code] for code in categories.codes] == ["a", "b", "b", "a", "c"]


@pytest.mark.parametrize(
    "values",
    [
        [3, 1, 3, None],
        ["x", "y", "x", None],
        [0.5, 1.5, 0.5, math.nan],
        [True, False, True, None],
        [["a"], ["b"], ["a"], None],
        [datetime.date(2026, 1, 2), datetime.date(2026, 1, 1), datetime.date(2026, 1, 2), None],
    ],
)
def test_equal_keys_make_a_group_whatever_their_type(values):
    groups = group_by_columns(shuffled(values, [0, 1, 2, 3]), ["x"])
    assert (groups.codes.tolist(), groups.count) == ([0, 1, 0, -1], 2)
    assert group_by_columns(shuffled(values, [1, 3, 2, 0]), ["x"]).codes.tolist() == [0, -1, 1, 1]


def test_long_texts_in_many_chunks_keep_their_group():
    values = [f"{i % 7} {'x' * 100}" for i in range(1000)]
    groups = group_by_columns(in_chunks(values, 33), ["x"])
    assert groups.codes.tolist() == [i % 7 for i in range(1000)]


def test_prompts_in_json_features_are_compared_by_what_they_say() -> None:
    from datasets import Dataset, Features, Json, List

    from rsr_datasets.curation.prompts import group_by_prompt

    def row(question: object, **extra: object) -> dict:
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "x", **extra}]}

    as_blocks = [{"type": "text", "text": "q"}]
    features = Features({"messages": List(Json())})
    dataset = Dataset.from_list([row("q"), row(as_blocks), row("other"), row("q", name="y")], features=features)
    assert group_by_prompt(dataset).codes.tolist() == [0, 0, 1, 0]


def test_class_labels_are_read_by_name_and_null_columns_as_null() -> None:
    import numpy as np
    import pyarrow as pa
    from datasets import ClassLabel, Dataset, Features, Value

    from rsr_datasets.tables.arrays import read_categories, read_flags, read_numbers

    labels = Features({"teacher": ClassLabel(names=["R1", "QwQ"]), "ok": Value("null")})
    dataset = Dataset.from_dict({"teacher": [1, 0, 1], "ok": [None] * 3}, features=labels)
    assert read_categories(dataset, "teacher").values == ["QwQ", "R1"]
    assert read_flags(dataset, "ok").tolist() == [False] * 3
    assert np.isnan(read_numbers(dataset, "ok")).all()
    assert pa.types.is_null(dataset.data.table["ok"].type)


NESTED = [
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}],
    None,
    [],
    [{"role": "user", "content": "é"}],
]


def test_a_content_hash_does_not_see_the_layout() -> None:
    table = pa.table({"text": ["x", None, "", "yz"], "messages": NESTED, "n": [1, None, 3, 4]})
    expected = content_hash(table)
    sliced = pa.concat_tables([table, table]).combine_chunks().slice(4)
    large = table.set_column(0, "text", table["text"].cast(pa.large_string()))
    for same in (pa.concat_tables([table.slice(0, 1), table.slice(1)]), sliced, large):
        assert content_hash(same) == expected


@pytest.mark.parametrize(
    "column",
    [
        {"text": ["x", "", None, "yz"]},
        {"text": ["xy", None, "", "z"]},
        {"messages": [NESTED[0], [], None, NESTED[3]]},
        {"messages": [NESTED[3], None, [], NESTED[0]]},
        {"n": [1, 0, 3, 4]},
    ],
    ids=["null moved", "boundary moved", "null and empty", "order", "null and zero"],
)
def test_a_content_hash_sees_every_value(column: dict[str, list]) -> None:
    table = {"text": ["x", None, "", "yz"], "messages": NESTED, "n": [1, None, 3, 4]}
    assert content_hash(pa.table(table | column)) != content_hash(pa.table(table))


def test_reading_that_takes_long_shows_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    dataset = Dataset.from_dict({"x": [1.0, 2.0]})
    datasets.enable_progress_bars()
    try:
        read_numbers(dataset, "x")
        assert "Reading" not in capsys.readouterr().err  # it took no time
        monkeypatch.setattr("rsr_datasets.tables.arrays._SHOWN_AFTER", 0)
        read_numbers(dataset, "x")
    finally:
        datasets.disable_progress_bars()
    assert "Reading x" in capsys.readouterr().err
