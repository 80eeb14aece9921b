"""Images of rows and their places: every way in which sets write images gives the same texts and images."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rsr_datasets.reading.formats import find_format, read_conversation
from rsr_datasets.reading.messages import Conversation
from rsr_datasets.reading.placeholders import RowImages, take_images
from rsr_datasets.reading.rows import UnscorableRowError

ANSWER = {"role": "assistant", "content": "A cat."}


def taken(row: dict[str, Any], drop: bool = False) -> RowImages:
    row_format = find_format(row)
    return take_images(
        {name: row[actual] for name, actual in row_format.columns.items()}, row_format, ("@", "#"), drop
    )


def texts(row: dict[str, Any], drop: bool = False) -> list[str]:
    conversation = read_conversation(taken(row, drop).values, find_format(row))
    assert isinstance(conversation, Conversation)
    return [message["content"] for message in conversation.messages]


def asked(*blocks: Any, **columns: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [*blocks, {"type": "text", "text": "What?"}]}, ANSWER], **columns}


BLOCK = {"type": "image"}
TAGGED = [{"role": "user", "content": "<image>What?"}, ANSWER]
SHAREGPT = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A cat."}]


@pytest.mark.parametrize(
    "row",
    [
        asked(BLOCK, images=["a.png"]),
        asked(BLOCK, images="a.png"),
        asked(BLOCK, images='["a.png"]'),
        asked({**BLOCK, "text": None, "image": None}, images=["a.png", None]),
        asked({**BLOCK, "image": "a.png"}),
        asked({**BLOCK, "image": "a.png"}, images=[]),
        asked({"image": "a.png"}),
        asked({"type": "image_url", "image_url": "a.png"}),
        asked({"type": "input_image", "image_url": "a.png", "detail": "low"}),
        {"messages": TAGGED, "images": ["a.png"]},
        {"messages": json.dumps(TAGGED), "images": ["a.png"]},
        {"messages": [json.dumps(message) for message in TAGGED], "images": ["a.png"]},
        {"messages": json.dumps(asked({**BLOCK, "image": "a.png"})["messages"])},
        {"conversations": SHAREGPT, "images": ["a.png"]},
        {"conversation": [{"human": "<image>What?", "assistant": "A cat."}], "images": ["a.png"]},
        {"instruction": "<image>What?", "input": "", "output": "A cat.", "images": ["a.png"]},
        {"query": "<image>What?", "response": "A cat.", "images": ["a.png"]},
        {"prompt": TAGGED[:1], "completion": TAGGED[1:], "images": ["a.png"]},
    ],
)
def test_one_image_in_each_form(row: dict[str, Any]) -> None:
    assert texts(row) == ["@What?", "A cat."]
    assert taken(row).images == ["a.png"]
    assert texts(row, drop=True) == ["What?", "A cat."]
    assert taken(row, drop=True).images == []


@pytest.mark.parametrize(
    ("block", "image"),
    [
        ({"type": "image_url", "image_url": {"url": "a.png", "detail": "auto"}}, {"url": "a.png", "detail": "auto"}),
        ({**BLOCK, "image": {"bytes": b"x", "path": None}}, {"bytes": b"x", "path": None}),
        ({**BLOCK, "path": "a.png"}, {"path": "a.png"}),
        ({**BLOCK, "source": {"type": "base64", "data": "eA=="}}, {"type": "base64", "data": "eA=="}),
    ],
)
def test_a_block_holds_its_image_under_several_keys(block: dict[str, Any], image: Any) -> None:
    assert taken(asked(block)).images == [image]


def test_blocks_are_filled_in_the_order_of_the_conversation() -> None:
    result = {"type": "tool_result", "tool_use_id": "1", "content": [BLOCK, {"type": "text", "text": "done"}]}
    row = asked({"type": "text", "text": "See "}, BLOCK, {**BLOCK, "image": "own.png"}, images=["1.png", "2.png"])
    row["messages"] += [{"role": "user", "content": [result]}, ANSWER]
    assert texts(row) == ["See @@What?", "A cat.", "@done", "A cat."]
    assert taken(row).images == ["1.png", "own.png", "2.png"]


def test_history_and_system_come_first() -> None:
    row = {
        "query": "<image>Third",
        "response": "A cat.",
        "system": "<image>First",
        "history": [["<image>Second", "Yes."]],
        "images": ["1.png", "2.png", "3.png"],
    }
    assert texts(row) == ["@First", "@Second", "Yes.", "@Third", "A cat."]


def test_tags_in_answers_are_text_where_the_images_are_those_of_the_questions() -> None:
    said = {"role": "assistant", "content": "Write <image>."}
    assert texts({"messages": [TAGGED[0], said], "images": ["1.png"]}) == ["@What?", "Write <image>."]
    assert texts({"messages": [TAGGED[0], said], "images": ["1.png", "2.png"]}) == ["@What?", "Write @."]


def test_tags_beside_blocks_are_text() -> None:
    row = asked(BLOCK, {"type": "text", "text": "<image> is a tag. "}, images=["1.png"])
    assert texts(row) == ["@<image> is a tag. What?", "A cat."]


def test_images_without_places_are_counted() -> None:
    row = {"messages": [{"role": "user", "content": "What?"}, ANSWER], "images": ["1.png", "2.png"]}
    assert (taken(row).unplaced, taken(row).images) == ("@@", ["1.png", "2.png"])


@pytest.mark.parametrize(
    "row",
    [
        asked({"type": "video", "video": "a.mp4"}),
        asked({"video": "a.mp4"}),
        asked({"type": "video_url", "video_url": {"url": "a.mp4"}}),
        asked({"type": "video"}, videos=["a.mp4"]),
        asked({"type": "video"}, videos="a.mp4"),
        {"messages": [{"role": "user", "content": "<video>What?"}, ANSWER], "videos": ["a.mp4"]},
        {"messages": [{"role": "user", "content": "What?"}, ANSWER], "videos": ["a.mp4"]},
    ],
)
def test_one_video_in_each_form(row: dict[str, Any]) -> None:
    found = taken(row)
    (video,) = found.images
    assert video["video"] in ("a.mp4", {"url": "a.mp4"})
    assert found.unplaced + texts(row)[0] == "#What?"
    assert texts(row, drop=True) == ["What?", "A cat."]


def test_images_and_videos_keep_their_order() -> None:
    frames = ["1.png", "2.png"]
    row = asked({"type": "video", "video": frames}, BLOCK, {"type": "video"}, images=["a.png"], videos=["b.mp4"])
    assert texts(row)[0] == "#@#What?"
    assert taken(row).images == [{"video": frames}, "a.png", {"video": "b.mp4"}]


def test_a_row_without_images_is_left_as_it_is() -> None:
    row = {"messages": TAGGED, "images": []}
    assert taken(row).values["messages"] is TAGGED
    assert taken(row).tags == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (asked(BLOCK, BLOCK, images=["1.png"]), "2 placeholders .*'images' holds 1 "),
        (asked(BLOCK, images=["1.png", "2.png", "3.png"]), "1 placeholders .*'images' holds 3 "),
        (asked({**BLOCK, "image": "own.png"}, images=["1.png"]), "0 placeholders .*'images' holds 1 "),
        ({"messages": TAGGED, "images": ["1.png", "2.png"]}, "1 placeholders .*'images' holds 2 "),
        (asked(BLOCK), r'1 placeholders .*columns={"images": "image"}'),
        (asked({**BLOCK, "image": "a.png", "max_pixels": 9}), "'max_pixels'"),
        (asked({"type": "video"}, videos=["1.mp4", "2.mp4"]), "1 placeholders for videos.*'videos' holds 2 "),
        (asked({"type": "video"}, {**BLOCK, "image": "a.png"}), "1 placeholders for videos.*holds 0 "),
        (asked({"type": "video", "video": "a.mp4", "fps": 2.0}), "'fps' is not kept to"),
    ],
)
def test_a_row_whose_images_and_places_differ_is_refused(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnscorableRowError, match=reason):
        taken(row)
    assert texts(row, drop=True)[-1] == "A cat."
