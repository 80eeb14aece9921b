"""Images in what is published: small pictures and a count in the page, a count on the card."""

from __future__ import annotations

import base64
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from rsr_datasets import RSRScorer, preview_card
from rsr_datasets.report import build_report


@pytest.fixture
def scored(student_folder: str) -> Dataset:
    """Two rows with images, one of them broken beside a good one."""
    buffer = BytesIO()
    Pillow.effect_noise((900, 600), 90).save(buffer, "PNG")
    images = [[{"bytes": buffer.getvalue(), "path": "a.png"}], [{"bytes": b"broken", "path": "b.png"}] * 2]
    turns = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "a + b = c"}]
    features = {"messages": List({"role": Value("string"), "content": Value("string")}), "images": List(Image())}
    dataset = Dataset.from_dict({"messages": [turns, turns], "images": images}, features=Features(features))
    return dataset.map(RSRScorer(student_folder, drop_images=True), batched=True)


def test_the_page_shows_small_pictures_and_counts_images(scored: Dataset, tmp_path: Path) -> None:
    page = build_report(scored, tmp_path / "report.html").read_text(encoding="utf-8")
    (found,) = re.findall(r'"images":\["data:image/jpeg;base64,([^"]*)"\]', page)
    picture = Pillow.open(BytesIO(base64.b64decode(found)))
    assert max(picture.size) == 160
    assert len(found) < 30_000
    assert '"images":3' in page
    assert json.dumps("<image>What is it?").replace("<", "\\u003c") in page


def test_paths_of_small_pictures_begin_in_the_media_root(student_folder: str, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    Pillow.effect_noise((90, 60), 90).save(tmp_path / "media" / "a.png")
    turns = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "a + b = c"}]
    scorer = RSRScorer(student_folder, drop_images=True, media_root=tmp_path / "media")
    scored = Dataset.from_list([{"messages": turns, "images": ["a.png"]}]).map(scorer, batched=True)

    def shows(**arguments: Any) -> bool:
        page = build_report(scored, tmp_path / "report.html", **arguments).read_text(encoding="utf-8")
        return "data:image/jpeg;base64," in page

    assert not shows()
    assert shows(media_root=tmp_path / "media") and shows(scorer=scorer)


def test_the_card_counts_images(scored: Dataset, student_folder: str) -> None:
    card = str(preview_card(scored, "me/seen", scorer=RSRScorer(student_folder, drop_images=True)))
    assert "The rows show 3 images." in card
    without = scored.remove_columns("images")
    assert "images." not in str(preview_card(without, "me/seen", scorer=RSRScorer(student_folder, drop_images=True)))
