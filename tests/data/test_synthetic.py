from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import data_minis as minis
from dehaze_zoo.data.canvas import Canvas
from dehaze_zoo.data.haze import Haze, scatter, transmission
from dehaze_zoo.data.images import read_rgb
from dehaze_zoo.data.pairs import Augment
from dehaze_zoo.data.samplers import Token
from dehaze_zoo.data.scenes import SKY_DEPTH, draw_scene
from dehaze_zoo.data.synthetic import (
    Framing,
    HazedPairs,
    HazedTraining,
    ScenePairs,
    SceneTraining,
    Variation,
    clear_pictures,
    guessed_depth,
    read_depth,
)
from dehaze_zoo.errors import ImageError, UsageError

HAZE = Haze()


def test_the_scattering_model_is_exact() -> None:
    rng = np.random.default_rng(0)
    clear, depth, airlight = rng.random((4, 5, 3)), rng.random((4, 5)), rng.random(3)
    hazy = scatter(clear, transmission(depth, 1.3), airlight)
    for y, x, c in np.ndindex(4, 5, 3):
        t = np.exp(-1.3 * depth[y, x])
        assert hazy[y, x, c] == pytest.approx(clear[y, x, c] * t + airlight[c] * (1 - t), abs=1e-12)
    np.testing.assert_array_equal(scatter(clear, transmission(depth * 0, 1.3), airlight), clear)
    np.testing.assert_allclose(scatter(clear, transmission(depth * 0 + 1e3, 1.3), 0.8), 0.8)


def test_haze_is_drawn_from_its_ranges() -> None:
    rng = np.random.default_rng(0)
    drawn = [Haze((0.5, 2.0), (0.8, 0.9), 0.05).draw(rng) for _ in range(500)]
    betas, lights = np.array([b for b, _ in drawn]), np.array([a for _, a in drawn])
    assert 0.5 <= betas.min() < 0.55
    assert 1.95 < betas.max() <= 2.0
    assert 0.75 <= lights.min() < 0.78
    assert 0.92 < lights.max() <= 0.95
    assert 0 < np.ptp(lights, axis=1).max() <= 0.1
    for wrong in ({"beta": (2.0, 1.0)}, {"airlight": (0.5, 1.1)}, {"tint": -0.1}, {"beta": (1.0,)}):
        with pytest.raises(UsageError, match=f"data.haze.{next(iter(wrong))}"):
            Haze(**wrong)  # type: ignore[arg-type]


def test_depth_and_perspective_of_a_quad_a_box_and_a_sphere_are_exact() -> None:
    def grey() -> np.ndarray:
        return np.full((8, 8, 3), 128, np.uint8)

    canvas = Canvas(64, 64, 64.0, (32.0, 32.0), (0.0, 1.0, 0.0), 0.0, 0.0, finer=1)
    canvas.quad((-50, 0, 0.1), (100, 0, 0), (0, 0, 100), grey)  # the ground, one metre below
    canvas.quad((-50, 50, 20), (100, 0, 0), (0, -100, 0), grey)  # a wall at 20 m
    canvas.box((1.5, 5.5), 0, (1.0, 3.0, 1.0), 0.0, grey)
    canvas.sphere((-1.0, 1.0, 4.0), 0.5, grey)
    _, depth = canvas.lit(1.0, None, [])
    y, x = 0.5 + np.arange(64), 0.5 + np.arange(64)
    ground = np.minimum(64 / np.maximum(y - 32, 1e-9), 20)
    np.testing.assert_allclose(depth[:, 0], ground, rtol=1e-4)
    assert depth[10, 32] == pytest.approx(20, rel=1e-4)
    front = [column for column in range(64) if 1.01 < (x[column] - 32) / 64 * 5 < 1.99]
    np.testing.assert_allclose(depth[30, front], 5, rtol=1e-4)
    ray = np.array([(15.5 - 32) / 64, (31.5 - 32) / 64, 1.0])
    hit = ray * depth[31, 15]
    assert np.linalg.norm(hit - np.array([-1.0, 0.0, 4.0])) == pytest.approx(0.5, abs=1e-3)


def test_scenes_are_pictures_of_depth_and_texture() -> None:
    for number in range(12):
        scene = draw_scene(np.random.default_rng([3, number]), 96, 128, None, outdoor=0.5)
        assert scene.clear.shape == (96, 128, 3)
        assert scene.clear.dtype == scene.depth.dtype == np.float32
        assert scene.clear.min() >= 0
        assert scene.clear.max() <= 1
        assert scene.depth.min() > 0
        assert scene.depth.max() <= SKY_DEPTH
        assert scene.clear.std() > 0.04
        assert len(np.unique((scene.clear * 255).astype(np.uint8).reshape(-1, 3), axis=0)) > 1500  # not flat blobs
        assert np.abs(np.diff(scene.clear, axis=1)).mean() > 0.002
        assert np.ptp(scene.depth) > 0.05


def test_a_window_belongs_to_a_larger_picture() -> None:
    """The farthest point that scales the depth is the whole picture's: windows do not all reach depth 1."""
    farthest = [draw_scene(np.random.default_rng([5, n]), 48, 48, 480, outdoor=0.0).depth.max() for n in range(12)]
    assert min(farthest) < 0.8
    assert max(farthest) <= 1


def test_samples_depend_on_seed_epoch_and_position_alone() -> None:
    train = SceneTraining(10, {0: Framing(32, 32, 64)}, HAZE, 0.25, 1)
    first = train[Token(2, 7, 0)]
    cv2.setRNGSeed(5)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(9)
    assert torch.equal(train[Token(2, 7, 5)]["hazy"], first["hazy"])
    others = [train[Token(2, 8, 0)], train[Token(3, 7, 0)], SceneTraining(10, {0: Framing(32, 32, 64)}, HAZE, 0.25, 2)[Token(2, 7, 0)]]
    assert all(not torch.equal(other["clear"], first["clear"]) for other in others)
    levels = first["hazy"] * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert first["hazy"].shape == (3, 32, 32)


def test_windows_grow_with_the_epoch() -> None:
    train = SceneTraining(10, {0: Framing(24, 30, 30), 2: Framing(32, 40, 48)}, HAZE, 0.25, 1, views=4)
    assert [train[Token(epoch, 3, 0)]["hazy"].shape[-1] for epoch in (0, 1, 2, 7)] == [24, 24, 32, 32]
    assert {scene.clear.shape for scene in train._drawn.values()} == {(48, 64, 3)}  # drawn whole, at the largest size
    for sizes in ((0, 8, 8), (8, 9, 8), (8, 0, 8)):
        with pytest.raises(UsageError, match="no such sizes"):
            Framing(*sizes)


def test_scenes_are_shared_by_samples_far_apart() -> None:
    train = SceneTraining(64, {0: Framing(16, 16, 24)}, HAZE, 0.25, 1, views=4)
    hazy = [train[Token(epoch, position, 0)]["hazy"] for epoch in range(4) for position in range(64)]
    assert len(train._drawn) <= 256 // 4
    assert not any(torch.equal(a, b) for i, a in enumerate(hazy) for b in hazy[:i])  # every sample shows another part, or otherwise
    again = SceneTraining(64, {0: Framing(16, 16, 24)}, HAZE, 0.25, 1, views=4)  # of a resumed run: nothing drawn yet
    assert torch.equal(again[Token(3, 63, 0)]["hazy"], hazy[-1])


def test_splits_are_apart_and_the_same_for_every_seed() -> None:
    val, test = (ScenePairs(split, 3, 40, 48, HAZE, 0.25) for split in ("val", "test"))
    pictures = [dataset[i]["clear"] for dataset in (val, test) for i in range(3)]
    assert all(not torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])
    assert torch.equal(test[1]["hazy"], ScenePairs("test", 9, 40, 48, HAZE, 0.25)[1]["hazy"])
    assert pictures[0].shape == (3, 40, 48)
    assert test[2]["name"] == "test_0002.png"
    with pytest.raises(IndexError):
        test[3]


def own_pictures(folder: Path, count: int = 12, size: tuple[int, int] = (40, 48)) -> Path:
    for number in range(count):
        minis.picture(folder / f"p{number}.jpg", number, size)
    return folder


def test_own_clear_pictures_are_split_by_name(tmp_path: Path) -> None:
    own_pictures(tmp_path)
    split = clear_pictures(tmp_path, None, 0.1)
    assert {name: len(files) for name, files in split.items()} == {"train": 10, "val": 1, "test": 1}
    assert len({path for files in split.values() for path, _ in files}) == 12
    assert clear_pictures(tmp_path, None, 0.1) == split
    assert {name: len(files) for name, files in clear_pictures(own_pictures(tmp_path / "few", 3), None, 0.4).items()} == {
        "train": 1,
        "val": 1,
        "test": 1,
    }
    for folder, holdout in ((own_pictures(tmp_path / "two", 2), 0.1), (tmp_path, 0.5)):
        with pytest.raises(UsageError, match=r"picture\(s\)"):
            clear_pictures(folder, None, holdout)
    with pytest.raises(UsageError, match=r"data.depth=.*no such folder"):
        clear_pictures(tmp_path, tmp_path / "nowhere", 0.1)


def test_own_pictures_are_hazed_with_a_guessed_depth(tmp_path: Path) -> None:
    files = clear_pictures(own_pictures(tmp_path), None, 0.1)["train"]
    train = HazedTraining(files, 16, Augment(0, "flip"), HAZE, 0)
    sample = train[Token(0, 0, 3)]
    assert sample["hazy"].shape == (3, 16, 16)
    assert sample["hazy"].mean() > sample["clear"].mean()
    assert torch.equal(train[Token(0, 0, 3)]["hazy"], sample["hazy"])
    assert not torch.equal(train[Token(1, 0, 3)]["hazy"], sample["hazy"])
    judged = HazedPairs(files, HAZE)
    assert judged[0]["hazy"].shape == (3, 40, 48)
    assert torch.equal(judged[0]["hazy"], HazedPairs(files[:1], HAZE)[0]["hazy"])
    assert HazedPairs(files, HAZE, crop=20)[0]["clear"].shape == (3, 20, 20)
    files[0][0].write_bytes(b"no picture")
    with pytest.raises(ImageError, match=files[0][0].name):
        judged[0]


def test_variation_makes_other_pictures_of_one() -> None:
    clear = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    assert Variation().shrunk(clear, 16, np.random.default_rng(0)) is clear
    heights = [Variation(lowest=30).shrunk(clear, 16, np.random.default_rng(seed)).shape for seed in range(40)]
    assert 30 <= min(heights)[0] < 35
    assert 55 < max(heights)[0] <= 60
    assert all(abs(width - height * 4 / 3) <= 1 for height, width, _ in heights)
    narrow = Variation(lowest=1).shrunk(clear[:, :20], 16, np.random.default_rng(0))
    assert min(narrow.shape[:2]) >= 16  # the crop fits
    unit = (clear / 255).astype(np.float32)
    assert Variation().seen(unit, clear, np.random.default_rng(0)) is unit
    means = np.array([Variation(colours=0.3).seen(unit, clear, np.random.default_rng(seed)).mean((0, 1)) for seed in range(40)])
    assert 0.25 < means.min() < 0.45  # 0.5 ** 1.3 * 0.85 = 0.35
    assert 0.55 < means.max() < 0.8  # 0.5 ** 0.7 * 1.15 = 0.71
    assert np.abs(means - means.mean(1, keepdims=True)).max() > 0.02
    whole = np.uint8((unit * 0.4 + 0.5) * 255)  # values from 0.5 to 0.9
    part = whole[:30].astype(np.float32) / 255
    black = [(Variation(levels=0.1).seen(part, whole, np.random.default_rng(seed)) == 0).mean() for seed in range(40)]
    assert 0 <= min(black) < 0.03
    assert 0.06 < max(black) < 0.13
    stretched = Variation(levels=0.1).seen(part, whole, np.random.default_rng(0))
    assert np.ptp(stretched) == 1
    assert np.corrcoef(stretched.ravel(), part.ravel())[0, 1] > 0.98
    flat = np.full((8, 8, 3), 90, np.uint8)
    assert np.isfinite(Variation(levels=0.1).seen(flat / np.float32(255), flat, np.random.default_rng(0))).all()
    rows = [np.mean([guessed_depth(clear, np.random.default_rng(seed), spread).std(1).mean() for seed in range(8)]) for spread in (0, 0.5)]
    assert rows[1] > 1.2 * rows[0]  # within a row distances lie further apart
    for wrong in ({"lowest": -1}, {"levels": 0.5}, {"colours": 1.0}, {"depth": -0.1}):
        with pytest.raises(UsageError, match=r"data.vary"):
            Variation(**wrong)


def test_scenes_are_varied_too_in_contrast_alone() -> None:
    bare = Haze((0, 0), (1, 1), 0)
    plain, varied = (SceneTraining(8, {0: Framing(32, 32, 64)}, bare, 0.0, 1, 4, Variation(levels=share)) for share in (0, 0.1))
    pairs = [(plain[Token(0, i, 0)]["clear"], varied[Token(0, i, 0)]["clear"]) for i in range(8)]
    assert np.mean([float(after.std()) for _, after in pairs]) > 1.05 * np.mean([float(before.std()) for before, _ in pairs])
    assert all(np.corrcoef(before.flatten(), after.flatten())[0, 1] > 0.9 for before, after in pairs)


def test_varied_pictures_keep_their_depth(tmp_path: Path) -> None:
    file, _ = clear_pictures(own_pictures(tmp_path), None, 0.1)["train"][0]
    np.save(tmp_path / "even.npy", np.ones(read_rgb(file).shape[:2], np.float32))
    train = HazedTraining([(file, tmp_path / "even.npy")], 16, Augment(0, "flip"), Haze((1, 1), (1, 1), 0), 0, Variation(lowest=20))
    for position in range(4):
        sample = train[Token(0, position, 0)]  # an even depth: everywhere the same share of the airlight
        t = np.exp(-1)
        torch.testing.assert_close(sample["hazy"], sample["clear"] * t + 1 - t, atol=0.005, rtol=0)


@pytest.mark.parametrize("size", [(60, 80), (300, 100), (5, 3)])
def test_a_guessed_depth_grows_upwards(size: tuple[int, int]) -> None:
    clear = np.random.default_rng(0).integers(0, 120, (*size, 3), dtype=np.uint8)
    depths = [guessed_depth(clear, np.random.default_rng(seed)) for seed in range(5)]
    for depth in depths:
        assert depth.shape == size
        assert depth.min() > 0
        assert depth.max() <= SKY_DEPTH
    mean = np.mean(depths, axis=0)
    assert mean[: max(1, size[0] // 3)].mean() > mean[-max(1, size[0] // 3) :].mean()
    sky = np.full((60, 80, 3), 60, np.uint8)
    sky[:20] = (200, 220, 255)
    assert guessed_depth(sky, np.random.default_rng(1))[5].mean() == pytest.approx(SKY_DEPTH, rel=0.05)


@pytest.mark.parametrize("form", ["beside", "npy", "npz", "png"])
def test_depth_maps_are_found_and_scaled(tmp_path: Path, form: str) -> None:
    folder, maps = own_pictures(tmp_path / "clear", 3), tmp_path / "maps"
    metres = np.linspace(1, 8, 40 * 48, dtype=np.float32).reshape(40, 48)
    metres[0, 0] = 0  # not measured: counts as far
    maps.mkdir()
    for number in range(3):
        if form == "beside":
            Image.fromarray((metres * 1000).astype(np.uint16)).save(folder / f"p{number}_depth.png")
        elif form == "npy":
            np.save(maps / f"p{number}.npy", metres)
        elif form == "npz":
            np.savez(maps / f"p{number}_depth.npz", depth=metres[..., None])
        else:
            Image.fromarray((metres * 1000).astype(np.uint16)).save(maps / f"p{number}.png")
    files = clear_pictures(folder, None if form == "beside" else maps, 0.1)
    assert sum(map(len, files.values())) == 3
    path, depth_path = files["train"][0]
    assert depth_path is not None
    depth = read_depth(depth_path, path, (40, 48))
    assert depth[0, 0] == 1
    np.testing.assert_allclose(depth.ravel()[1:], metres.ravel()[1:] / 8, atol=1e-3)
    hazy = HazedPairs(files["train"], Haze((1.0, 1.0), (1.0, 1.0), 0.0))[0]
    t = torch.from_numpy(np.exp(-depth))
    torch.testing.assert_close(hazy["hazy"], hazy["clear"] * t + 1 - t, atol=0.6 / 255 + 1e-5, rtol=0)
    with pytest.raises(ImageError, match="48x40 and 50x40"):
        read_depth(depth_path, path, (40, 50))


def test_what_is_no_depth_map(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"nothing")
    np.save(tmp_path / "code.npy", np.array([{"a": 1}]), allow_pickle=True)
    for name in ("x.npy", "code.npy"):
        with pytest.raises(ImageError, match="not a depth map"):
            read_depth(tmp_path / name, tmp_path / "x.png", (4, 4))
