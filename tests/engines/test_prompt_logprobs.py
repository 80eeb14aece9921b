"""The part of vLLM's engines that needs no vLLM: arguments, files, and log-probabilities as scores."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_model
from transformers import PreTrainedTokenizerFast
from vision_students import make_picture, make_processor, make_seeing_student

from rsr_datasets import RSRScorer
from rsr_datasets.engines.prompt_logprobs import to_scores
from rsr_datasets.engines.vllm import VllmEngine, VllmStudent, _parts, _scores
from rsr_datasets.reading.images import ImageSource
from rsr_datasets.reading.rows import EncodedRow, UnscorableRowError

ROW = EncodedRow(np.array([5, 6, 7, 8]), np.array([1, 3]))


def test_log_probabilities_of_all_tokens_but_the_first_become_scores() -> None:
    scores = to_scores(ROW, [6, 7, 8], [-0.5, -1.0, -2.5], [1, 2, 300])
    assert scores.ranks.tolist() == [1, 300] and scores.ranks.dtype == np.int32
    assert scores.surprisals.tolist() == [0.5, 2.5] and scores.surprisals.dtype == np.float32


def test_a_probability_of_zero_which_json_cannot_hold_is_infinite_surprisal() -> None:
    assert to_scores(ROW, [6, 7, 8], [-9999.0, -1.0, -2.5], [1, 2, 3]).surprisals.tolist() == [np.inf, 2.5]


@pytest.mark.parametrize(("ids", "message"), [([6, 7], "of 3 tokens"), ([6, 9, 8], "token 2 of a row is 7, .* 9")])
def test_log_probabilities_of_other_tokens_are_refused(ids: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_scores(ROW, ids, [-1.0] * len(ids), [1] * len(ids))


def test_vllm_computes_in_the_dtype_of_the_files_without_a_prefix_cache(student_folder: str) -> None:
    arguments = VllmStudent(student_folder)._arguments(None)
    assert arguments["dtype"] == "float32"  # vLLM's own "auto" would take half precision
    assert arguments["enable_prefix_caching"] is False and arguments["enable_chunked_prefill"] is True
    assert VllmStudent(student_folder, dtype=torch.bfloat16)._arguments(None)["dtype"] == "bfloat16"


def test_logits_of_one_step_fit_into_memory(student_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    student = VllmStudent(student_folder)
    assert student._arguments(None)["max_num_batched_tokens"] == 8192
    monkeypatch.setattr(VllmStudent, "vocab_size", 152_064)
    assert 1000 < student._arguments(None)["max_num_batched_tokens"] < 1500
    assert student._arguments(None, logits_at_once=False)["max_num_batched_tokens"] == 8192
    assert student._arguments(700)["max_num_batched_tokens"] == 700


@pytest.mark.parametrize(("max_length", "longest"), [(None, None), (100, 101), (512, 512), (4000, 512)])
def test_vllm_keeps_room_for_rows_of_the_length_that_is_asked_for(
    student_folder: str, max_length: int | None, longest: int | None
) -> None:
    assert VllmStudent(student_folder, max_length=max_length)._arguments(None)["max_model_len"] == longest


def test_the_callers_arguments_of_vllm_win(student_folder: str) -> None:
    given = {"tensor_parallel_size": 4, "max_num_batched_tokens": 64, "hf_token": "hf_secret"}
    scorer = RSRScorer(student_folder, engine="vllm", model_kwargs=given)
    assert isinstance(scorer.source, VllmStudent)
    assert scorer.source._arguments(None).items() >= given.items()
    assert "hf_secret" not in repr(scorer)


def test_rows_are_handed_over_in_parts_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsr_datasets.engines.vllm.TOKENS_PER_CALL", 10)
    rows = [EncodedRow(np.arange(size), np.array([1])) for size in (4, 4, 4, 30, 2)]
    assert [[row.input_ids.size for row in part] for part in _parts(rows)] == [[4, 4, 4], [30], [2]]


@pytest.mark.parametrize("engine", ["vllm", "server"])
def test_a_loaded_student_is_refused(tokenizer: PreTrainedTokenizerFast, engine: Any) -> None:
    with pytest.raises(ValueError, match=f"engine='{engine}': loads the student itself"):
        RSRScorer(make_model("llama", len(tokenizer)), tokenizer=tokenizer, engine=engine)


def test_metrics_beyond_vllm_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match=r"metrics \['rank_entropy_ratio'\] need entropies"):
        RSRScorer("nobody/nothing", engine="vllm", metrics=["rank_entropy_ratio", "ifd"])


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_extra_is_named(student_folder: str) -> None:
    with pytest.raises(ImportError, match=r"pip install 'rsr_datasets\[vllm\]'"):
        RSRScorer(student_folder, engine="vllm")({"text": "a b c"})


@pytest.fixture(scope="module")
def seeing_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("llava")
    processor = make_processor("llava")
    make_seeing_student("llava", processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("engine", "shown", "reason"),
    [
        ("server", "image", "image 'a.png': engine=\"server\" reads text alone"),
        ("server", "video", "video 'a.png': engine=\"server\" reads text alone"),
        ("vllm", "video", "video 'a.png': engine=\"vllm\" reads images alone"),
    ],
)
def test_a_row_that_the_engine_is_not_shown_has_a_status(
    engine: Any, shown: str, reason: str, seeing_folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = RSRScorer(seeing_folder, engine=engine)
    block, answer = {"type": shown, shown: "a.png"}, {"role": "assistant", "content": "A cat."}
    rows = [
        {"messages": [{"role": "user", "content": [block]}, answer]},
        {"messages": [{"role": "user", "content": "Hi"}, answer]},
    ]
    shown_row, text = scorer.encode(rows, scorer.find_format(["messages"]))
    assert isinstance(shown_row, UnscorableRowError) and reason in str(shown_row)
    assert isinstance(text, EncodedRow)


def test_vllm_is_given_one_token_for_each_image(seeing_folder: str) -> None:
    assert VllmStudent(seeing_folder)._arguments(None)["skip_tokenizer_init"] is False
    pictures = (ImageSource("a", make_picture(0)), ImageSource("b", make_picture(1)))
    row = EncodedRow(
        np.array([5, 9, 9, 6, 9, 9, 9, 7, 8]), np.array([8]), images=pictures, image_spans=((1, 3), (4, 7))
    )
    prompt = VllmEngine(SimpleNamespace(model_config=SimpleNamespace(max_model_len=99)), "s", 50, 9)._prompt(row)
    assert prompt["prompt_token_ids"] == [5, 9, 6, 9, 7, 8]
    assert [image.size for image in prompt["multi_modal_data"]["image"]] == [(40, 30)] * 2


def test_another_expansion_by_vllm_is_a_status_on_the_row() -> None:
    row = EncodedRow(
        np.array([5, 9, 9, 6]), np.array([3]), images=(ImageSource("a", make_picture(0)),), image_spans=((1, 3),)
    )
    flat = SimpleNamespace(token_ids=[9, 9, 9, 6], logprobs=[-1.0] * 4, ranks=[1] * 4)
    refused = _scores(row, SimpleNamespace(prompt_logprobs=flat))
    assert isinstance(refused, UnscorableRowError) and "as other tokens" in str(refused)
