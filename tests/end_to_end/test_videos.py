"""Rows with videos: the frames, tokens and positions of the student's own processor, and a status for other videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from oracle import assert_scored_the_same, plain_scores
from transformers import PreTrainedModel
from vision_students import make_frames, make_picture, make_processor, make_seeing_student

from rsr_datasets import RSRScorer
from rsr_datasets.reading.images import BadImage
from rsr_datasets.reading.processing import read_video
from rsr_datasets.reading.videos import VideoSource

ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "A cat walks from the left to the right."}]}


@pytest.fixture(scope="module")
def processor() -> Any:
    return make_processor("qwen2_5_vl")


@pytest.fixture(scope="module")
def student(processor: Any) -> PreTrainedModel:
    return make_seeing_student("qwen2_5_vl", processor)


def write_video(file: Path, frames: int, rate: int = 8) -> str:
    """A file of pictures that change little from one to the next."""
    av = pytest.importorskip("av")
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for i in range(frames):
            shade = np.full((32, 48, 3), 20 * i % 256, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        container.mux(stream.encode())
    return str(file)


def asked(*kinds: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*({"type": k} for k in kinds), {"type": "text", "text": "What?"}]}, ANSWER]


def own_inputs(processor: Any, messages: Any, images: Any, videos: list[Any], rates: list[float | None]) -> Any:
    """The processor's output for one row alone."""
    text = processor.apply_chat_template(messages, tokenize=False)
    metadata = [
        {"total_num_frames": len(video), "fps": rate, "frames_indices": [*range(len(video))]}
        for video, rate in zip(videos, rates, strict=True)
    ]
    shown = {"images": [images]} if images else {}
    if videos:
        frames = [np.stack([np.asarray(frame) for frame in video]) for video in videos]
        shown |= {"videos": frames, "video_metadata": metadata}
    return processor(text=[text], **shown, return_tensors="pt")


def test_ten_rows_of_frames_equal_each_rows_own_full_logits(processor: Any, student: PreTrainedModel) -> None:
    kinds = [("video",), ("video", "image"), ("image", "video", "video"), ("image",), ()]
    rows = []
    for number in range(10):
        shown = kinds[number % 5]
        messages = [*asked(*shown), {"role": "user", "content": [{"type": "text", "text": "And?"}]}, ANSWER]
        images = [make_picture(number, 30 + number) for kind in shown if kind == "image"]
        videos = [make_frames(10 * number + i, 3 + number + i) for i in range(shown.count("video"))]
        rows.append({"messages": messages, "images": images, "videos": videos})
    add_rsr = RSRScorer(student, tokenizer=processor, token_columns=True)
    scored = add_rsr({name: [row[name] for row in rows] for name in rows[0]})
    assert scored["rsr_status"] == ["scored"] * 10
    encoded = add_rsr.encode(rows, add_rsr.find_format(rows[0]))
    for number, (row, read) in enumerate(zip(rows, encoded, strict=True)):
        given = own_inputs(processor, *row.values(), [None] * len(row["videos"]))
        assert given["input_ids"][0, : read.input_ids.size].tolist() == read.input_ids.tolist()
        with torch.inference_mode():
            expected = plain_scores(lambda given=given, **_: student(**given), read)
        found = (np.array(scored[f"rsr_token_{name}"][number]) for name in ("ranks", "surprisals"))
        assert_scored_the_same(*found, expected)


def test_a_processor_that_takes_one_kind_at_a_time(
    processor: Any, student: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {
        "images": [[make_picture(0)], [], [make_picture(1)]],
        "videos": [[], [make_frames(0, 4)], [make_frames(1, 3)]],
    }
    rows = {"messages": [asked("image"), asked("video"), asked("image", "video")], **shown}
    expected = RSRScorer(student, tokenizer=processor)(rows)
    assert expected["rsr_status"] == ["scored"] * 3
    kind = type(processor)
    of_both = kind.__call__

    def of_one(self: Any, images: Any = None, videos: Any = None, **others: Any) -> Any:
        if images and videos:
            raise ValueError("exactly one of images and videos")
        return of_both(self, images=images, videos=videos, **others)

    monkeypatch.setattr(kind, "__call__", of_one)
    found = RSRScorer(student, tokenizer=processor)(rows)
    assert found["rsr_status"] == ["scored", "scored", "bad_row"]
    assert found["rsr"] == [*expected["rsr"][:2], None]


@pytest.mark.parametrize("rate", [8, 30])
def test_a_file_is_read_with_the_rate_that_it_says(
    rate: int, processor: Any, student: PreTrainedModel, tmp_path: Path
) -> None:
    file = write_video(tmp_path / "walk.mp4", 9, rate)
    (frames, known) = VideoSource("walk.mp4", file).read()
    assert frames.shape == (9, 32, 48, 3) and known["fps"] == rate
    add_rsr = RSRScorer(student, tokenizer=processor, token_columns=True, media_root=tmp_path)
    scored = add_rsr({"messages": asked("video"), "videos": ["walk.mp4"]})
    (read,) = add_rsr.encode(
        [{"messages": asked("video"), "videos": ["walk.mp4"]}], add_rsr.find_format(["messages", "videos"])
    )
    given = own_inputs(processor, asked("video"), [], [frames], [rate])
    assert given["second_per_grid_ts"].tolist() == pytest.approx([2 / rate])
    with torch.inference_mode():
        expected = plain_scores(lambda **_: student(**given), read)
    assert_scored_the_same(np.array(scored["rsr_token_ranks"]), np.array(scored["rsr_token_surprisals"]), expected)


def test_the_processor_chooses_among_the_frames_of_a_file(processor: Any, tmp_path: Path) -> None:
    source = VideoSource("walk.mp4", write_video(tmp_path / "walk.mp4", 9))
    whole, _ = read_video(processor, source)
    choosing = make_processor("qwen2_5_vl")
    choosing.video_processor.do_sample_frames = True
    chosen, known = read_video(choosing, source)
    assert known["frames_indices"] == [0, 2, 4, 6, 8]
    np.testing.assert_array_equal(chosen, whole[::2])


def test_map_reads_a_column_of_files(processor: Any, student: PreTrainedModel, tmp_path: Path) -> None:
    content = Path(write_video(tmp_path / "walk.mp4", 5)).read_bytes()
    held = {"bytes": Value("binary"), "path": Value("string")}
    features = Features(
        {"messages": List({"role": Value("string"), "content": Value("string")}), "videos": List(held)}
    )
    messages = [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "A cat."}]
    rows = [[{"bytes": content, "path": None}], [{"bytes": content[:200], "path": "cut.mp4"}]]
    dataset = Dataset.from_dict({"messages": [messages] * 2, "videos": rows}, features=features)
    scored = dataset.map(RSRScorer(student, tokenizer=processor), batched=True)
    assert scored["rsr_status"][:] == ["scored", "bad_row"]


@pytest.mark.parametrize(
    ("video", "reason"),
    [
        ("gone.mp4", "video 'gone.mp4': there is no file"),
        (b"no video", "video 'video 0': broken"),
        ("../walk.mp4", "'../walk.mp4': lies outside"),
        ("https://example.org/walk.mp4", "allow_urls=True"),
        ([make_picture(0), make_picture(1, 50)], "2 frames, which must be"),
        ([], "0 frames, which must be"),
        (7, "video 0: expected a path"),
    ],
)
def test_a_video_that_cannot_be_read_gives_its_row_a_status(
    video: Any, reason: str, processor: Any, student: PreTrainedModel, tmp_path: Path
) -> None:
    pytest.importorskip("av")
    strict = RSRScorer(student, tokenizer=processor, media_root=tmp_path, strict=True)
    content = [{"type": "video", "video": video}, {"type": "text", "text": "What?"}]
    with pytest.raises(ValueError, match=f"bad_row: .*{reason}"):
        strict({"messages": [[{"role": "user", "content": content}, ANSWER]]})


def test_a_playlist_is_no_video(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nhttp://example.org/a.ts\n")
    with pytest.raises(BadImage, match=r"list\.mp4'?: broken"):
        VideoSource("list.mp4", str(tmp_path / "list.mp4")).read()


def test_frames_beyond_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_video(tmp_path / "walk.mp4", 9)
    monkeypatch.setattr("rsr_datasets.reading.videos._MOST_BYTES", 8 * 32 * 48 * 3)
    with pytest.raises(BadImage, match="9 frames of 48 x 32 pixels, more than"):
        VideoSource("walk.mp4", file).read()


def test_a_student_that_reads_images_alone_names_the_video() -> None:
    processor = make_processor("llava")
    strict = RSRScorer(make_seeing_student("llava", processor), tokenizer=processor, strict=True)
    with pytest.raises(ValueError, match=r"bad_row: video .walk\.mp4.: the student's processor reads images alone"):
        strict({"messages": [asked("video")], "videos": [["walk.mp4"]]})
