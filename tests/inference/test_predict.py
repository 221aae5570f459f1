"""Restoring files and folders: what users bring, kept as it was; what is broken, named; the rest done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from omegaconf import OmegaConf
from PIL import Image

from dehaze_zoo.errors import UsageError
from dehaze_zoo.inference.predict import predict


def scene(height: int = 24, width: int = 32, seed: int = 0) -> npt.NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    ramp = np.linspace(60, 200, width)[None, :, None] + random.normal(0, 10, (height, 1, 3))
    return np.clip(ramp, 0, 255).astype(np.uint8)


def run(source: Path, output: Path, run_dir: Path, compare: bool = False, model: str = "identity") -> tuple[int, dict[str, Any]]:
    network = {"name": model}
    cfg = {"input": str(source), "output": str(output), "checkpoint": None, "compare": compare}
    cfg |= {"model": {"network": network}, "trainer": {"accelerator": "cpu"}}  # type: ignore[dict-item]
    outcome = predict(OmegaConf.create(cfg), run_dir)
    return outcome.code, json.loads((output / "report.json").read_text())


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder of every kind of picture that users bring, in two levels, and of broken ones."""
    folder = tmp_path / "in"
    (folder / "deep" / "er").mkdir(parents=True)
    image = Image.fromarray(scene())
    image.convert("L").save(folder / "grey.png")
    image.convert("P").save(folder / "palette.png")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    rgba = np.dstack([scene(), np.arange(24 * 32, dtype=np.uint8).reshape(24, 32)])
    Image.fromarray(rgba).save(folder / "alpha.png")
    Image.fromarray(scene()[..., 0].astype(np.uint16) * 257).save(folder / "grey16.png")
    cv2.imwrite(str(folder / "colour16.png"), scene().astype(np.uint16) * 256 + 7)
    exif = Image.Exif()
    exif[274] = 6
    image.save(folder / "deep" / "rotated.jpg", exif=exif, icc_profile=b"a profile", quality=95)
    image.resize((1, 1)).save(folder / "deep" / "er" / "one.png")
    image.resize((90, 2)).save(folder / "deep" / "er" / "wide.bmp")
    (folder / "cut.jpg").write_bytes((folder / "cmyk.jpg").read_bytes()[:500])
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("no picture by its name: left alone")
    return folder


def test_every_kind_is_kept_and_broken_ones_are_named(odd: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in odd.rglob("*") if path.is_file()}
    code, report = run(odd, tmp_path / "out", tmp_path / "run")
    assert (code, report["done"]) == (1, 9)
    assert sorted(Path(entry["file"]).name for entry in report["failed"]) == ["cut.jpg", "empty.png", "text.png"]
    assert all(entry["why"] for entry in report["failed"])
    assert {path: path.read_bytes() for path in odd.rglob("*") if path.is_file()} == before
    made = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()}
    broken = {"cut.jpg", "text.png", "empty.png", "notes.txt"}
    assert made == {path.relative_to(odd) for path in before if path.name not in broken} | {Path("report.json")}
    for path in made - {Path("report.json")}:
        with Image.open(odd / path) as old, Image.open(tmp_path / "out" / path) as new:
            assert new.size == old.size, path
            if path.name in ("grey.png", "alpha.png", "grey16.png", "palette.png"):
                mode = "RGB" if path.name == "palette.png" else old.mode
                assert new.mode == mode, path
                assert np.array_equal(np.asarray(old.convert(mode)), np.asarray(new)), path
    old16, new16 = (np.asarray(cv2.imread(str(folder / "colour16.png"), cv2.IMREAD_UNCHANGED)) for folder in (odd, tmp_path / "out"))
    assert new16.dtype == np.uint16
    assert np.array_equal(old16, new16)
    with Image.open(tmp_path / "out" / "deep" / "rotated.jpg") as rotated:
        assert rotated.getexif()[274] == 6
        assert rotated.info["icc_profile"] == b"a profile"


def test_a_network_changes_the_picture_but_not_its_alpha(tmp_path: Path) -> None:
    alpha = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32)
    hazy = (scene() * 0.4 + 140).astype(np.uint8)
    Image.fromarray(np.dstack([hazy, alpha])).save(tmp_path / "photo.png")
    code, report = run(tmp_path / "photo.png", tmp_path / "out", tmp_path / "run", compare=True, model="dcp")
    assert (code, report) == (0, {"model": "dcp", "done": 1, "failed": []})
    made = np.asarray(Image.open(tmp_path / "out" / "photo.png"))
    assert np.array_equal(made[..., 3], alpha)
    assert np.abs(made[..., :3].astype(int) - hazy).mean() > 3
    beside = Image.open(tmp_path / "out" / "photo_compare.png")
    assert beside.width > 2 * 32
    assert beside.height > 24


def test_compare_never_takes_a_picture_s_place(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "a.bmp", "a_compare.png"):
        Image.fromarray(scene()).save(folder / name)
    assert run(folder, tmp_path / "out", tmp_path / "run", compare=True)[0] == 0
    assert len([path for path in (tmp_path / "out").iterdir() if path.suffix != ".json"]) == 6
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a_compare.png")), scene())


def test_results_inside_the_input_are_not_restored_again(tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    for _ in range(2):
        assert run(tmp_path, tmp_path / "clear", tmp_path / "run")[1]["done"] == 1


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for source, output in ((tmp_path, tmp_path), (tmp_path / "a.png", tmp_path), (tmp_path, tmp_path / "link")):
        with pytest.raises(UsageError, match="overwritten"):
            run(source, output, tmp_path / "run")
    with pytest.raises(UsageError, match="must be a folder"):
        run(tmp_path, tmp_path / "a.png", tmp_path / "run")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    run(tmp_path / "a.png", tmp_path / "out", tmp_path / "run")
    assert (tmp_path / "a.png").read_bytes() == before


def test_an_empty_folder_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UsageError, match="no pictures"):
        run(tmp_path / "in", tmp_path / "out", tmp_path / "run")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a folder that this user may not write to")
def test_no_permission_to_write_is_named(tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UsageError, match="locked"):
        run(tmp_path / "a.png", tmp_path / "locked" / "out", tmp_path / "run")


def test_a_failing_write_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(scene()).save(folder / name)
    (tmp_path / "out" / "a.png").mkdir(parents=True)  # a folder stands where the result belongs
    code, report = run(folder, tmp_path / "out", tmp_path / "run")
    assert (code, report["done"]) == (1, 1)
    assert "a.png" in report["failed"][0]["file"]


def test_the_verb_from_the_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "odd, names = [x]"
    folder.mkdir()
    Image.fromarray(scene()).save(folder / "straße (1).png")
    command = [sys.executable, "-m", "dehaze_zoo.predict", "model=identity", f"input={folder}", f"output={tmp_path / 'out'}"]
    done = subprocess.run([*command, f"run_dir={tmp_path / 'run'}", "trainer=cpu"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 pictures" in done.stdout
    assert (tmp_path / "out" / "straße (1).png").is_file()
    assert (tmp_path / "run" / "config.yaml").is_file()
