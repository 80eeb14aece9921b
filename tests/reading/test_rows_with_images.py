"""Rows with images: the token ids of each family's own processor, and only text of the assistant is scored."""

from __future__ import annotations

import functools
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vision_students import SEEING, make_picture, make_processor

from rsr_datasets.reading.encoder import ConversationEncoder
from rsr_datasets.reading.formats import find_format
from rsr_datasets.reading.media import MediaOptions
from rsr_datasets.reading.rows import EncodedRow, Outcome, first_tokens, fit
from rsr_datasets.scoring.session import local_rows, row_without_prompt

processor_of = functools.cache(make_processor)

IMAGE = {"type": "image"}
PICTURES = [make_picture(0), make_picture(1, 30, 70), make_picture(2, 16, 16)]


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": [*blocks]}


def answer(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [text(content)]}


CONVERSATIONS = {
    "first turn": [user(IMAGE, text("What is it?")), answer("A cat."), user(text("Sure?")), answer("Yes, it is.")],
    "later turn": [user(text("Hello.")), answer("Hi."), user(IMAGE, text("And this?")), answer("A dog.")],
    "several": [
        user(text("Compare "), IMAGE, text(" with "), IMAGE, text(".")),
        answer("They differ."),
        user(IMAGE, text("This one?")),
        answer("It is a\n\nsquare."),
    ],
    "side by side": [user(IMAGE, IMAGE, text("Which is larger?")), answer("The second one.")],
    "image alone": [user(IMAGE), answer("A cat."), user(IMAGE), answer("A dog.")],
    "none": [user(text("Hello.")), answer("Hi.")],
}


def images_of(messages: list[dict[str, Any]]) -> list[Any]:
    count = sum(block == IMAGE for message in messages for block in message["content"])
    return PICTURES[:count]


def encode(family: str, *rows: dict[str, Any], **options: Any) -> list[Outcome]:
    processor = processor_of(family)
    encoder = ConversationEncoder(processor.tokenizer, load_processor=lambda: processor, **options)
    return encoder.encode(rows, find_format(rows[0]))


def encoded(family: str, row: dict[str, Any], **options: Any) -> EncodedRow:
    (outcome,) = encode(family, row, **options)
    assert isinstance(outcome, EncodedRow), outcome
    return outcome


def scored_texts(family: str, row: EncodedRow) -> list[str]:
    """The texts of runs of scored tokens."""
    runs = np.split(row.positions, np.flatnonzero(np.diff(row.positions) > 1) + 1)
    return [processor_of(family).tokenizer.decode(row.input_ids[run]) for run in runs]


@pytest.mark.parametrize("family", SEEING)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_ids_are_the_processors_and_scores_are_for_the_answers(family: str, name: str) -> None:
    messages = CONVERSATIONS[name]
    images = images_of(messages)
    row = encoded(family, {"messages": messages, "images": images})
    processor = processor_of(family)
    rendered = processor.apply_chat_template(messages, tokenize=False)
    given = processor(text=[rendered], images=[images] if images else None, add_special_tokens=False)["input_ids"][0]
    assert row.input_ids.tolist() == given[: row.input_ids.size]
    said = [message["content"][0]["text"] for message in messages if message["role"] == "assistant"]
    assert [part.strip() for part in scored_texts(family, row)] == said
    assert [source.open().size for source in row.images] == [image.size for image in images]


@pytest.mark.parametrize("family", SEEING)
def test_the_first_token_of_each_image_is_known(family: str) -> None:
    row = encoded(family, {"messages": CONVERSATIONS["several"], "images": PICTURES})
    tokenizer = processor_of(family).tokenizer
    starts = [start for start, _ in row.image_spans]
    parts = [
        tokenizer.decode(row.input_ids[start:end])
        for start, end in zip(starts, [*starts[1:], row.input_ids.size], strict=True)
    ]
    before = tokenizer.decode(row.input_ids[: starts[0]])
    assert before.endswith(("Compare ", "Compare <|vision_start|>", "<image>\n", "[INST] ", "Compare"))
    assert all("image" in part or "vision" in part for part in parts)
    assert "with" in parts[0] or family == "llava"
    assert "They differ." in parts[1]
    assert "square" in parts[2]


@pytest.mark.parametrize("family", SEEING)
def test_each_turn_has_the_images_before_it(family: str) -> None:
    row = encoded(family, {"messages": CONVERSATIONS["several"], "images": PICTURES}, turns="each")
    assert [len(part.images) for part in row.sequences] == [2, 3]
    whole = encoded(family, {"messages": CONVERSATIONS["several"], "images": PICTURES}, turns="last")
    assert row.more[0].input_ids.tolist() == whole.input_ids.tolist()
    assert row.more[0].image_spans == whole.image_spans


def test_a_row_that_is_cut_keeps_the_images_that_are_left() -> None:
    row = encoded("qwen2_5_vl", {"messages": CONVERSATIONS["several"], "images": PICTURES})
    cut = fit(row, row.image_spans[2][0], "truncate")
    assert (cut.images, cut.image_spans) == (row.images[:2], row.image_spans[:2])
    assert first_tokens(row, 1).images == row.images[:2]
    assert [len(part.images) for part in local_rows(row, processor_of("qwen2_5_vl").tokenizer, 1)] == [2, 1, 0]
    assert row_without_prompt(row, processor_of("qwen2_5_vl").tokenizer).images == row.images[2:]


PLACED = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A cat."}]


@pytest.mark.parametrize("family", SEEING)
def test_all_ways_of_writing_an_image_encode_alike(family: str, tmp_path: Path) -> None:
    picture = PICTURES[0]
    picture.save(tmp_path / "a.png")
    data = BytesIO()
    picture.save(data, "PNG")
    plain = [{"role": "user", "content": "What is it?"}, PLACED[1]]
    block = {"type": "image_url", "image_url": {"url": "a.png"}}
    rows = [
        {"messages": [user(IMAGE, text("What is it?")), answer("A cat.")], "images": [picture]},
        {"messages": PLACED, "images": ["a.png"]},
        {"messages": PLACED, "images": [{"bytes": data.getvalue(), "path": None}]},
        {"messages": [user(block, text("What is it?")), answer("A cat.")], "images": None},
        {"messages": plain, "images": picture},
    ]
    found = encode(family, *rows, media=MediaOptions(media_root=str(tmp_path)))
    assert all(isinstance(row, EncodedRow) for row in found), found
    assert len({row.input_ids.tobytes() + row.positions.tobytes() for row in found}) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["idefics3", "llava"])
def test_texts_that_pass_no_template_hold_the_students_placeholder(family: str) -> None:
    row = encoded(family, {"prompt": "<image>\nIt is", "completion": " a cat.", "images": PICTURES[:1]})
    assert scored_texts(family, row) == [" a cat."]
    assert len(row.images) == 1
    (refused,) = encode(family, {"prompt": "It is", "completion": " a cat.", "images": PICTURES[:1]})
    assert "1 images" in str(refused)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (["gone.png"], "'gone.png': there is no file"),
        ([b"no image"], "'image 0': no image in one of the formats"),
        (["../a.png"], "'../a.png': lies outside"),
        (["https://example.org/a.png"], "allow_urls=True"),
        ([make_picture(0, 2, 900)], "processor refused the images"),
        (["a.png", "b.png"], "1 placeholders .* 2 images"),
    ],
)
def test_an_image_that_cannot_be_read_gives_its_row_a_status(images: list[Any], reason: str, tmp_path: Path) -> None:
    bad, good = encode(
        "qwen2_5_vl",
        {"messages": PLACED, "images": images},
        {"messages": PLACED, "images": PICTURES[:1]},
        media=MediaOptions(media_root=str(tmp_path)),
    )
    assert not isinstance(bad, EncodedRow)
    assert bad.status == "bad_row"
    assert re.search(reason, str(bad))
    assert isinstance(good, EncodedRow)


def test_an_image_in_an_answer_is_refused() -> None:
    said = {"role": "assistant", "content": [IMAGE, text("A cat.")]}
    (refused,) = encode("qwen2_5_vl", {"messages": [user(text("Draw.")), said], "images": PICTURES[:1]})
    assert "image in a turn of the assistant" in str(refused)


def test_tool_results_may_hold_images() -> None:
    messages = [user(text("Look.")), answer("I look."), {"role": "tool", "content": [IMAGE]}, answer("A cat.")]
    row = encoded("qwen2_5_vl", {"messages": messages, "images": PICTURES[:1]})
    assert scored_texts("qwen2_5_vl", row) == ["I look.", "A cat."]


def test_a_text_only_student_is_told_to_drop_the_images() -> None:
    tokenizer = processor_of("qwen2_5_vl").tokenizer
    row = {"messages": PLACED, "images": ["gone.png"]}
    (refused,) = ConversationEncoder(tokenizer).encode([row], find_format(row))
    assert "drop_images=True" in str(refused)
    blind = ConversationEncoder(tokenizer, media=MediaOptions(drop_images=True))
    (dropped,) = blind.encode([row], find_format(row))
    untold = {"messages": [{"role": "user", "content": "What is it?"}, PLACED[1]]}
    (plain,) = blind.encode([untold], find_format(untold))
    assert isinstance(dropped, EncodedRow)
    assert isinstance(plain, EncodedRow)
    assert dropped.input_ids.tolist() == plain.input_ids.tolist()


def test_a_tag_without_an_image_is_read_as_text_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    row = {"messages": PLACED}
    tokenizer = processor_of("qwen2_5_vl").tokenizer
    found = ConversationEncoder(tokenizer).encode([row, row], find_format(row))
    assert all(isinstance(each, EncodedRow) for each in found)
    assert caplog.text.count("'<image>' stands in a text") == 1


def test_of_an_animation_the_first_frame_is_read_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    buffer = BytesIO()
    PICTURES[0].save(buffer, "GIF", save_all=True, append_images=[make_picture(9)])
    encoded("qwen2_5_vl", {"messages": PLACED, "images": [buffer.getvalue()]})
    assert "first frame" in caplog.text


def published_positions(ids: list[int], begin: list[int], end: list[int]) -> list[int]:
    """Positions of what stands between the ids of a header and the next ones of an end, by plain search."""
    found, at = [], 0
    while at < len(ids):
        if ids[at : at + len(begin)] != begin:
            at += 1
            continue
        start = at = at + len(begin)
        while at < len(ids) and ids[at : at + len(end)] != end:
            at += 1
        found += range(start, at)
    return found


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_positions_are_those_that_the_published_implementation_finds(name: str) -> None:
    """That searches the processor's ids, images expanded, for ChatML's header of the assistant and its end."""
    processor, messages = processor_of("qwen2_5_vl"), CONVERSATIONS[name]
    images = images_of(messages)
    text = processor.apply_chat_template(messages, tokenize=False)
    ids = processor(text=[text], images=[images] if images else None)["input_ids"][0]
    begin, end = (processor.tokenizer(mark)["input_ids"] for mark in ("<|im_start|>assistant\n", "<|im_end|>"))
    row = encoded("qwen2_5_vl", {"messages": messages, "images": images})
    assert row.positions.tolist() == published_positions(ids, begin, end)
