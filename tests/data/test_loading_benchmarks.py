from __future__ import annotations

import runpy
import sys

import pytest
import torch

from support import ROOT


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    threads = torch.get_num_threads()
    runpy.run_path(str(ROOT / "benchmarks" / name), run_name="__main__")
    torch.set_num_threads(threads)
    return capsys.readouterr().out


def test_loading_states_its_terms_and_all_loaders(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    table = said(monkeypatch, capsys, "loading.py", "--quick")
    assert all(
        word in table for word in ("620x460 PNG", "1152x864 JPEG", "usual", "gUNet", "from files", "from the cache", "IQR", "Pillow")
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of a process's own memory")
def test_a_manifest_of_thousands_costs_a_worker_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A list of the pairs, whose objects a worker copies when it counts its references to them, is measured beside it."""
    head, start, _, memory = said(monkeypatch, capsys, "manifest.py", "--pairs", "20000", "--workers", "1").splitlines()
    assert "20,000 pairs" in head
    manifest, folders = (float(word) for word in start.split() if word[0].isdigit())
    assert manifest < folders
    table, a_pair, plain = (float(word) for word in memory.split() if word[0].isdigit())
    assert a_pair < 250
    assert table < plain / 2
