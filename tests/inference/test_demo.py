"""The demo's last word: it fails where the trained network is not ahead by what it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from dehaze_zoo import demo


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
