import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets, load_from_disk

from rsr_datasets.tables.records import append_record, read_records


@pytest.fixture
def dataset():
    return Dataset.from_dict({"x": [1, 2, 3]})


def test_a_record_is_read_back(dataset):
    record = {"step": "score", "settings": {"rank_clip": 100, "chat_template": "</rsr_datasets> <é>\n"}}
    assert read_records(append_record(dataset, record)) == [record]


def test_the_callers_dataset_is_not_changed(dataset):
    append_record(dataset, {"step": "score"})
    assert read_records(dataset) == []
    assert not dataset.info.description


def test_records_keep_their_order(dataset):
    twice = append_record(append_record(dataset, {"step": "first"}), {"step": "second"})
    assert [record["step"] for record in read_records(twice)] == ["first", "second"]


def test_rows_and_format_stay(dataset):
    marked = append_record(dataset.with_format("numpy"), {"step": "score"})
    assert marked.format["type"] == "numpy"
    assert marked["x"][:].tolist() == [1, 2, 3]


def test_a_description_written_by_hand_stays(dataset):
    dataset.info.description = "Traces of <b>two</b> teachers: {not json}"
    marked = append_record(dataset, {"step": "score"})
    assert marked.info.description.startswith("Traces of <b>two</b> teachers: {not json}\n")
    assert read_records(marked) == [{"step": "score"}]


def test_text_added_after_a_record_does_not_hide_it(dataset):
    marked = append_record(dataset, {"step": "score"})
    marked.info.description += " See the appendix."
    assert read_records(append_record(marked, {"step": "select"})) == [{"step": "score"}, {"step": "select"}]


def test_concatenation_keeps_the_records_of_both(dataset):
    joined = concatenate_datasets([append_record(dataset, {"part": 1}), append_record(dataset, {"part": 2})])
    assert read_records(joined) == [{"part": 1}, {"part": 2}]


def test_steps_shared_by_concatenated_parts_count_once(dataset):
    scored = append_record(dataset, {"step": "score"})
    joined = concatenate_datasets([append_record(scored, {"part": 1}), append_record(scored, {"part": 2})])
    assert read_records(joined) == [{"step": "score"}, {"part": 1}, {"part": 2}]


def test_records_survive_map_select_and_the_disk(dataset, tmp_path):
    marked = append_record(dataset, {"step": "score"}).map(lambda row: {"y": row["x"]}).select([2, 0])
    marked.save_to_disk(tmp_path / "saved")
    assert read_records(load_from_disk(tmp_path / "saved")) == [{"step": "score"}]


def test_a_broken_record_is_skipped_with_a_warning(caplog):
    description = '<rsr_datasets>{"step": </rsr_datasets><rsr_datasets>{"step": "select"}</rsr_datasets>'
    assert read_records(description) == [{"step": "select"}]
    assert "not a JSON object" in caplog.text


def test_a_number_that_is_not_finite_is_refused(dataset):
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_record(dataset, {"rsr": float("nan")})


def test_numbers_may_be_numpys(dataset):
    assert read_records(append_record(dataset, {"seed": np.int64(3)})) == [{"seed": 3}]


def test_what_is_not_json_is_refused(dataset):
    with pytest.raises(TypeError, match="has no set"):
        append_record(dataset, {"columns": {"a"}})
