"""The verbs work from a wheel, from `pip install .` and from an editable install, outside the clone, with the configs inside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from support import ROOT

TINY = ["trainer=cpu", "data=synthetic", "trainer.max_epochs=1", "data.samples_per_epoch=8", "data.batch_size=4", "data.crop_size=32"]


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DEHAZE_ZOO_DATA")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the sources, so that building leaves nothing in the clone."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("src", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.mark.parametrize("way", ["wheel", "plain", "editable"])
def test_installed_this_way_it_trains_outside_the_clone(way, source, tmp_path):
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
