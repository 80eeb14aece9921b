"""The installed package is the whole product."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

import rsr_datasets

USE = """
import pathlib, sys
import rsr_datasets
from datasets import Dataset
from rsr_datasets.reading.templates import PRESETS, resolve_chat_template
assert str(pathlib.Path(sys.argv[1])) in rsr_datasets.__file__, rsr_datasets.__file__
assert all("generation" in resolve_chat_template(preset) for preset in PRESETS)
scored = Dataset.from_dict({"text": ["x = 3"], "teacher": ["me"]})
record = {"step": "score", "settings": {"rank_clip": 100, "student": {"hub": "a/b", "revision": None}}}
print(rsr_datasets.preview_card(scored, provenance=record))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of what git has, so that nothing else of the folder gets in."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in files.stdout.split("\n"):
        if name and not name.startswith("tests/") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(output), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return next(output.glob("*.whl"))


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [f for f in (ROOT / "rsr_datasets").rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert {str(file.relative_to(ROOT)) for file in files} <= names
    assert {f"rsr_datasets/cards/{file.name}" for file in (ROOT / "cards").glob("*.*")} <= names
    assert not [name for name in names if name.startswith(("tests/", "scripts/"))]


def test_the_wheel_works_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    done = subprocess.run(
        [sys.executable, "-c", USE, str(site)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "| rank clip | `100` |" in done.stdout and "| me | 1 |" in done.stdout


@pytest.mark.parametrize("name", rsr_datasets.__all__)
def test_everything_public_has_a_docstring_that_someone_wrote(name: str) -> None:
    docstring = getattr(rsr_datasets, name).__doc__ or ""
    assert len(docstring) > 40 and not docstring.startswith(f"{name}(")  # a dataclass without one shows its signature
