"""Restoring files and folders: what users bring, kept as it was; what is broken, named; the rest done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from dehaze_zoo.cli import compose
from dehaze_zoo.data.images import SUFFIXES, Picture
from dehaze_zoo.errors import UsageError
from dehaze_zoo.inference.deploy import Form
from dehaze_zoo.inference.predict import Run, _write, predict
from dehaze_zoo.inference.sources import Done


def scene(height: int = 24, width: int = 32, seed: int = 0) -> npt.NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    ramp = np.linspace(60, 200, width)[None, :, None] + random.normal(0, 10, (height, 1, 3))
    return np.clip(ramp, 0, 255).astype(np.uint8)


def run(
    source: Path, output: Path, run_dir: Path, compare: bool = False, model: str = "identity", **more: Any
) -> tuple[int, dict[str, Any]]:
    words = [f"model={model}", "trainer=cpu", f"compare={compare}", *(f"{key}={value}" for key, value in more.items())]
    cfg = compose("predict", words)
    cfg.input, cfg.output = str(source), str(output)
    outcome = predict(cfg, run_dir)
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
    assert (code, report["model"], report["done"], report["failed"]) == (0, "dcp", 1, [])
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


@pytest.mark.parametrize("pattern", ["", "*", "**/*.png"])
def test_results_inside_the_input_are_not_restored_again(pattern: str, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "deep").mkdir(parents=True)
    Image.fromarray(scene()).save(photos / "deep" / "a.png")
    for redo in (False, True):
        code, report = run(photos / pattern, photos / "clear", photos / "run", redo=redo)
        assert (code, report["done"]) == (0, 1)
    assert [path.parent.name for path in photos.rglob("a.png")].count("deep") == len(list(photos.rglob("*.png"))) == 2


def test_the_output_may_lie_above_the_input(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(scene()).save(tmp_path / "photos" / "a.png")
    for source in (tmp_path / "photos", tmp_path / "photos" / "*.png"):
        assert run(source, tmp_path, tmp_path)[1]["done"] == 1
    assert (tmp_path / "a.png").is_file()


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


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        Image.fromarray(scene(seed=seed)).save(folder / name)
    (folder / "bad.png").write_text("not a picture")
    assert run(folder, out, tmp_path / "run")[1]["skipped"] == 0
    stamps = {name: (out / name).stat().st_mtime_ns for name in ("a.png", "b.png", "c.png")}
    (out / "b.png").unlink()
    os.utime(folder / "c.png")  # changed after its result
    code, report = run(folder, out, tmp_path / "run")
    assert (code, report["done"], report["skipped"], len(report["failed"])) == (1, 3, 1, 1)
    assert (out / "a.png").stat().st_mtime_ns == stamps["a.png"]
    assert (out / "c.png").stat().st_mtime_ns > stamps["c.png"]
    assert run(folder, out, tmp_path / "run", redo=True)[1]["skipped"] == 0
    assert run(folder, out, tmp_path / "run", model="dcp")[1]["skipped"] == 0  # another recipe
    assert run(folder, out, tmp_path / "run", model="dcp")[1]["skipped"] == 3


def test_overwriting_only_when_told(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for place in (folder, out):
        place.mkdir()
        Image.fromarray(scene()).save(place / "a.png")
    Image.fromarray(scene(seed=1)).save(out / "a.png")
    before = (out / "a.png").read_bytes()
    code, report = run(folder, out, tmp_path / "run")
    assert (code, report["done"]) == (1, 0)
    assert "overwrite=true" in report["failed"][0]["why"]
    assert (out / "a.png").read_bytes() == before
    assert run(folder, folder, tmp_path / "run", model="dcp", overwrite=True)[0] == 0
    assert not np.array_equal(np.asarray(Image.open(folder / "a.png")), scene())


def test_in_place_only_what_is_ours_is_done(tmp_path: Path) -> None:
    """A photo that is added, or put back, stands where a result would, and is none."""
    for seed, name in enumerate(("a.png", "b.png")):
        Image.fromarray(scene(seed=seed)).save(tmp_path / name)
    words: dict[str, Any] = {"model": "dcp", "overwrite": True, "compare": True}
    assert run(tmp_path, tmp_path, tmp_path, **words)[1]["done"] == 2
    first = (tmp_path / "a.png").read_bytes()
    Image.fromarray(scene(seed=1)).save(tmp_path / "b.png")
    Image.fromarray(scene(seed=2)).save(tmp_path / "c.png")
    for skipped in (1, 3):
        report = run(tmp_path, tmp_path, tmp_path, **words)[1]
        assert (report["done"], report["skipped"]) == (3, skipped)  # comparisons are no pictures to restore
    assert (tmp_path / "a.png").read_bytes() == first
    for seed, name in enumerate(("b.png", "c.png"), 1):
        assert not np.array_equal(np.asarray(Image.open(tmp_path / name)), scene(seed=seed))


def test_an_interrupted_run_is_known_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate(("a.png", "b.png")):
        Image.fromarray(scene(seed=seed)).save(tmp_path / name)

    def interrupted(self: Run, path: Path, picture: Picture, left: int = 0) -> Any:
        if path.name == "b.png":
            raise KeyboardInterrupt
        return restore(self, path, picture, left)

    restore = Run.restore
    monkeypatch.setattr(Run, "restore", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, tmp_path, tmp_path, model="dcp", overwrite=True)
    monkeypatch.undo()
    once = (tmp_path / "a.png").read_bytes()
    report = run(tmp_path, tmp_path, tmp_path, model="dcp", overwrite=True)[1]
    assert (report["done"], report["skipped"]) == (2, 1)
    assert (tmp_path / "a.png").read_bytes() == once


@pytest.mark.parametrize("name", ["b.png", "b_compare.png"])
def test_a_file_of_somebody_else_s_beside_our_results_stays(name: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(scene()).save(folder / "a.png")
    assert run(folder, out, tmp_path / "run", compare=True)[0] == 0
    Image.fromarray(scene(seed=1)).save(folder / "b.png")
    (out / name).write_text("theirs")
    os.utime(out / name, (0, 0))
    code, report = run(folder, out, tmp_path / "run", compare=True)
    assert (code, report["done"], report["skipped"]) == (1, 1, 1)
    assert name in report["failed"][0]["file"]
    assert (out / name).read_text() == "theirs"
    assert run(folder, out, tmp_path / "run", compare=True, overwrite=True)[0] == 0
    assert run(folder, out, tmp_path / "run", compare=True, redo=True)[0] == 0  # all ours now


def test_a_skipped_picture_s_place_is_not_taken_by_a_comparison(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.png", "a_compare.png"):
        Image.fromarray(scene()).save(folder / name)
    assert run(folder, out, tmp_path / "run", compare=True)[0] == 0
    os.utime(folder / "a.png")
    assert run(folder, out, tmp_path / "run", compare=True)[1]["skipped"] == 1
    assert np.array_equal(np.asarray(Image.open(out / "a_compare.png")), scene())


def test_better_shipped_weights_make_results_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "identity.safetensors"
    weights.write_text("old")
    monkeypatch.setattr("dehaze_zoo.inference.predict.shipped_weights", lambda name: weights)
    Image.fromarray(scene()).save(tmp_path / "a.png")
    assert [run(tmp_path / "a.png", tmp_path / "out", tmp_path / "run")[1]["skipped"] for _ in range(2)] == [0, 1]
    weights.write_text("new")
    assert run(tmp_path / "a.png", tmp_path / "out", tmp_path / "run")[1]["skipped"] == 0


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_comparison_takes_a_few_times_the_picture_s_bytes(kind: type, tmp_path: Path) -> None:
    stored: npt.NDArray[Any] = np.random.default_rng(0).integers(0, 256, (400, 600, 3)).astype(kind)
    picture = Picture(stored, None, "PNG", ".png", None, None, 0)
    about = Run(Form(torch.nn.Identity(), "none"), "identity", tmp_path)
    tracemalloc.start()
    _write(about, Done(tmp_path, {}, False, False), tmp_path / "a.png", picture, stored, tmp_path / "b.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * stored.nbytes
    with Image.open(tmp_path / "b.png") as beside:
        assert beside.size == (2 * 600 + 3 * 4, 400 + 18 + 2 * 4)


def test_a_wrong_tile_is_wrong_use_and_told_once(tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="tile=5"):
        run(tmp_path / "a.png", tmp_path / "out", tmp_path / "run", tile=5)


def test_globs_keep_the_folders_below_their_fixed_part(tmp_path: Path) -> None:
    for name in ("in/a/1.png", "in/b/1.png", "in/b/2.jpg", "in/[c]/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene()).save(tmp_path / name)
    assert run(tmp_path / "in/*/1.png", tmp_path / "out", tmp_path / "run")[1]["done"] == 2
    assert (tmp_path / "out" / "b" / "1.png").is_file()
    assert run(tmp_path / "in/**/*.png", tmp_path / "deep", tmp_path / "run")[1]["done"] == 3
    assert run(tmp_path / "in/[c]", tmp_path / "named", tmp_path / "run")[1]["done"] == 1
    with pytest.raises(UsageError, match="no pictures"):
        run(tmp_path / "in/*.tif", tmp_path / "none", tmp_path / "run")


def test_stdin_to_stdout(tmp_path: Path) -> None:
    wide = (scene().astype(np.uint16) * 256 + 3)[..., ::-1]
    data = cv2.imencode(".png", wide)[1].tobytes()
    command = [sys.executable, "-m", "dehaze_zoo.predict", "model=identity", "trainer=cpu", f"run_dir={tmp_path / 'run'}", "optimize=bf16"]
    done = subprocess.run([*command, "input=-", "output=-"], input=data, capture_output=True)
    assert b"optimize=bf16: differs" in done.stderr
    assert done.returncode == 0, done.stderr
    back = np.asarray(cv2.imdecode(np.frombuffer(done.stdout, np.uint8), cv2.IMREAD_UNCHANGED))
    assert np.array_equal(back, wide)


def test_a_pipe_that_ends_early_or_brings_no_picture_is_one_line(tmp_path: Path) -> None:
    data = cv2.imencode(".png", scene())[1].tobytes()
    words = ["model=identity", "trainer=cpu", "input=-", "output=-"]
    command = [sys.executable, "-m", "dehaze_zoo.predict", *words, f"run_dir={tmp_path / 'run'}"]
    with open("/dev/full", "wb") as full:
        for content, out, why in ((data, full, "stdout: could not be written"), (data[:80], subprocess.PIPE, "stdin: is damaged")):
            done = subprocess.run(command, input=content, stdout=out, stderr=subprocess.PIPE)
            said = done.stderr.decode().splitlines()
            assert (done.returncode, len(said)) == (1, 1), said
            assert said[0].startswith(f"failed {why}")


def test_large_pictures_and_wrong_names_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(scene()).save(folder / "a.png", "JPEG")
    Image.fromarray(scene(40, 40)).save(folder / "b.png")
    code, report = run(folder, tmp_path / "out", tmp_path / "run", max_pixels=1000)
    assert (code, report["done"]) == (1, 1)
    assert "too large" in report["failed"][0]["why"]
    assert "JPEG named .png" in report["notes"][0]["note"]
    assert Image.open(tmp_path / "out" / "a.png").format == "JPEG"


def test_a_full_disk_is_named_and_leaves_no_half_file(tmp_path: Path) -> None:
    """A limit on the size of files stops a write in its middle, as a full disk does."""
    folder = tmp_path / "in"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (150, 150, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "large.png")
    Image.fromarray(scene()).save(folder / "small.png")
    code = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000)); "
    code += "runpy.run_module('dehaze_zoo.predict', run_name='__main__')"
    words = ["model=identity", "trainer=cpu", f"input={folder}", f"output={tmp_path / 'out'}", f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (done.returncode, report["done"]) == (1, 1), done.stderr
    assert "large.png" in report["failed"][0]["file"]
    assert "could not be written" in report["failed"][0]["why"]
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.json", "small.png"]


def test_a_thousand_damaged_files(tmp_path: Path) -> None:
    """Bits flipped, cut, spliced: each is restored or reported, nothing crashes or hangs, nothing else is left."""
    random, folder = np.random.default_rng(0), tmp_path / "in"
    folder.mkdir()
    image = Image.fromarray(scene(12, 16))
    for suffix, form in SUFFIXES.items():
        image.convert("L" if suffix == ".pgm" else "RGB").save(tmp_path / f"seed{suffix}", form)
    for suffix in (".png", ".tif", ".ppm"):  # 16 bits go through another decoder
        cv2.imwrite(str(tmp_path / f"seed16{suffix}"), scene(12, 16).astype(np.uint16) * 256)
    seeds = sorted(tmp_path.glob("seed*"))
    for i in range(1000):
        seed = seeds[i % len(seeds)]
        data = np.frombuffer(seed.read_bytes(), np.uint8).copy()
        for _ in range(random.integers(1, 6)):
            at = int(random.integers(len(data)))
            data[at] = random.integers(256)
        if i % 5 == 0:
            data = data[: random.integers(1, len(data))]
        elif i % 7 == 0:
            cut = int(random.integers(len(data)))
            data = np.concatenate([data[:cut], random.integers(0, 256, random.integers(1, 50), dtype=np.uint8), data[cut:]])
        (folder / f"{i:04}{seed.suffix}").write_bytes(data.tobytes())
    code, report = run(folder, tmp_path / "out", tmp_path / "run", max_pixels=100_000)
    assert code == 1
    assert report["done"] + len(report["failed"]) == 1000
    assert 100 < report["done"] < 950
    assert all(entry["why"] for entry in report["failed"])
    names = {path.name for path in (tmp_path / "out").iterdir()} - {"report.json"}
    assert names == {path.name for path in folder.iterdir()} - {Path(entry["file"]).name for entry in report["failed"]}
