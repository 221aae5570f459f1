"""Judging networks on pairs: the figures, their files, and pairs that cannot be used."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dehaze_zoo.cli import compose
from dehaze_zoo.errors import ImageError, UsageError
from dehaze_zoo.inference.evaluate import Pair, evaluate, judge, summarise
from dehaze_zoo.metrics.protocols import PROTOCOLS
from support import shared_dir


def level(value: int, size: tuple[int, int] = (32, 24)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good pairs in a known layout: hazy is 10, 20 and 40 levels brighter than clear."""
    for kind in ("hazy", "clear"):
        (tmp_path / "pairs" / kind).mkdir(parents=True)
    for i, apart in enumerate((10, 20, 40)):
        level(100 + apart).save(tmp_path / "pairs" / "hazy" / f"{i}.png")
        level(100).save(tmp_path / "pairs" / "clear" / f"{i}.png")
    return tmp_path / "pairs"


def run(run_dir: Path, *overrides: str) -> tuple[int, Any, list[dict[str, str]], dict[str, Any]]:
    run_dir.mkdir(exist_ok=True)
    cfg = compose("evaluate", ["model=identity", "trainer=cpu", "protocol=gunet", "split=test", *overrides])
    outcome = evaluate(cfg, run_dir)
    metrics = json.loads((run_dir / "metrics.json").read_text()) if (run_dir / "metrics.json").exists() else None
    rows = list(csv.DictReader((run_dir / "per_image.csv").read_text().splitlines())) if metrics else []
    return outcome.code, metrics, rows, json.loads((run_dir / "report.json").read_text())


def decibel(levels: float) -> float:
    return float(20 * np.log10(255 / levels))


def test_files_and_figures(folder: Path, tmp_path: Path) -> None:
    code, metrics, rows, report = run(tmp_path / "run", "data=folder", f"data.root='{folder}'")
    assert (code, report) == (0, {"done": 3, "failed": []})
    assert {k: metrics[k] for k in ("model", "data", "split", "protocol", "images")} == {
        "model": "identity", "data": "folder", "split": "test", "protocol": "gunet", "images": 3,
    }  # fmt: skip
    expected = [decibel(apart) for apart in (10, 20, 40)]
    assert list(rows[0]) == ["image", "psnr", "ssim"]
    assert [float(row["psnr"]) for row in rows] == pytest.approx(expected, abs=1e-4)
    assert metrics["psnr"] == pytest.approx(np.mean(expected), abs=1e-4)  # of the decibels, not of the errors
    assert metrics["ssim"] == pytest.approx(np.mean([float(row["ssim"]) for row in rows]))
    assert len(list((tmp_path / "run" / "images").glob("*.png"))) == 3


def test_all_protocols_in_turn(folder: Path, tmp_path: Path) -> None:
    _, metrics, rows, _ = run(tmp_path / "run", "data=folder", f"data.root='{folder}'", "protocol=all", "examples=0")
    assert [m["protocol"] for m in metrics] == list(PROTOCOLS)
    assert list(rows[0]) == ["image", "protocol", "psnr", "ssim"]
    assert len(rows) == 9
    assert not (tmp_path / "run" / "images").exists()


def test_bad_pairs_are_named_and_the_rest_is_judged(folder: Path, tmp_path: Path) -> None:
    level(90, (40, 24)).save(folder / "hazy" / "1.png")  # of another size than its clear picture
    whole = (folder / "clear" / "2.png").read_bytes()
    (folder / "clear" / "2.png").write_bytes(whole[: len(whole) // 2])
    code, metrics, rows, report = run(tmp_path / "run", "data=folder", f"data.root='{folder}'")
    assert (code, metrics["images"], len(rows), report["done"]) == (1, 1, 1, 1)
    names = [Path(entry["file"]).relative_to(folder).as_posix() for entry in report["failed"]]
    assert names == ["hazy/1.png", "clear/2.png"]
    assert "24" in report["failed"][0]["why"]


def test_nothing_left_to_judge(folder: Path, tmp_path: Path) -> None:
    for file in (folder / "hazy").iterdir():
        file.write_bytes(b"no picture")
    code, metrics, _, report = run(tmp_path / "run", "data=folder", f"data.root='{folder}'")
    assert (code, metrics, report["done"], len(report["failed"])) == (1, None, 0, 3)


@pytest.mark.parametrize("override", ["protocol=gunnet", "split=tset", "model=aodnet", "+data.nonsense=nonsense"])
def test_wrong_use(folder: Path, tmp_path: Path, override: str) -> None:
    with pytest.raises(UsageError, match=override.split("=")[1]):
        run(tmp_path / "run", "data=folder", f"data.root='{folder}'", override)


def test_a_pair_that_breaks_the_network_is_a_failure() -> None:
    class Picky(torch.nn.Module):
        def forward(self, hazy: torch.Tensor) -> torch.Tensor:
            if hazy.mean() > 0.5:
                raise RuntimeError("Expected something else\nand more lines")
            return hazy

    class Pairs:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Pair:
            if index == 3:
                raise ImageError("three.png", "is damaged", "Copy it again.")
            hazy = torch.full((3, 16, 16), index / 2)
            return {"hazy": hazy, "clear": torch.zeros(3, 16, 16), "name": f"scene {index}"}

    rows, failed = judge(Picky(), Pairs(), [PROTOCOLS["uint8"]])
    assert [row["image"] for row in rows] == ["scene 0", "scene 1"]
    assert failed == [
        {"file": "scene 2", "why": "Expected something else"},
        {"file": "three.png", "why": "is damaged. Copy it again"},
    ]


def test_means_count_their_own_protocol_s_images() -> None:
    rows = [{"image": i, "protocol": p, "psnr": v, "ssim": 0.5} for i, p, v in ((0, "a", 10.0), (0, "b", 1.0), (1, "a", 20.0))]
    assert summarise(rows) == [
        {"protocol": "a", "images": 2, "psnr": 15.0, "ssim": 0.5},
        {"protocol": "b", "images": 1, "psnr": 1.0, "ssim": 0.5},
    ]


def test_the_synthetic_test_set_is_the_same_every_time(tmp_path: Path) -> None:
    figures = [run(tmp_path / str(i), "model=dcp", "data=synthetic", "data.test_pairs=2", "examples=0")[1]["psnr"] for i in range(2)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ("model", "weights", "psnr", "ssim"), [("aodnet", "aodnet/dehazer.pth", 19.685, 0.8572), ("identity", None, 12.613, 0.7136)]
)
def test_real_pairs_give_what_the_authors_weights_gave(model: str, weights: str | None, psnr: float, ssim: float, tmp_path: Path) -> None:
    shared = shared_dir()
    given = [f"checkpoint='{shared / 'weights' / weights}'"] if weights else []
    root = shared / "data" / "sots_indoor_subset"
    _, metrics, _, _ = run(tmp_path, f"model={model}", *given, "data=reside_indoor", f"data.root='{root}'", "examples=0")
    assert metrics["images"] == 80
    assert metrics["psnr"] == pytest.approx(psnr, abs=0.02)
    assert metrics["ssim"] == pytest.approx(ssim, abs=0.002)


def test_the_verb_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dehaze_zoo.evaluate", "model=dcp", "data=folder", f"data.root={folder}", "trainer=cpu"]
    done = subprocess.run([*command, f"run_dir={tmp_path / 'run'}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "gunet" in done.stdout
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"config.yaml", "environment.json", "metrics.json", "per_image.csv"}
