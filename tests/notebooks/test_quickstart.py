"""notebooks/quickstart.ipynb runs from top to bottom and shows what it says."""

from __future__ import annotations

from pathlib import Path

from support import outputs_of, run_notebook


def test_the_notebook_runs(tmp_path: Path) -> None:
    printed, shown = outputs_of(run_notebook("quickstart.ipynb", tmp_path))
    assert "dcp " in printed
    assert "1 1 [{'file': 'photos/broken.jpg'" in printed  # exit code, done, failed
    assert sum("image/png" in data for data in shown) == 4
    assert (tmp_path / "small.safetensors").is_file()
