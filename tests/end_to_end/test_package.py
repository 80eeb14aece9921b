"""The installed package is the whole product."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

import rsr_datasets
from rsr_datasets.scoring.settings import SCORES_VERSION

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
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a source distribution, and of a wheel built from it, of what git has and nothing else."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in files.stdout.split("\n"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    who = ["-c", "user.name=me", "-c", "user.email=me@localhost"]
    for command in (["init", "--quiet"], ["add", "--all"], [*who, "commit", "--quiet", "--message=all"]):
        subprocess.run(["git", *command], cwd=source, check=True)
    command = [sys.executable, "-m", "build", "--outdir", str(output), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return output


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [f for f in (ROOT / "rsr_datasets").rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert {str(file.relative_to(ROOT)) for file in files} <= names
    assert {f"rsr_datasets/cards/{file.name}" for file in (ROOT / "cards").glob("*.jinja")} <= names
    assert not [name for name in names if name.startswith(("tests/", "scripts/"))]
    assert wheel.stat().st_size < 1_000_000


def test_the_source_distribution_holds_the_tests(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {str(file.relative_to(ROOT)) for file in (ROOT / "tests").rglob("*.py")} <= names
    assert {"scripts/test.sh", "scripts/tour.ipynb", "cards/CHANGELOG.md", "cards/CITATION.cff"} <= names


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


def test_the_changes_name_the_version_of_the_scores() -> None:
    lines = (ROOT / "cards" / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    newest = next(line for line in lines if re.match(r"\| \d", line))
    assert newest.startswith(f"| {SCORES_VERSION} |")
