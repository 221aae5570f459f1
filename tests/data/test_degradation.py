"""RIDCP's degradation pipeline: each step, their order, and what a sample depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dehaze_zoo.cli import compose
from dehaze_zoo.data.degradation import Degradation, DegradedPairs, DegradedTraining, darkened, jpeg, noisy, remoteness
from dehaze_zoo.data.haze import scatter
from dehaze_zoo.data.samplers import Token
from dehaze_zoo.errors import ImageError, UsageError
from dehaze_zoo.made import made

OFF: dict[str, Any] = {
    "beta": (0.0, 0.0),
    "airlight": (0.8, 0.8),
    "tint": 0.0,
    "darken": 0.0,
    "noise": 0.0,
    "jpeg": 0.0,
    "resize": False,
    "flip": 0.0,
}
RNG = np.random.default_rng


def scene(height: int = 96, width: int = 130) -> tuple[np.ndarray, np.ndarray]:
    rng = RNG(0)
    smooth = cv2.resize(rng.random((9, 12, 3), np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return smooth, np.tile(np.linspace(1, 0, height, dtype=np.float32)[:, None], (1, width))


def test_switched_off_it_changes_nothing() -> None:
    clear, depth = scene()
    assert np.array_equal(Degradation(**OFF).apply(clear, depth, RNG(1)), clear)
    hazy, cut = Degradation(**OFF).crop(clear, depth, 64, RNG(1))
    assert np.array_equal(hazy, cut)
    assert any(np.array_equal(cut, clear[y : y + 64, x : x + 64]) for y in range(33) for x in range(67))


def test_transmission_and_airlight_are_koschmieders() -> None:
    clear, depth = scene()
    on = OFF | {"beta": (0.7, 0.7)}
    assert Degradation(**on).apply(clear, depth, RNG(1)) == pytest.approx(scatter(clear, np.exp(-1.4 * depth), 0.8), abs=1e-6)
    assert Degradation(**on).apply(clear, depth * 2, RNG(1))[:20] == pytest.approx(scatter(clear, np.exp(-1.4 * depth * 0 - 1.4), 0.8)[:20])
    veiled = Degradation(**OFF | {"beta": (50.0, 50.0), "airlight": (0.25, 1.0), "tint": 0.025})
    lights = np.array([veiled.apply(clear, np.ones_like(depth), RNG(i))[0, 0] for i in range(300)])
    assert 0.225 <= lights.min() < 0.3
    assert 0.95 < lights.max() <= 1.0
    assert 0.02 < np.ptp(lights, axis=1).max() <= 0.05 + 1e-6
    bright = Degradation(**OFF | {"beta": (50.0, 50.0), "airlight": (1.0, 1.0), "tint": 0.025})
    thin = Degradation(**OFF | {"beta": (0.7, 0.7), "airlight": (1.0, 1.0), "tint": 0.025})
    assert bright.apply(clear, np.ones_like(depth), RNG(1)).max() == 1  # the picture is cut, not the airlight:
    veils = np.array([thin.apply(clear * 0, np.ones_like(depth), RNG(i))[0, 0] for i in range(50)]) / (1 - np.exp(-1.4))
    assert 1.01 < veils.max() <= 1.025 + 1e-5


def test_darkening_and_noise_come_before_the_haze_and_spare_the_clear_partner() -> None:
    clear, depth = scene()
    dark = OFF | {"darken": 1.0, "gamma": (2.0, 2.0), "beta": (0.7, 0.7)}
    assert Degradation(**dark).apply(clear, depth, RNG(1)) == pytest.approx(scatter(clear**2, np.exp(-1.4 * depth), 0.8), abs=1e-6)
    assert np.array_equal(darkened(clear, 2.0), clear**2)
    _, partner = Degradation(**dark | {"noise": 1.0, "jpeg": 1.0}).crop(clear, depth, 64, RNG(1))
    assert np.array_equal(partner, Degradation(**OFF).crop(clear, depth, 64, RNG(1))[1])
    loud = Degradation(**OFF | {"noise": 1.0, "beta": (50.0, 50.0)})
    assert np.ptp(loud.apply(clear, np.ones_like(depth), RNG(1))) < 1e-6  # the haze lies over the noise
    assert np.ptp(loud.apply(np.full_like(clear, 0.5), depth * 0, RNG(1))) > 0.01


def test_noise_is_of_three_kinds() -> None:
    grey = np.full((128, 128, 3), 0.5, np.float32)
    added = noisy(grey, RNG(1), colour=1, grey=0) - 0.5
    assert 2 / 255 * 0.9 < added.std() < 25 / 255 * 1.1
    assert abs(np.corrcoef(added.reshape(-1, 3).T)[0, 1]) < 0.05
    added = noisy(grey, RNG(1), colour=0, grey=1) - 0.5
    assert np.array_equal(added[..., 0], added[..., 2])
    added = noisy(grey, RNG(1), colour=0, grey=0) - 0.5
    together = np.corrcoef(added.reshape(-1, 3).T)
    assert 0.05 < np.abs(together[np.triu_indices(3, 1)]).max() < 1
    sigmas = [float((noisy(grey[:32, :32], RNG(i), 0, 1) - 0.5).std() * 255) for i in range(200)]
    assert 1.5 < min(sigmas) < 4
    assert 22 < max(sigmas) < 29
    assert noisy(np.ones_like(grey), RNG(2)).max() <= 1
    # The covariance of the third kind is the one asked for, as far as an elementwise absolute value leaves it one.
    rng = RNG(5)
    rng.random()
    basis = np.linalg.svd(rng.random((3, 3)))[0]  # scipy.linalg.orth's
    asked = np.abs((25 / 255) ** 2 * basis.T @ np.diag(rng.random(3)) @ basis)
    left, singular, _ = np.linalg.svd(asked)
    assert np.cov((noisy(grey, RNG(5), 0, 0) - 0.5).reshape(-1, 3).T) == pytest.approx(
        left @ np.diag(singular) @ left.T, rel=0.06, abs=2e-5
    )


def test_jpeg_comes_last_and_leaves_8_bits() -> None:
    clear, depth = scene()
    hazy = Degradation(**OFF | {"jpeg": 1.0, "quality": (40, 40), "beta": (0.7, 0.7)}).apply(clear, depth, RNG(1))
    assert np.array_equal(hazy, jpeg(scatter(clear, np.exp(np.float32(-1.4) * depth), 0.8), 40))
    assert np.array_equal(np.rint(hazy * 255), np.float32(255) * hazy)
    rough, fine = (np.abs(jpeg(clear, quality) - clear).mean() for quality in (30, 95))
    assert fine < rough < 0.05


@pytest.mark.parametrize("size", [(96, 130), (64, 64), (50, 90), (400, 300)])
def test_a_crop_is_that_of_the_whole_picture_degraded_and_resized(size: tuple[int, int]) -> None:
    """Only a part is worked on; the numbers are those of the whole, and of torch's bicubic."""
    clear, depth = scene(*size)
    settings = OFF | {"beta": (0.7, 0.7), "jpeg": 1.0, "quality": (60, 60), "resize": True}
    for draw in range(4):
        hazy, cut = Degradation(**settings).crop(clear, depth, 64, RNG(draw))
        assert hazy.shape == cut.shape == (64, 64, 3)
        rng, short = RNG(draw), min(size)
        side = int(rng.integers(64, short + 1)) if short > 64 else 65
        tall, wide = (length * side // short for length in size)
        top, left = int(rng.integers(tall - 63)), int(rng.integers(wide - 63))
        for made_, whole in ((cut, clear), (hazy, Degradation(**settings | {"resize": False}).apply(clear, depth, RNG(99)))):
            picture = torch.from_numpy(whole).permute(2, 0, 1)[None]
            enlarged = F.interpolate(picture, scale_factor=side / short + 1e-9, mode="bicubic")
            assert enlarged.shape[-2:] == (tall, wide)
            wanted = enlarged.clamp(0, 1)[0, :, top : top + 64, left : left + 64].permute(1, 2, 0).numpy()
            assert made_ == pytest.approx(wanted, abs=3e-5)


def test_scales_and_flips_are_drawn_from_their_ranges() -> None:
    ramp = np.repeat(np.tile(np.linspace(0, 1, 200, dtype=np.float32)[None, :, None], (100, 1, 1)), 3, axis=2)
    steps = [
        float(np.diff(Degradation(**OFF | {"resize": True, "flip": 0.5}).crop(ramp, ramp[..., 0], 64, RNG(i))[1][30, 20:40, 0]).mean())
        for i in range(60)
    ]
    scales = 1 / (199 * np.abs(steps))
    assert scales.min() == pytest.approx(0.64, abs=0.06)
    assert scales.max() == pytest.approx(1, abs=0.06)
    assert 15 < sum(step < 0 for step in steps) < 45


@pytest.mark.parametrize("wrong", [{"beta": (2.0, 1.0)}, {"airlight": (0.5, 1.1)}, {"jpeg": 1.5}, {"quality": (0, 101)}, {"gamma": (1.0,)}])
def test_ranges_that_are_none_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"data.degradation.{next(iter(wrong))}"):
        Degradation(**wrong)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four pictures: a distance as .npy, a disparity as .png, an .npz in a folder of their own, and none."""
    (tmp_path / "clear").mkdir()
    (tmp_path / "depth").mkdir()
    for index in range(4):
        clear, depth = scene(80 + index, 100)
        Image.fromarray(np.rint(clear * 255).astype(np.uint8)).save(tmp_path / "clear" / f"{index}.png")
        if index == 0:
            np.save(tmp_path / "clear" / "0_depth.npy", depth * 7 + 1)
        elif index == 1:
            Image.fromarray(np.rint(depth * 255).astype(np.uint8)).save(tmp_path / "clear" / "1_depth.png")
        elif index == 2:
            np.savez(tmp_path / "depth" / "2.npz", depth)
    return tmp_path


def test_depth_is_scaled_per_picture_and_a_disparity_turned_round() -> None:
    depth = np.array([[2.0, 4.0], [3.0, 6.0]], np.float32)
    assert remoteness(depth, Path("x")) == pytest.approx((depth - 2) / 4)
    assert remoteness(depth, Path("x"), "disparity") == pytest.approx((6 - depth) / 4)
    with pytest.raises(ImageError, match=r"x\.npy: this depth map holds the same value everywhere"):
        remoteness(depth * 0 + 1, Path("x.npy"))
    with pytest.raises(UsageError, match="disparity"):
        remoteness(depth, Path("x"), "disparty")


def test_samples_follow_from_seed_epoch_and_position_alone(photos: Path) -> None:
    files = [(path, None) for path in sorted((photos / "clear").glob("?.png"))]
    one, two = (DegradedTraining(files, 48, Degradation(), seed) for seed in (0, 0))
    later = one[Token(3, 7, 2)]
    sample = one[Token(0, 5, 1)]
    again = two[Token(0, 5, 1)]
    assert torch.equal(sample["hazy"], again["hazy"])
    assert torch.equal(sample["clear"], again["clear"])
    assert torch.equal(two[Token(3, 7, 2)]["hazy"], later["hazy"])
    assert not torch.equal(one[Token(1, 5, 1)]["hazy"], sample["hazy"])
    assert sample["hazy"].shape == (3, 48, 48)
    assert sample["hazy"].min() >= 0
    assert sample["hazy"].max() <= 1
    judged = DegradedPairs(files, Degradation())
    assert torch.equal(judged[2]["hazy"], DegradedPairs(files, Degradation())[2]["hazy"])
    assert judged[2]["clear"].shape == (3, 82, 100)


def test_the_datamodule_takes_scenes_pictures_and_their_depth(photos: Path) -> None:
    small = [
        "data=ridcp_haze",
        "data.crop_size=48",
        "data.batch_size=2",
        "data.samples_per_epoch=4",
        "data.num_workers=0",
        "data.val_pairs=1",
    ]
    scenes = made(compose("train", [*small, "data.picture_size=[48,64]", "data.frame=48"]).data)
    batch = next(iter(scenes.train_dataloader()))
    assert batch["hazy"].shape == (2, 3, 48, 48)
    assert not torch.equal(batch["hazy"], batch["clear"])
    assert next(iter(scenes.val_dataloader()))["hazy"].shape == (1, 3, 48, 64)
    own = made(compose("train", [*small, f"data.clear='{photos / 'clear'}'", "data.holdout=0.25"]).data)
    assert next(iter(own.train_dataloader()))["hazy"].shape == (2, 3, 48, 48)
    assert len(own.pairs("val")) == len(own.pairs("test")) == 1
    assert own.pairs("test")[0]["hazy"].shape[-1] == 100


def test_bad_depth_is_named(photos: Path) -> None:
    picture = photos / "clear" / "0.png"
    np.save(photos / "small.npy", np.ones((5, 5)))
    np.save(photos / "flat.npy", np.ones((80, 100)))
    for name, why in (("small.npy", "differ in size: 5x5 and 100x80"), ("flat.npy", "same value everywhere")):
        with pytest.raises(ImageError, match=why):
            DegradedPairs([(picture, photos / name)], Degradation())[0]


def test_clear_pictures_are_their_own_partners(photos: Path) -> None:
    few = [
        "data.crop_size=96",
        "data.batch_size=2",
        "data.samples_per_epoch=4",
        "data.num_workers=0",
        "data.holdout=0.25",
        "data.val_crop=64",
    ]
    own = made(compose("train", ["data=clear", *few, f"data.clear='{photos / 'clear'}'"]).data)
    batch = next(iter(own.train_dataloader()))
    assert batch["clear"].shape == (2, 3, 96, 96)  # larger than the pictures are high
    assert torch.equal(batch["hazy"], batch["clear"])
    again = next(iter(own.train_dataloader()))
    assert torch.equal(again["clear"], batch["clear"])
    assert next(iter(own.val_dataloader()))["clear"].shape == (1, 3, 64, 64)
    with pytest.raises(UsageError, match="a folder of clear"):
        made(compose("train", ["data=clear", *few]).data).train_dataloader()
