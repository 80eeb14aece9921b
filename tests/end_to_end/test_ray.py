"""The guide's Ray Data recipe, with a real Ray and two actors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, conversation
from datasets import Dataset, load_dataset

from rsr_datasets import RSRScorer

pytest.importorskip("ray", reason="Ray is not installed")
GUIDE = (ROOT / "cards" / "guides" / "scale.md").read_text(encoding="utf-8")

BEFORE = """
import os, sys, time
from pathlib import Path
import ray
import rsr_datasets
from datasets import load_from_disk

class RSRScorer(rsr_datasets.RSRScorer):
    def __call__(self, *batch):
        (Path(FOLDER) / f"{os.getpid()}.pid").touch()
        # The first actor must not be through with everything before the second one has started.
        while len(list(Path(FOLDER).glob("*.pid"))) < 2:
            time.sleep(0.05)
        return super().__call__(*batch)

# More than the two actors take: Ray reads and cuts in tasks of its own.
ray.init(num_cpus=4, include_dashboard=False)
dataset = load_from_disk(sys.argv[1])
"""


@pytest.mark.slow
def test_the_recipe_scores_with_two_actors(student_folder: str, tmp_path: Path) -> None:
    rows = [
        {"id": i, "messages": conversation(f"Problem {i}?", "" if i == 3 else "the answer is 42. " * i)}
        for i in range(1, 41)
    ]
    dataset = Dataset.from_list(rows)
    dataset.save_to_disk(tmp_path / "dataset")
    recipe = next(block for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if "import ray" in block)
    for written, here in (
        ("HuggingFaceTB/SmolLM2-135M-Instruct", student_folder),
        ("num_gpus=1", "num_cpus=1"),
        ("size=8", "size=2"),
        ("batch_size=1000", "batch_size=2"),
        ("runs/ray", str(tmp_path / "scored")),
    ):
        assert written in recipe
        recipe = recipe.replace(written, here)
    script = tmp_path / "recipe.py"
    script.write_text(f"FOLDER = {str(tmp_path)!r}\n{BEFORE}{recipe}")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "dataset")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(tmp_path.glob("*.pid"))) == 2

    scored = load_dataset("parquet", data_files=str(tmp_path / "scored" / "*.parquet"), split="train").sort("id")
    expected = dataset.map(RSRScorer(student_folder), batched=True)
    assert scored.features == expected.features
    assert scored.select_columns(dataset.column_names).to_list() == dataset.to_list()
    assert scored["rsr_status"][:] == expected["rsr_status"][:]
    np.testing.assert_allclose(np.array(scored["rsr"], float), np.array(expected["rsr"], float), rtol=1e-5)
