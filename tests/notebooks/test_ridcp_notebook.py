"""notebooks/ridcp.ipynb runs from top to bottom and shows what it is for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support import ROOT


def test_the_notebook_runs_and_shows_codes_curve_and_strip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "notebooks" / "ridcp.ipynb", as_version=4)
    monkeypatch.setitem(os.environ, "TMPDIR", str(tmp_path))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [sum("image/png" in output.get("data", {}) for output in cell.get("outputs", [])) for cell in notebook.cells]
    assert sorted(pictures)[-4:] == [1, 1, 2, 3]  # codes, the training's grid, both figures, three strips
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "best alpha" in printed
