"""The dtype that this processor computes fast."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import conversation, make_model
from transformers import PreTrainedTokenizerFast

from rsr_datasets import RSRScorer
from rsr_datasets.engines.transformers import dtypes

ROWS = {"messages": [conversation("Solve it.", "the answer is 42."), conversation("?", "the result is 239. " * 5)]}


@pytest.fixture
def stored_in_bfloat16(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    make_model("llama", len(tokenizer)).bfloat16().save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    return tmp_path / "student"


def processor_with(factor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that needs ``factor`` times as long in half precision."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(dtypes, "_measure", lambda dtype: factor)


def test_on_a_slow_processor_the_default_is_float32_and_the_settings_say_so(
    stored_in_bfloat16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    processor_with("50.0", tmp_path, monkeypatch)
    scorer, explicit = RSRScorer(stored_in_bfloat16), RSRScorer(stored_in_bfloat16, dtype="float32")
    assert scorer.settings["dtype"] == "float32"
    with caplog.at_level(logging.WARNING):
        found = scorer(ROWS)
        assert scorer(ROWS) == found
    assert [record.message for record in caplog.records] == [
        "bfloat16 takes 50.0 times as long as float32 on this processor: "
        f'student {str(stored_in_bfloat16)!r} is computed in float32 (dtype="bfloat16" forces bfloat16)'
    ]
    assert found == explicit(ROWS)
    assert scorer.fingerprint == explicit.fingerprint


def test_an_explicit_dtype_is_obeyed_with_a_warning(
    stored_in_bfloat16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = RSRScorer(stored_in_bfloat16, dtype="bfloat16")(ROWS)
    processor_with("50.0", tmp_path, monkeypatch)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert RSRScorer(stored_in_bfloat16, dtype="bfloat16")(ROWS) == expected
    assert "takes 50.0 times as long" in caplog.text
    assert "is computed in bfloat16 all the same" in caplog.text


def test_a_fast_processor_keeps_the_students_dtype(
    stored_in_bfloat16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor_with("0.3", tmp_path, monkeypatch)
    scorer = RSRScorer(stored_in_bfloat16)
    assert scorer.settings["dtype"] == "auto"
    assert scorer(ROWS) == RSRScorer(stored_in_bfloat16, dtype="bfloat16")(ROWS) | {
        "rsr_settings": [scorer.settings_hash] * 2
    }


def test_a_student_in_float32_is_not_measured(
    student_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor_with("no number", tmp_path, monkeypatch)
    assert RSRScorer(student_folder).settings["dtype"] == "auto"


def test_what_was_measured_once_is_remembered_by_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor_with("7.0", tmp_path, monkeypatch)
    assert dtypes.slowdown(torch.float16) == 7.0
    monkeypatch.setattr(dtypes, "_measure", lambda dtype: "0.5")
    assert dtypes.slowdown(torch.float16) == 7.0
    assert dtypes.slowdown(torch.bfloat16) is None


def test_a_processor_without_bfloat16_instructions_is_found_slow(tmp_path: Path) -> None:
    """oneDNN takes the instructions away from this process; where the processor has none, nothing changes."""
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "HF_HOME": str(tmp_path)}
    code = (
        "import torch; from rsr_datasets.engines.transformers.dtypes import slowdown; print(slowdown(torch.bfloat16))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | limits, capture_output=True, text=True)
    assert float(done.stdout) > 1.2, done.stderr
