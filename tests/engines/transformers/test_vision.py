"""Rows with images against the plain oracle: the model's own full logits of one row, from the processor's output."""

from __future__ import annotations

import functools
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import ROOT, make_model
from oracle import PlainScores, assert_scored_the_same, plain_scores
from transformers import PreTrainedModel
from vision_students import SEEING, make_picture, make_processor, make_seeing_student

from rsr_datasets.engines.base import BatchAccount
from rsr_datasets.engines.transformers.classes import place
from rsr_datasets.engines.transformers.engine import TransformersEngine
from rsr_datasets.engines.transformers.source import TransformersStudent
from rsr_datasets.reading.images import ImageSource
from rsr_datasets.reading.rows import EncodedRow

CPU = torch.device("cpu")
CPU = torch.device("cpu")
SIZES = [(40, 30), (16, 16), (23, 90), (64, 48), (1, 1), (200, 20)]
WORDS = "the number of strings on the left is twice what stands on the right of it so that three more are needed"

processor_of = functools.cache(make_processor)


@functools.cache
def student_of(family: str) -> PreTrainedModel:
    return make_seeing_student(family, processor_of(family))


def turn(role: str, text: str, images: int = 0) -> dict[str, Any]:
    return {"role": role, "content": [*[{"type": "image"}] * images, {"type": "text", "text": text}]}


def make_row(family: str, number: int) -> tuple[EncodedRow, dict[str, Any]]:
    """A row with none to three images, some after an answer, and what the processor gives for the row alone."""
    generator = np.random.default_rng(number)
    processor = processor_of(family)

    def words() -> str:
        return " ".join(generator.choice(WORDS.split(), generator.integers(2, 30)))

    counts = [number % 4, 0] if number % 3 else [number % 2, number // 2 % 2]
    messages = [
        message for images in counts for message in (turn("user", words(), images), turn("assistant", words()))
    ]
    sizes = generator.integers(0, len(SIZES), sum(counts))
    pictures = [make_picture(100 * number + i, *SIZES[size]) for i, size in enumerate(sizes)]
    text = processor.apply_chat_template(messages, tokenize=False)
    given = processor(text=[text], images=[pictures] if pictures else None, return_tensors="pt")
    ids = given["input_ids"][0].numpy()
    words_only = np.flatnonzero(~np.isin(ids, list(processor.tokenizer.added_tokens_decoder)))
    positions = words_only[words_only >= ids.size * 2 // 3]
    sources = tuple(ImageSource(f"image {i}", picture) for i, picture in enumerate(pictures))
    row = EncodedRow(ids[: positions[-1] + 1], positions, images=sources, image_spans=((0, 1),) * len(sources))
    return row, dict(given)


@torch.inference_mode()
def own_scores(model: PreTrainedModel, row: EncodedRow, given: dict[str, Any]) -> PlainScores:
    return plain_scores(lambda **_: model(**given), row)


@pytest.mark.parametrize("family", SEEING)
def test_forty_rows_in_any_batch_equal_each_row_alone(family: str) -> None:
    model, made = student_of(family), [make_row(family, number) for number in range(40)]
    expected = [own_scores(model, *each) for each in made]
    student = TransformersEngine(model, tokens_per_batch=700, load_processor=lambda: processor_of(family))
    batches: list[BatchAccount] = []
    for order in (np.arange(40), np.random.default_rng(0).permutation(40)):
        for i, found in zip(order, student.score([made[i][0] for i in order], on_batch=batches.append), strict=True):
            assert_scored_the_same(found.ranks, found.surprisals, expected[i])
    assert len(batches) < 60 and sum(not row.images for row, _ in made) > 8


@pytest.mark.parametrize("family", ["qwen2_5_vl", "idefics3", "llava"])
def test_text_rows_beside_images_still_share_their_beginnings(family: str) -> None:
    model = student_of(family)
    student = TransformersEngine(model, load_processor=lambda: processor_of(family))
    rows = [EncodedRow(np.append(np.arange(100, 160), end), np.array([60])) for end in (5, 6, 7)]
    batches: list[BatchAccount] = []
    found = student.score([*rows, make_row(family, 1)[0]], on_batch=batches.append)
    for row, scores in zip(rows, found, strict=False):
        assert_scored_the_same(scores.ranks, scores.surprisals, plain_scores(model, row))
    assert [batch.tokens for batch in batches if batch.row_tokens == 180] == [60]


def test_a_processor_that_asks_for_text_too() -> None:
    class Asking(type(processor_of("llava"))):
        def __call__(self, images=None, text=None, **settings):
            if text is None:
                raise ValueError("text is missing")
            return super().__call__(images=images, text=text, **settings)

    processor = make_processor("llava")
    processor.__class__ = Asking
    made = [make_row("llava", number) for number in (1, 2, 3)]
    student = TransformersEngine(student_of("llava"), load_processor=lambda: processor)
    for (row, given), found in zip(made, student.score([row for row, _ in made]), strict=True):
        assert_scored_the_same(found.ranks, found.surprisals, own_scores(student_of("llava"), row, given))


def test_half_precision_takes_pixel_values_too() -> None:
    model = make_seeing_student("qwen2_5_vl", processor_of("qwen2_5_vl")).to(torch.bfloat16)
    row, given = make_row("qwen2_5_vl", 2)
    student = TransformersEngine(model, load_processor=lambda: processor_of("qwen2_5_vl"))
    given["pixel_values"] = given["pixel_values"].to(torch.bfloat16)
    np.testing.assert_allclose(student.score([row])[0].surprisals, own_scores(model, row, given).surprisals, atol=0.05)


class TestRefusedByName:
    def test_a_student_that_reads_text_alone(self) -> None:
        with pytest.raises(ValueError, match=r"'blind' .*reads text alone, and a row has images"):
            TransformersEngine(make_model("llama", 50_000), name="blind").score([make_row("llava", 1)[0]])

    def test_a_processor_that_makes_values_of_text_and_images_together(self) -> None:
        class Crossing(type(processor_of("llava"))):
            def __call__(self, images=None, text=None, **settings):
                found = super().__call__(images=images, text=text, **settings)
                return found if text is None else found | {"cross_attention_mask": found["attention_mask"]}

        processor = make_processor("llava")
        processor.__class__ = Crossing
        student = TransformersEngine(student_of("llava"), name="crossed", load_processor=lambda: processor)
        with pytest.raises(ValueError, match=r"'crossed' .*makes 'cross_attention_mask' of text and images together"):
            student.score([make_row("llava", 1)[0]])

    def test_a_model_that_does_more_with_images_than_its_base_model(self) -> None:
        class Doubled(type(student_of("llava"))):
            def forward(self, pixel_values=None, **given):
                return super().forward(pixel_values=None if pixel_values is None else 2 * pixel_values, **given)

        model = make_seeing_student("llava", processor_of("llava"))
        model.__class__ = Doubled
        student = TransformersEngine(model, name="doubled", load_processor=lambda: processor_of("llava"))
        with pytest.raises(ValueError, match=r"'doubled' .*disagrees with the model's own logits"):
            student.score([make_row("llava", 1)[0]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llava")
    student_of("llava").save_pretrained(folder)
    processor_of("llava").save_pretrained(folder)
    return folder


def test_a_student_from_a_folder_reads_images_with_the_processor_beside_it(folder: Path) -> None:
    source = TransformersStudent(folder)
    assert type(source.load_processor()) is type(processor_of("llava"))
    row, given = make_row("llava", 3)
    found = source.load(CPU, {}).score([row])[0]
    assert_scored_the_same(found.ranks, found.surprisals, own_scores(student_of("llava"), row, given))


def test_a_loaded_student_takes_its_processor_as_tokenizer() -> None:
    source = TransformersStudent(student_of("llava"), tokenizer=processor_of("llava"))
    assert source.load_tokenizer() is processor_of("llava").tokenizer
    assert source.load_processor() is processor_of("llava")
    other = make_processor("llava")
    other.image_processor.image_mean = [0.0, 0.0, 0.0]
    assert TransformersStudent(student_of("llava"), tokenizer=other).identity() != source.identity()
    blind = TransformersStudent(student_of("llava"), tokenizer=processor_of("llava").tokenizer)
    with pytest.raises(ValueError, match=r"its processor is missing: pass tokenizer="):
        blind.load_processor()


def test_a_student_of_text_alone_has_no_processor(student_folder: str) -> None:
    assert TransformersStudent(student_folder).load_processor() is None


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_processor_names_the_package_that_it_lacks(tmp_path: Path) -> None:
    processor = processor_of("qwen2_5_vl")
    for part in (student_of("qwen2_5_vl").config, processor.tokenizer, processor.image_processor):
        part.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"AutoProcessor cannot load .*Torchvision library") as refused:
        TransformersStudent(tmp_path).load_processor()
    assert "\n" not in str(refused.value)


class Reading(transformers.LlavaForConditionalGeneration):
    """A student that runs on a device without numbers."""

    def forward(self, input_ids, **_):
        return self.lm_head(self.model.language_model.embed_tokens(input_ids))


class ReadingWithTheTower(Reading):
    def forward(self, input_ids, **given):
        self.model.multi_modal_projector(torch.zeros((1, 32), device=input_ids.device))
        return super().forward(input_ids, **given)


@pytest.mark.parametrize(("kind", "left"), [(Reading, {"cpu"}), (ReadingWithTheTower, {"meta"})])
def test_parts_that_only_images_need_stay_where_they_were_loaded(kind: type, left: set[str]) -> None:
    model = make_seeing_student("llava", processor_of("llava"))
    model.__class__ = kind
    names = list(model.model._modules)
    place(model, torch.device("meta"))
    assert {p.device.type for p in (*model.model.language_model.parameters(), *model.lm_head.parameters())} == {"meta"}
    assert {p.device.type for p in model.model.vision_tower.parameters()} == left
    assert list(model.model._modules) == names


BLIND = """
import sys
from rsr_datasets import RSRScorer
messages = [{"role": "user", "content": "Solve it."}, {"role": "assistant", "content": "The answer is 42."}]
assert RSRScorer(sys.argv[1])({"messages": [messages]})["rsr_status"] == ["scored"]
print([name for name in sys.argv[2:] if name in sys.modules])
"""


def test_nothing_that_reads_images_is_imported_for_text(student_folder: str) -> None:
    names = ["torchvision", "transformers.models.auto.processing_auto", "transformers.image_processing_utils"]
    command = [sys.executable, "-c", BLIND, student_folder, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout.strip() == "[]"
