"""notebooks/quickstart.ipynb runs from top to bottom and shows what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import ROOT


def test_the_notebook_runs(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "dcp " in printed
    assert "1 1 [{'file': 'photos/broken.jpg'" in printed  # exit code, done, failed
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert (tmp_path / "small.safetensors").is_file()
