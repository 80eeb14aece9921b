"""Users of `datasets` expect this of anything called in a `map`."""

from __future__ import annotations

import inspect
import itertools
import json
import pickle
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import conversation, make_model
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value
from datasets.fingerprint import Hasher
from forked_python import run_python
from safetensors.torch import load_file, save_file

import rsr_datasets.scoring.scorer as scorer_module
import rsr_datasets.scoring.settings
from rsr_datasets import RSRScorer
from rsr_datasets.reading.calls import read_tools
from rsr_datasets.reading.formats import RowFormat
from rsr_datasets.scoring.map_input import read_input
from rsr_datasets.tables.arrays import read_rows
from rsr_datasets.tables.columns import ScoreColumns

ROW_TYPES = ScoreColumns().row_types
TOKEN_TYPES = ScoreColumns().token_types
STATUSES = ["scored", "scored", "scored", "no_response", "scored", "bad_row", "scored"]


def assert_same_scores(found: Dataset | dict, expected: Dataset | dict) -> None:
    for name in ("rsr", "rsr_avg_rank", "rsr_avg_surprisal"):
        np.testing.assert_allclose(
            np.array(found[name][:], dtype=float), np.array(expected[name][:], dtype=float), rtol=1e-5
        )
    for name in ("rsr_num_tokens", "rsr_settings", "rsr_status"):
        assert list(found[name]) == list(expected[name])


def types_of(dataset: Dataset, names: dict) -> dict:
    return {name: dataset.features.arrow_schema.field(name).type for name in names}


@pytest.fixture
def scored(dataset: Dataset, student_folder: str) -> Dataset:
    return dataset.map(RSRScorer(student_folder, token_columns=True), batched=True)


def test_batched_map_appends_typed_columns_and_keeps_the_rest(dataset: Dataset, scored: Dataset) -> None:
    assert scored.column_names == [*dataset.column_names, *ROW_TYPES, *TOKEN_TYPES]
    assert [str(kind) for kind in types_of(scored, ROW_TYPES).values()] == ["double"] * 3 + ["int32"] + ["string"] * 2
    assert types_of(scored, ROW_TYPES | TOKEN_TYPES) == ROW_TYPES | TOKEN_TYPES
    assert {name: scored.features[name] for name in dataset.column_names} == dataset.features
    assert scored.select_columns(dataset.column_names).to_list() == dataset.to_list()
    assert list(scored["rsr_status"]) == STATUSES


def test_a_row_that_was_not_scored_is_null_throughout(scored: Dataset) -> None:
    for row, status in zip(scored, STATUSES, strict=True):
        numeric = [row["rsr"], row["rsr_avg_rank"], row["rsr_avg_surprisal"]]
        tokens = [row[name] for name in TOKEN_TYPES]
        if status == "scored":
            assert all(value > 0 for value in numeric)
            assert {len(values) for values in tokens} == {row["rsr_num_tokens"]}
        else:
            assert numeric == [None] * 3 and tokens == [None] * 3 and row["rsr_num_tokens"] == 0


def test_it_gives_the_same_however_it_is_mapped(dataset: Dataset, student_folder: str, scored: Dataset) -> None:
    one_by_one = dataset.map(RSRScorer(student_folder, token_columns=True))
    assert_same_scores(one_by_one, scored)
    assert one_by_one.features == scored.features
    add_rsr = RSRScorer(student_folder)
    for batch_size in (1, 2, 1000, None):
        assert_same_scores(dataset.map(add_rsr, batched=True, batch_size=batch_size), scored)
    splits = DatasetDict(train=dataset, test=dataset.select([6])).map(add_rsr, batched=True)
    assert_same_scores(splits["train"], scored)
    assert_same_scores(splits["test"], scored.select([6]))
    kept = dataset.map(add_rsr, batched=True, remove_columns=["problem_id"])
    assert kept.column_names == ["messages", *ROW_TYPES]
    assert_same_scores(kept, scored)
    empty = dataset.select([]).map(add_rsr, batched=True)
    assert len(empty) == 0  # map never calls a function on an empty dataset, so no column can be added there


@pytest.mark.parametrize("batched", [True, False])
def test_streaming_with_features(dataset: Dataset, student_folder: str, scored: Dataset, batched: bool) -> None:
    add_rsr = RSRScorer(student_folder, token_columns=True)
    stream = dataset.to_iterable_dataset().map(add_rsr, batched=batched, features=add_rsr.features(dataset.features))
    collected = list(stream)
    assert_same_scores({name: [row[name] for row in collected] for name in scored.column_names}, scored)
    assert stream.features.arrow_schema.field("rsr_num_tokens").type == pa.int32()
    assert stream.features["problem_id"] == dataset.features["problem_id"]


def test_streamed_rows_of_nothing_stay_rows(student_folder: str) -> None:
    add_rsr = RSRScorer(student_folder)
    with pytest.raises(ValueError, match="features are not known"):
        add_rsr.features(None)
    good = {"messages": conversation("?", "a + b = c")}
    rows = [{"messages": None}, good, {"messages": []}, {"messages": [None]}, good]
    features = Features({"messages": [{"role": Value("string"), "content": Value("string")}]})
    known = IterableDataset.from_generator(lambda: iter(rows), features=features)
    stream = IterableDataset.from_generator(lambda: iter(rows[1:])).map(add_rsr)
    expected = ["bad_row", "scored", "no_response", "bad_row", "scored"]
    assert [row["rsr_status"] for row in known.map(add_rsr, features=add_rsr.features(features))] == expected
    assert [row["rsr_status"] for row in stream] == expected[1:]


@pytest.mark.parametrize("batched", [True, False])
def test_arrow_format(dataset: Dataset, student_folder: str, scored: Dataset, batched: bool) -> None:
    found = dataset.with_format("arrow").map(RSRScorer(student_folder, token_columns=True), batched=batched)
    assert found.format["type"] == "arrow"
    found.reset_format()
    assert_same_scores(found, scored)
    assert found.features == scored.features


def test_a_first_batch_without_any_score_keeps_the_types(student_folder: str) -> None:
    unscorable = [{"messages": []}, {"messages": [{"role": "user", "content": "?"}]}]
    dataset = Dataset.from_list([*unscorable, {"messages": conversation("?", "a + b = c")}])
    for batched in (True, False):
        found = dataset.map(RSRScorer(student_folder, token_columns=True), batched=batched, batch_size=2)
        assert list(found["rsr_status"]) == ["no_response", "no_response", "scored"]
        assert types_of(found, ROW_TYPES | TOKEN_TYPES) == ROW_TYPES | TOKEN_TYPES


def test_original_features_are_untouched(student_folder: str) -> None:
    features = Features(
        {
            "id": Value("int16"),
            "kind": datasets.ClassLabel(names=["easy", "hard"]),
            "when": Value("timestamp[us]"),
            "vector": datasets.List(Value("float16"), length=2),
            "messages": [{"role": Value("string"), "content": Value("large_string")}],
        }
    )
    row = {"id": 7, "kind": 1, "when": None, "vector": [0.5, 2.0], "messages": conversation("?", "c = b")}
    dataset = Dataset.from_list([row, row], features=features)
    found = dataset.map(RSRScorer(student_folder), batched=True)
    assert {name: found.features[name] for name in features} == features
    assert found.select_columns(list(features)).to_list() == dataset.to_list()


def test_scoring_twice_replaces_the_columns(dataset: Dataset, student_folder: str, scored: Dataset) -> None:
    again = scored.map(RSRScorer(student_folder, token_columns=True, rank_clip=2), batched=True)
    assert again.column_names == scored.column_names
    assert again.features == scored.features
    assert list(again["rsr_avg_rank"]) != list(scored["rsr_avg_rank"])
    assert set(again["rsr_settings"]).isdisjoint(scored["rsr_settings"])


def test_two_students_side_by_side(
    dataset: Dataset, student_folder: str, scored: Dataset, tokenizer: object, tmp_path: Path
) -> None:
    other = RSRScorer(make_model("qwen2", 400, seed=3), tokenizer=tokenizer, column_prefix="qwen")
    both = scored.map(other, batched=True)
    assert_same_scores(both, scored)
    assert {"qwen", "qwen_avg_rank", "qwen_settings", "qwen_status"} < set(both.column_names)
    assert set(both["qwen_settings"]).isdisjoint(both["rsr_settings"])
    assert both["qwen"][0] != both["rsr"][0]


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("with_indices", [True, False])
@pytest.mark.parametrize("rank", [None, 3])
def test_indices_and_rank(
    dataset: Dataset, student_folder: str, batched: bool, with_indices: bool, rank: int | None, monkeypatch
) -> None:
    found = []
    monkeypatch.setattr("multiprocess.process.parent_process", lambda: "as in a worker process")
    monkeypatch.setattr(scorer_module, "default_device", lambda rank: found.append(rank) or torch.device("cpu"))
    asked = {"batched": batched, "with_indices": with_indices, "with_rank": rank is not None}
    list(Dataset._map_single(dataset, RSRScorer(student_folder), rank=3, **asked))  # as map does in its process 3
    assert set(found) == {rank}


def test_indices_name_the_row(dataset: Dataset, student_folder: str) -> None:
    for batched, options in ((True, {"with_rank": True}), (True, {}), (False, {})):
        with pytest.raises(ValueError, match="row 3: no_response: every assistant turn is empty"):
            dataset.map(
                RSRScorer(student_folder, strict=True), batched=batched, batch_size=2, with_indices=True, **options
            )


@pytest.mark.parametrize("kind", ["numpy", "torch", "pandas"])
def test_other_formats_are_an_error(dataset: Dataset, student_folder: str, kind: str) -> None:
    texts = Dataset.from_dict({"text": ["a + b = c", "x"]})
    for found, batched in itertools.product((dataset, texts), (True, False)):
        with pytest.raises(ValueError, match=r"reset_format\(\)"):
            found.with_format(kind).map(RSRScorer(student_folder), batched=batched)


def test_input_columns_is_an_error(dataset: Dataset, student_folder: str) -> None:
    for columns, batched in itertools.product((["messages"], ["messages", "problem_id"]), (True, False)):
        with pytest.raises(ValueError, match="input_columns"):
            dataset.map(RSRScorer(student_folder), batched=batched, input_columns=columns)


def test_map_under_a_launch_of_several_processes_warns_once(
    dataset: Dataset, student_folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    dataset.map(RSRScorer(student_folder), batched=True, batch_size=2)
    said = [record.message for record in caplog.records if "score_dataset" in record.message]
    assert len(said) == 1 and "8 processes" in said[0]


PROCESSES = """
import sys, multiprocess, torch, datasets
from rsr_datasets import RSRScorer
if __name__ == "__main__":
    multiprocess.set_start_method(sys.argv[4])
    torch.ones(512, 512) @ torch.ones(512, 512)
    dataset = datasets.load_from_disk(sys.argv[1])
    scored = dataset.map(RSRScorer(sys.argv[2]), batched=True, batch_size=2, num_proc=2, with_rank=True)
    scored.save_to_disk(sys.argv[3])
"""


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_num_proc(dataset: Dataset, student_folder: str, scored: Dataset, tmp_path: Path, start: str) -> None:
    script = tmp_path / "processes.py"
    script.write_text(PROCESSES)
    done = run_python(script, tmp_path / "dataset", student_folder, tmp_path / "scored", start)
    if start == "spawn":
        assert done.returncode == 0, done.stderr
        assert_same_scores(datasets.load_from_disk(tmp_path / "scored"), scored)
    else:
        assert done.returncode and 'multiprocess.set_start_method("spawn")' in done.stderr


def test_num_proc_with_a_loaded_model_is_refused(dataset: Dataset, tokenizer: object) -> None:
    add_rsr = RSRScorer(make_model("llama", 400), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="loaded model cannot be sent"):
        dataset.map(add_rsr, batched=True, batch_size=2, num_proc=2)


CACHE = """
import json, sys, datasets, rsr_datasets.engines.transformers.source, rsr_datasets.scoring.settings
from rsr_datasets import RSRScorer
loads = []
spec = rsr_datasets.engines.transformers.source.TransformersStudent
load = spec.load
spec.load = lambda self, *arguments: loads.append(1) or load(self, *arguments)
folder, student, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
rsr_datasets.scoring.settings.SCORES_VERSION += arguments.pop("scores_version_step", 0)
mapping = arguments.pop("map", {})
scored = datasets.load_from_disk(folder).map(RSRScorer(student, **arguments), batched=True, **mapping)
print(json.dumps({"loads": len(loads), "settings": scored["rsr_settings"][0], "files": scored.cache_files}))
"""


def scored_in_a_new_process(folder: Path, student: str, **arguments: object) -> dict:
    done = run_python("-c", CACHE, folder, student, json.dumps(arguments))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_cache_is_hit_by_the_same_student_and_missed_by_a_retrained_one(
    dataset: Dataset, student_folder: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(student_folder, copy)
    first = scored_in_a_new_process(tmp_path / "dataset", student_folder)
    assert first["loads"] == 1
    for same in (student_folder, copy):
        assert scored_in_a_new_process(tmp_path / "dataset", str(same)) == first | {"loads": 0}
    weights, size = copy / "model.safetensors", (copy / "model.safetensors").stat().st_size
    save_file({name: value + 0.01 for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    assert weights.stat().st_size == size
    retrained = scored_in_a_new_process(tmp_path / "dataset", str(copy))
    assert retrained["loads"] == 1 and retrained["settings"] != first["settings"]


def test_changed_settings_are_a_cache_miss(dataset: Dataset, student_folder: str, tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}"
    changes = [{"rank_clip": 7}, {"max_length": 20}, {"chat_template": template}, {"scores_version_step": 1}]
    first = scored_in_a_new_process(tmp_path / "dataset", student_folder)
    found = [scored_in_a_new_process(tmp_path / "dataset", student_folder, **change) for change in changes]
    assert [result["loads"] for result in found] == [1] * len(changes)
    assert len({first["settings"], *(result["settings"] for result in found)}) == len(changes) + 1


def hashed(**arguments: object) -> str:
    return Hasher.hash(RSRScorer(**arguments))


def test_every_argument_that_changes_the_output_changes_the_hash(
    student_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [
        {},
        {"rank_clip": 5},
        {"max_length": 9},
        {"on_overflow": "skip"},
        {"turns": "last"},
        {"reasoning": "in_content"},
        {"dtype": "bfloat16"},
        {"logits_dtype": "float32"},
        {"token_columns": True},
        {"column_prefix": "other"},
        {"columns": {"prompt": "question"}},
        {"strict": True},
        {"chat_template": "chatml"},
        {"chat_template": "llama3"},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"attn_implementation": "eager"},
        {"model_kwargs": {"variant": "x"}},
    ]
    found = {hashed(student=student_folder, **change) for change in changes}
    same = [{"device": "cpu"}, {"tokens_per_batch": 64}, {"model_kwargs": {"device_map": {"": "cpu"}}}]
    found |= {hashed(student=student_folder, **change) for change in same}  # where the student runs does not count
    assert len(found) == len(changes)
    revisions = [hashed(student="nobody/nothing", revision=digit * 40) for digit in "aab"]
    assert revisions[0] == revisions[1] != revisions[2]
    monkeypatch.setattr(rsr_datasets.scoring.settings, "SCORES_VERSION", 99)
    assert hashed(student=student_folder) not in found


def test_a_hash_holds_for_caches_of_one_scores_version_and_names_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsr_datasets.scoring.settings.SCORES_VERSION", 7)
    add_rsr = RSRScorer("nobody/nothing", revision="a" * 40)
    assert add_rsr.fingerprint == "df21c1b26854a14951e4e88c8684e30e"
    written = datasets.utils._dill.dumps(add_rsr)
    assert f"rsr_datasets.scorer.RSRScorer:{add_rsr.fingerprint}".encode() in written and b".scoring" not in written


def test_a_subclass_is_known_by_its_student_and_its_own_code(tokenizer: object) -> None:
    def hashed_as(model: object, module: str = "mine", bonus: int = 1, **members: object) -> str:
        kind = type("Mine", (RSRScorer,), {"__module__": module, **members})
        scorer = kind(model, tokenizer=tokenizer)
        scorer.bonus = bonus
        return Hasher.hash(scorer)

    models = [make_model("llama", 400, seed) for seed in (0, 0, 1)]
    first, same, retrained = map(hashed_as, models)
    assert first == same == hashed_as(models[0], "moved.elsewhere")
    others = [
        hashed_as(models[0], bonus=2),
        hashed_as(models[0], features=lambda self, found: found),
        hashed_as(models[0], size=3),
    ]
    assert len({first, retrained, *others, hashed(student=models[0], tokenizer=tokenizer)}) == 6


class Doubling(RSRScorer):
    def __init__(self, student: str, factor: int) -> None:
        super().__init__(student)
        self.factor = factor


def test_a_subclass_with_arguments_of_its_own_pickles(student_folder: str) -> None:
    again = pickle.loads(pickle.dumps(Doubling(student_folder, 2)))
    assert again.factor == 2 and again.settings_hash == RSRScorer(student_folder).settings_hash


def test_a_loaded_model_is_known_by_its_weights(tokenizer: object) -> None:
    models = [make_model("llama", 400, seed) for seed in (0, 0, 1)]
    first, same, other = (hashed(student=model, tokenizer=tokenizer) for model in models)
    assert first == same != other
    with torch.no_grad():
        next(models[0].parameters()).mul_(1.5)
    second = hashed(student=models[0], tokenizer=tokenizer)
    assert second != first
    next(models[0].parameters()).data.add_(0.5)  # not seen by the tensor's version
    assert hashed(student=models[0], tokenizer=tokenizer) != second
    models[1].config.rms_norm_eps = 0.5
    assert hashed(student=models[1], tokenizer=tokenizer) != first


def test_a_tokenizers_padding_state_does_not_matter(student_folder: str, tokenizer) -> None:
    before = hashed(student=student_folder, tokenizer=tokenizer)
    tokenizer.pad_token = "<|endoftext|>"
    with_pad = hashed(student=student_folder, tokenizer=tokenizer)
    tokenizer(["a", "a + b = c"], padding=True, truncation=True, max_length=5)
    assert hashed(student=student_folder, tokenizer=tokenizer) == with_pad
    tokenizer.pad_token = None
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    assert hashed(student=student_folder, tokenizer=tokenizer) == before


@pytest.mark.parametrize("name", ["tools", "functions"])
def test_columns_of_type_json_keep_their_nulls(name: str) -> None:
    features = datasets.Features({name: datasets.List(datasets.Json()), "text": datasets.Value("string")})
    dataset = Dataset.from_list([{name: [{"default": None}], "text": "x"}], features=features)
    seen = []
    row_format = RowFormat("text", {"text": "text", "tools": name})

    def look(rows: object) -> dict[str, object]:
        given = read_input(rows, (), inspect.currentframe().f_back, lambda names: row_format)
        seen.append(given.rows[0][name])
        return {}

    for batched in (True, False):
        dataset.map(look, batched=batched)
        next(iter(dataset.to_iterable_dataset().map(look, batched=batched)))
    seen.append(read_rows(dataset.data.table, features)[0][name])
    assert [read_tools(value) for value in seen] == [[{"default": None}]] * 5
