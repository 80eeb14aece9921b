"""Rows with images through `map`, runs and the command: scored by a student that sees, refused by name by others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from conftest import ROOT
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow
from transformers import PreTrainedModel
from vision_students import make_picture, make_processor, make_seeing_student

from rsr_datasets import RSRScorer, score_dataset, select_trajectories

PICTURES = [make_picture(seed, 30 + 7 * seed, 40) for seed in range(4)]
MESSAGES = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "It is a cat."}]
ROLES = List({"role": Value("string"), "content": Value("string")})


def encoded(picture: Pillow.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def processor() -> Any:
    return make_processor("llava")


@pytest.fixture(scope="module")
def student(processor: Any) -> PreTrainedModel:
    return make_seeing_student("llava", processor)


@pytest.fixture(scope="module")
def scorer(student: PreTrainedModel, processor: Any) -> RSRScorer:
    return RSRScorer(student, tokenizer=processor)


@pytest.fixture(scope="module")
def expected(scorer: RSRScorer) -> list[float]:
    """The scores of each picture's row, called by hand."""
    found = scorer({"messages": [MESSAGES] * 4, "images": [[picture] for picture in PICTURES]})
    assert found["rsr_status"] == ["scored"] * 4
    return list(found["rsr"])


def in_messages(image: Any) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": image, "text": None}, {"type": "text", "image": None, "text": "What is it?"}]
    answer = [{"type": "text", "image": None, "text": "It is a cat."}]
    return [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]


BLOCKS = List(
    {"role": Value("string"), "content": List({"type": Value("string"), "image": Image(), "text": Value("string")})}
)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    ("feature", "wrap"), [(Image(), lambda image: image), (List(Image()), lambda image: [image])], ids=["one", "list"]
)
def test_map_reads_images_columns(
    feature: Any, wrap: Any, batched: bool, scorer: RSRScorer, expected: list[float]
) -> None:
    features = Features({"messages": ROLES, "images": feature})
    rows = {"messages": [MESSAGES] * 4, "images": [wrap(picture) for picture in PICTURES]}
    scored = Dataset.from_dict(rows, features=features).map(scorer, batched=batched)
    assert scored["rsr_status"][:] == ["scored"] * 4
    np.testing.assert_allclose(scored["rsr"][:], expected, rtol=1e-5)
    assert scored.features["images"] == feature


def test_map_reads_images_inside_of_messages(scorer: RSRScorer, expected: list[float]) -> None:
    rows = {"messages": [in_messages(picture) for picture in PICTURES]}
    dataset = Dataset.from_dict(rows, features=Features({"messages": BLOCKS}))
    for found in (dataset.map(scorer, batched=True), dataset.with_format("arrow").map(scorer, batched=True)):
        np.testing.assert_allclose(found.with_format(None)["rsr"][:], expected, rtol=1e-5)


def test_streams_are_read(scorer: RSRScorer, expected: list[float]) -> None:
    features = Features({"messages": ROLES, "images": List(Image())})
    rows = {"messages": [MESSAGES] * 4, "images": [[{"bytes": encoded(p), "path": None}] for p in PICTURES]}
    stream = Dataset.from_dict(rows, features=features).to_iterable_dataset()
    found = list(stream.map(scorer, batched=True, features=scorer.features(features)))
    np.testing.assert_allclose([row["rsr"] for row in found], expected, rtol=1e-5)


def test_rows_with_and_without_images_are_scored_side_by_side(scorer: RSRScorer, expected: list[float]) -> None:
    plain = [{"role": "user", "content": "What is it?"}, MESSAGES[1]]
    found = scorer({"messages": [MESSAGES, plain, MESSAGES], "images": [[PICTURES[0]], None, [PICTURES[1]]]})
    assert found["rsr_status"] == ["scored"] * 3
    np.testing.assert_allclose([found["rsr"][0], found["rsr"][2]], expected[:2], rtol=1e-5)
    alone = scorer({"messages": plain})
    assert found["rsr"][1] == pytest.approx(alone["rsr"], rel=1e-5)


def test_tokens_of_an_image_without_an_image_are_refused(scorer: RSRScorer, processor: Any) -> None:
    ids = [1, processor.image_token_id, 40, 41]
    rows = {"input_ids": [ids, [1, 39, 40, 41]], "labels": [[-100, -100, 40, 41]] * 2}
    assert scorer(rows)["rsr_status"] == ["bad_row", "scored"]
    said = [{"role": "user", "content": "Write <image>."}, MESSAGES[1]]
    assert scorer({"messages": said})["rsr_status"] == "bad_row"


def hostile(folder: Path) -> dict[str, tuple[Any, str]]:
    """Images of all kinds under ``folder``, each with the status of its row."""
    picture = PICTURES[0]
    frames = [make_picture(5), make_picture(6)]
    written = {
        "good.png": encoded(picture),
        "cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG"),
        "dot.png": encoded(make_picture(0, 1, 1)),
        "moving.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "cut.png": encoded(picture)[:300],
        "text.png": b"not an image",
        "empty.png": b"",
        "bomb.png": encoded(Pillow.new("1", (20_000, 20_000))),
    }
    folder.mkdir()
    for name, content in written.items():
        (folder / name).write_bytes(content)
    read = {"good.png", "cmyk.jpg", "dot.png", "moving.gif"}
    return {name: (written.get(name), "scored" if name in read else "bad_row") for name in (*written, "missing.png")}


def test_each_broken_image_is_a_status(scorer: RSRScorer, tmp_path: Path) -> None:
    found = hostile(tmp_path / "pictures")
    files = [{"bytes": content, "path": name} for name, (content, _) in found.items()]
    features = Features({"messages": ROLES, "images": List(Image())})
    dataset = Dataset.from_dict(
        {"messages": [MESSAGES] * len(files), "images": [[f] for f in files]}, features=features
    )
    assert dataset.map(scorer, batched=True)["rsr_status"][:] == [status for _, status in found.values()]


def test_strict_names_the_image(student: PreTrainedModel, processor: Any, tmp_path: Path) -> None:
    hostile(tmp_path / "pictures")
    strict = RSRScorer(student, tokenizer=processor, media_root=tmp_path / "pictures", strict=True)
    with pytest.raises(ValueError, match=r"row 0 .*bad_row: image 'cut.png': broken"):
        strict({"messages": [MESSAGES], "images": [["cut.png"]]})


def test_runs_are_scored_and_selected_by_their_own_images(
    scorer: RSRScorer, expected: list[float], tmp_path: Path
) -> None:
    features = Features({"messages": ROLES, "images": List(Image())})
    rows = {"messages": [MESSAGES] * 6, "images": [[PICTURES[i % 3]] for i in range(6)]}
    scored = score_dataset(Dataset.from_dict(rows, features=features), scorer, tmp_path / "run", unit_rows=4)
    np.testing.assert_allclose(scored["rsr"][:], expected[:3] * 2, rtol=1e-5)
    assert len(select_trajectories(scored, group_by="prompt")) == 3


def test_text_only_students_refuse_images_or_drop_them(student_folder: str, caplog: pytest.LogCaptureFixture) -> None:
    plain = [{"role": "user", "content": "What is it?"}, MESSAGES[1]]
    rows = {"messages": [MESSAGES, plain], "images": [["gone.png"], []]}
    refused = RSRScorer(student_folder)(rows)
    assert refused["rsr_status"] == ["bad_row", "scored"]
    assert "drop_images=True" in caplog.text
    dropping = RSRScorer(student_folder, drop_images=True)
    assert dropping(rows)["rsr"] == [refused["rsr"][1]] * 2
    assert dropping.settings["drop_images"]
    assert dropping.settings_hash != RSRScorer(student_folder).settings_hash


def test_defaults_are_not_recorded(student_folder: str, tmp_path: Path) -> None:
    default, rooted = RSRScorer(student_folder), RSRScorer(student_folder, media_root=tmp_path)
    assert not {"media_root", "allow_urls", "drop_images"} & (default.settings.keys() | default.output.keys())
    assert rooted.settings_hash == default.settings_hash
    assert rooted.fingerprint != default.fingerprint
    with pytest.raises(ValueError, match="media_root='nowhere'"):
        RSRScorer(student_folder, media_root="nowhere")


READ_TEXT = """
import sys
from rsr_datasets import RSRScorer
rows = {"messages": [[{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}]], "images": [[]]}
assert RSRScorer(sys.argv[1])(rows)["rsr_status"] == ["scored"]
seen = ("PIL.PngImagePlugin", "torchvision", "requests")
print([name for name in sys.modules if name in seen or "image_processing" in name])
"""


def test_nothing_of_vision_is_imported_for_text(student_folder: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ_TEXT, student_folder], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def folder(student: PreTrainedModel, processor: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The student on disk, as a user's own would be."""
    found = tmp_path_factory.mktemp("seeing")
    student.save_pretrained(found)
    processor.save_pretrained(found)
    return str(found)


def test_the_command_reads_images_beside_the_data_file(folder: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    found = hostile(tmp_path / "data" / "pictures")
    lines = [{"messages": MESSAGES, "images": [f"pictures/{name}"]} for name in found]
    (tmp_path / "data" / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    command = ["score", "data/rows.jsonl", "--student", folder, "--output-dir", "run"]
    done = subprocess.run(
        [sys.executable, "-m", "rsr_datasets", *command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    scored = datasets.load_from_disk(tmp_path / "run" / "scored")
    assert scored["rsr_status"][:] == [status for _, status in found.values()]
    assert "first frame" in done.stderr


def test_the_example_of_the_guide_runs(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "cards" / "images.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "data" / "charts").mkdir(parents=True)
    PICTURES[0].save(tmp_path / "data" / "charts" / "sales.png")
    monkeypatch.chdir(tmp_path)
    exec(block.replace("HuggingFaceTB/SmolVLM-256M-Instruct", folder), {})
    assert capsys.readouterr().out == "['scored']\n"
