from __future__ import annotations

import runpy
import sys

import pytest

from support import ROOT


def test_it_runs_and_states_its_terms(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["synthetic.py", "--quick"])
    runpy.run_path(str(ROOT / "benchmarks" / "synthetic.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert all(word in said for word in ("48x48", "batch 2", "float32", "threads", "IQR", "torch", "ratio"))
