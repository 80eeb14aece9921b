"""Files: atomic writing, JSON, and content hashes."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import xxhash


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Gives a path for a file or a folder, which takes the place of ``path`` when it is finished.

    A reader sees the old file or the new one, never a part; of a folder, the old one, none or the new one. A file is
    flushed to the disk. The folder around ``path`` must exist.
    """
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.aside")
    try:
        yield aside
        if aside.is_file():
            with aside.open("rb+") as stream:
                os.fsync(stream.fileno())
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        aside.replace(path)
    finally:
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object atomically."""
    with written_aside(file) as aside:
        aside.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object."""
    return dict(json.loads(file.read_text(encoding="utf-8")))


def hash_text(text: str) -> str:
    """A 128-bit content hash of a text, in hexadecimal."""
    return xxhash.xxh3_128_hexdigest(text.encode())


def hash_file(file: Path) -> str:
    """A 128-bit hash of a file's content, in hexadecimal; the file is read in blocks."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()


def remembered(kind: str, key: str, compute: Callable[[], str]) -> str:
    """Gives a text that ``compute`` returned once for ``key``, in this or an earlier process that shares the cache."""
    note = Path(huggingface_hub.constants.HF_HOME) / "rsr_datasets" / kind / hash_text(key)
    with contextlib.suppress(OSError):
        return note.read_text(encoding="utf-8")
    text = compute()
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(note) as aside:
            aside.write_text(text, encoding="utf-8")
    return text
