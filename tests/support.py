"""What tests of several rooms share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def shared_dir() -> Path:
    """The folder shared/ beside the checkout; skips the test where it is absent."""
    shared = ROOT.parent / "shared"
    if not (shared / "parity").is_dir():
        pytest.skip("needs ../shared (real weights and pictures that the repository does not hold)")
    return shared


def run_notebook(name: str, folder: Path) -> list[dict[str, Any]]:
    """Runs a notebook of ours in ``folder`` from top to bottom; returns its cells. Skips the test where Jupyter's parts are absent."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return list(notebook.cells)


def outputs_of(cells: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """What cells of a notebook printed, all of it, and what they showed: data by kind, a dict each."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs), [output.get("data", {}) for output in outputs]
