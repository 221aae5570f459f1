"""The demo's last word: it says where the trained network is not ahead by what it should be; and the README's run was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dehaze_zoo import demo
from support import ROOT


@pytest.mark.parametrize(
    ("trained", "dcp", "good"),
    [(19.0, 17.0, True), (18.9, 15.0, False), (20.0, 18.1, False)],  # over a hazy input of 13 dB: 6 and 2 dB, 5.9 dB, 1.9 dB
)
def test_the_bar(trained: float, dcp: float, good: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    scores = {"identity": 13.0, "dcp": dcp, "gunet_t": trained}
    figures = [{"model": model, "protocol": "gunet", "images": 32, "psnr": psnr, "ssim": 0.8} for model, psnr in scores.items()]
    assert demo._show(tmp_path, figures, {"training_seconds": 150, "seconds": 170}) is good
    said = capsys.readouterr().out
    assert f"{trained:.2f}" in said
    assert "32 held-out synthetic pairs, protocol gunet" in said
    assert ("should be" in said) is not good


def test_the_run_in_the_readme_is_ahead_by_what_it_should_be() -> None:
    run = json.loads((ROOT / "docs" / "demo.json").read_text())
    psnr = {entry["model"]: entry["psnr"] for entry in run["figures"]}
    assert psnr["gunet_t"] >= max(psnr["identity"] + demo.OVER_HAZY, psnr["dcp"] + demo.OVER_DCP)
    assert run["training_seconds"] <= 180
