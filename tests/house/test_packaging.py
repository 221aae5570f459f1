"""The verbs work from a wheel, from `pip install .` and from an editable install, outside the clone, with the configs inside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support import ROOT

PLUGIN = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "somebodys-net"
version = "1"
[project.entry-points."dehaze_zoo.models"]
somebodys = "somebodys_net"
[project.entry-points."dehaze_zoo.configs"]
somebodys = "somebodys_net.configs"
""",
    "somebodys_net/__init__.py": """
from torch import nn
from dehaze_zoo import register_model

@register_model(paper="Somebody's", citation="S. Body, 2026")
def somebodys(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))
""",
    "somebodys_net/configs/__init__.py": "",
    "somebodys_net/configs/model/somebodys.yaml": """
defaults:
  - base/gunet
  - _self_
network: {name: somebodys, width: 5}
optimizer: {lr: 1.0e-3}
recipe: {batch_size: 4}
""",
}

TINY = ["trainer=cpu", "data=synthetic", "trainer.max_epochs=1", "data.samples_per_epoch=8", "data.batch_size=4"]
TINY += ["data.crop_size=32", "data.val_pairs=2"]


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DEHAZE_ZOO_DATA")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that building leaves nothing in the clone."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("src", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.mark.parametrize("way", ["wheel", "plain", "editable"])
def test_installed_this_way_it_trains_outside_the_clone(way: str, source: Path, tmp_path: Path) -> None:
    # A new environment that sees this one's libraries, but not this one's editable dehaze_zoo (.pth files are not followed twice).
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).stdout.strip()
    Path(site, "libraries.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", python, "-q", "--disable-pip-version-check"]
    flags = ["--no-deps", "--no-index", "--no-build-isolation"]
    if way == "wheel":
        run(*pip, "wheel", *flags, "-w", tmp_path, source, cwd=tmp_path)
        run(*pip, "install", "--no-deps", "--no-index", "--force-reinstall", next(tmp_path.glob("*.whl")), cwd=tmp_path)
    else:
        run(*pip, "install", *flags, "--force-reinstall", *(["-e"] if way == "editable" else []), source, cwd=tmp_path)
    where = run(python, "-c", "import dehaze_zoo; print(dehaze_zoo.__file__)", cwd=tmp_path).stdout.strip()
    assert where.startswith(str(source if way == "editable" else tmp_path))
    run(python, "-m", "dehaze_zoo.train", *TINY, "run_dir=run", cwd=tmp_path)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    if way == "wheel":
        restores_with_the_shipped_weights(python, tmp_path)
        trains_a_network_of_somebody_elses_package(python, pip, tmp_path)


def restores_with_the_shipped_weights(python: Path, tmp_path: Path) -> None:
    hazy = np.tile(np.linspace(150, 220, 96, dtype=np.uint8)[None, :, None], (64, 1, 3))
    Image.fromarray(hazy).save(tmp_path / "hazy.png")
    run(python, "-m", "dehaze_zoo.predict", "input=hazy.png", "output=clear", "run_dir=restored", "trainer=cpu", cwd=tmp_path)
    clear = np.asarray(Image.open(tmp_path / "clear" / "hazy.png")).astype(int)
    assert clear.shape == hazy.shape
    assert np.abs(clear - hazy).mean() > 3
    assert "shipped" in json.loads((tmp_path / "clear" / "report.json").read_text())["recipe"]


def trains_a_network_of_somebody_elses_package(python: Path, pip: list[object], tmp_path: Path) -> None:
    for name, text in PLUGIN.items():
        file = tmp_path / "plugin" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    run(*pip, "install", "--no-deps", "--no-index", "--no-build-isolation", tmp_path / "plugin", cwd=tmp_path)
    run(python, "-m", "dehaze_zoo.train", "model=somebodys", *TINY, "run_dir=theirs", cwd=tmp_path)
    evaluated = [
        "model=somebodys",
        "checkpoint=theirs/checkpoints/last.ckpt",
        "model.network.width=5",
        "data.test_pairs=2",
        "run_dir=judged",
    ]
    run(python, "-m", "dehaze_zoo.evaluate", *evaluated, cwd=tmp_path)
    assert (tmp_path / "judged" / "metrics.json").is_file()
