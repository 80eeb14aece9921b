"""Images of rows: found below one folder, decoded as trainers see them, and refused by name."""

from __future__ import annotations

import base64
import pickle
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rsr_datasets.reading.images import BadImage, ImageSource
from rsr_datasets.reading.media import MediaOptions


def encoded(mode: str = "RGB", size: tuple[int, int] = (6, 4), kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    Image.new(mode, size, 3 if mode in ("L", "P") else None).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        encoded("CMYK", kind="JPEG"),
        encoded("RGBA"),
        encoded("P", transparency=b"\x00\x7f"),
        encoded("L", kind="BMP"),
        encoded("1", kind="TIFF"),
        encoded("RGB", kind="WEBP"),
        Image.new("LA", (6, 4)),
    ],
    ids=["cmyk", "alpha", "palette", "grey", "bits", "webp", "decoded"],
)
def test_every_mode_is_read_as_rgb_without_a_warning(content: Any, recwarn: pytest.WarningsRecorder) -> None:
    picture = ImageSource("a.png", content).open()
    assert (picture.mode, picture.size) == ("RGB", (6, 4))
    assert not recwarn.list


def test_an_image_of_one_pixel_is_an_image() -> None:
    assert ImageSource("dot.png", encoded(size=(1, 1))).open().size == (1, 1)


def test_an_image_that_lies_on_its_side_is_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert ImageSource("phone.jpg", encoded(kind="JPEG", exif=exif)).open().size == (4, 6)


def test_of_an_animation_the_first_frame_is_read() -> None:
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "blue")]
    buffer = BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    picture, has_more = ImageSource("a.gif", buffer.getvalue()).read()
    assert has_more
    assert picture.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no image in one of the formats"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image in one of the formats"),
        (encoded(size=(400, 400), kind="JPEG")[:700], "broken"),
        (encoded("1", (12_000, 12_000)), "too large for PIL.Image.MAX_IMAGE_PIXELS"),
        (encoded("1", (30_000, 30_000)), "too large for PIL.Image.MAX_IMAGE_PIXELS"),
        ("/no/such/file.png", "there is no file"),
        ("/dev/null", "not a regular file"),
    ],
    ids=["empty", "program", "cut", "large", "bomb", "missing", "device"],
)
def test_an_image_that_cannot_be_read_is_refused_by_its_name(content: Any, reason: str) -> None:
    with pytest.raises(BadImage, match=reason) as caught:
        ImageSource("shop/cat.png", content).open()
    assert "'shop/cat.png'" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_source_pickles_and_shows_no_content() -> None:
    source = ImageSource("a.png", encoded())
    assert pickle.loads(pickle.dumps(source)) == source
    assert repr(source) == "ImageSource(name='a.png')"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    for file in (root / "images" / "a.png", tmp_path / "secret.png"):
        file.write_bytes(encoded())
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    return root


DATA_URI = f"data:image/png;base64,{base64.b64encode(encoded()).decode()}"


@pytest.mark.parametrize(
    "value",
    [
        "images/a.png",
        Path("images/a.png"),
        "images/../images/a.png",
        {"path": "images/a.png", "bytes": None},
        {"path": "gone.png", "bytes": encoded()},
        encoded(),
        Image.new("L", (6, 4)),
        DATA_URI,
        {"url": DATA_URI},
        {"type": "base64", "media_type": "image/png", "data": DATA_URI.partition(",")[2]},
    ],
    ids=["text", "path", "dots", "dict", "bytes win", "bytes", "decoded", "data", "url", "base64"],
)
def test_an_image_is_found_in_each_form(value: Any, folder: Path) -> None:
    assert MediaOptions(media_root=str(folder)).find(value, "image 0").open().size == (6, 4)


def test_absolute_paths_are_read_below_the_root(folder: Path) -> None:
    for path in (str(folder / "images" / "a.png"), f"file://{folder}/images/a.png"):
        assert MediaOptions(folder=str(folder)).find(path, "image 0").open().size == (6, 4)


@pytest.mark.parametrize("path", ["../secret.png", "link.png", "{}/secret.png", "images/../../secret.png"])
def test_a_path_that_leaves_the_root_is_refused(path: str, folder: Path) -> None:
    path = path.format(folder.parent)
    with pytest.raises(BadImage, match="media_root="):
        MediaOptions(media_root=str(folder)).find(path, "image 0")
    assert MediaOptions(media_root=str(folder.parent)).find(str(folder / path), "image 0").open()


def test_without_a_root_paths_begin_in_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert MediaOptions().find("images/a.png", "image 0").open()
    with pytest.raises(BadImage, match="lies outside"):
        MediaOptions().find("/etc/passwd", "image 0")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (5, "found int"),
        ({"path": None, "bytes": None}, "found null"),
        ("data:image/png,abc", "not base64"),
        ("data:image/png;base64,?", "data URI"),
        ("s3://bucket/a.png", "neither a path nor a URL"),
        ("https://example.org/a.png", "allow_urls=True"),
        ("a\0b.png", "no path"),
    ],
)
def test_a_value_that_is_no_image_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        MediaOptions().find(value, "image 3")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes, int], str]]:
    """Gives the URL of some content behind a status."""
    answers: list[tuple[bytes, int]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content, status = answers[int(self.path[1:])]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    def serve(content: bytes, status: int) -> str:
        answers.append((content, status))
        return f"http://127.0.0.1:{http.server_port}/{len(answers) - 1}"

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield serve
        http.shutdown()


def test_urls_are_fetched_where_they_are_allowed(server: Callable[[bytes, int], str]) -> None:
    assert MediaOptions(allow_urls=True).find(server(encoded(), 200), "image 0").open().size == (6, 4)


def test_a_url_that_gives_nothing_or_too_much_is_refused(
    server: Callable[[bytes, int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsr_datasets.reading.media._MOST_BYTES", 1 << 20)
    for url, reason in ((server(b"", 404), "not fetched"), (server(bytes(1 << 21), 200), "more than 1 MiB")):
        with pytest.raises(BadImage, match=reason):
            MediaOptions(allow_urls=True).find(url, "image 0")
