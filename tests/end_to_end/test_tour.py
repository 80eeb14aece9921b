"""The notebook runs from top to bottom as it is in the repository."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

TOUR = ROOT / "scripts" / "tour.ipynb"


@pytest.fixture
def tour() -> nbformat.NotebookNode:
    return nbformat.read(TOUR, as_version=4)


@pytest.mark.slow
def test_the_tour_runs(tour: nbformat.NotebookNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PYTHONPATH", "TMPDIR"):
        monkeypatch.setenv(name, str(ROOT if name == "PYTHONPATH" else tmp_path))
    NotebookClient(tour, timeout=300, resources={"metadata": {"path": str(TOUR.parent)}}).execute()
    printed = "".join(output.get("text", "") for cell in tour.cells for output in cell.get("outputs", []))
    assert "RSR is not length here" in printed
    assert "loss " in printed


def test_the_tour_holds_no_outputs(tour: nbformat.NotebookNode) -> None:
    cells = [cell for cell in tour.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
