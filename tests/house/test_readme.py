"""README: every command in it runs, every figure in it is what its generator makes, every link leads somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    re.sub(r"\s+#.*", "", line).strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]
VERBS = [command for command in COMMANDS if command.startswith("python -m")]
# What is left of a command's cost: its own words come first, these after them.
CHEAP = ["trainer=cpu", "trainer.max_epochs=1", "data.samples_per_epoch=4", "data.batch_size=2", "data.crop_size=32", "data.num_workers=0"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands take: sets in their layouts, pairs, a photograph, weights."""
    from PIL import Image

    import data_minis
    import dehaze_zoo
    from dehaze_zoo.checkpoints.writing import write_safetensors

    folder = tmp_path_factory.mktemp("desk")
    for name in ("reside_indoor", "reside_outdoor", "haze4k", "rs_haze"):
        getattr(data_minis, name)(folder / "sets" / name)
    data_minis.flat_sots(folder / "pairs")
    (folder / "photos").mkdir()
    Image.new("RGB", (40, 30), (90, 120, 150)).save(folder / "photos" / "photo.jpg")
    write_safetensors(dehaze_zoo.create_model("gunet_t"), folder / "weights.ckpt", "gunet_t")
    write_safetensors(dehaze_zoo.create_model("ktdn"), folder / "teacher.ckpt", "ktdn")
    small: dict[str, Any] = {"codebook_size": 32, "width": 32, "depth": 1}
    ridcp: Any = dehaze_zoo.create_model("ridcp", **small)
    write_safetensors(ridcp, folder / "ridcp.ckpt", "ridcp", small)
    ridcp.quantiser.frequency_gap[0] = 0.1
    write_safetensors(ridcp, folder / "ridcp.safetensors", "ridcp", small)
    (folder / "sharp").mkdir()
    for i in range(4):
        Image.effect_noise((40, 36), 60 + i).convert("RGB").save(folder / "sharp" / f"{i}.png")
    return folder


@pytest.mark.parametrize("command", VERBS)
def test_every_verb_of_the_readme_runs(command: str, desk: Path) -> None:
    words = shlex.split(command)
    if words[2] == "dehaze_zoo.train" and "plan=true" not in words:
        words += CHEAP
    env = {**os.environ, "DEHAZE_ZOO_DATA": str(desk / "sets"), "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    done = subprocess.run([sys.executable, *words[1:]], cwd=desk, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_every_make_target_of_the_readme_exists(command: str) -> None:
    done = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_command_of_the_readme_escapes_these_tests() -> None:
    known = ("python -m dehaze_zoo.", "make ", "source .venv/bin/activate")
    assert [c for c in COMMANDS if not c.startswith(known)] == []
    assert len(VERBS) >= 10


def test_the_python_of_the_readme_runs(desk: Path) -> None:
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        done = subprocess.run(
            [sys.executable, "-c", f"import os; os.chdir({str(desk)!r}); os.link('photos/photo.jpg', 'photo.jpg')\n" + code]
        )
        assert done.returncode == 0


def test_the_figures_of_the_readme_are_what_their_generator_makes() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "tables.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, "run python docs/tables.py\n" + done.stderr


def test_links_and_pictures_of_the_readme_lead_somewhere() -> None:
    local = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []
