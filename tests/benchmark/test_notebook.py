"""notebooks/compare_models.ipynb runs from top to bottom, and shows what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import outputs_of, run_notebook


def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    printed, shown = outputs_of(run_notebook("compare_models.ipynb", tmp_path))
    assert "identity - dcp" in printed
    assert {"text/markdown", "image/png"} <= {kind for data in shown for kind in data}
    assert (tmp_path / "compare" / "leaderboard.html").is_file()
