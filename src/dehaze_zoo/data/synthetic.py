"""Pairs with haze made on the fly: over built-in scenes (endless, exact depth), or over the user's clear pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dehaze_zoo.data.haze import Hazing
from dehaze_zoo.data.images import read_picture, read_rgb
from dehaze_zoo.data.layouts import pictures
from dehaze_zoo.data.pairs import Augment, Sample, Samples, as_tensor, centre, padded
from dehaze_zoo.data.samplers import Token, generator
from dehaze_zoo.data.scenes import SKY_DEPTH, Scene, draw_scene
from dehaze_zoo.errors import ImageError, UsageError

Floats = npt.NDArray[np.float32]
_STREAMS = 8  # of scenes that samples share: a batch takes from each in turn
_AT_HAND = 16_000_000  # pixels of such scenes, 256 MB a worker
_JUDGED_SEED = 0  # validation and test pictures are the same whatever a run's seed


@dataclass(frozen=True)
class Framing:
    """What a training sample shows: ``crop_size`` pixels square out of a picture whose height is drawn, uniformly in its logarithm,
    between ``lowest`` and ``highest`` pixels; a height below the window's is the window's. Raises UsageError for sizes that are none."""

    crop_size: int
    lowest: int
    highest: int

    def __post_init__(self) -> None:
        if not self.crop_size >= 1 or not 1 <= self.lowest <= self.highest:
            raise UsageError(f"a window of {self.crop_size} pixels in pictures {self.lowest} to {self.highest} high: no such sizes.")

    def height(self, rng: np.random.Generator) -> int:
        lowest, highest = (np.log(max(self.crop_size, side)) for side in (self.lowest, self.highest))
        return round(float(np.exp(rng.uniform(lowest, highest))))


@dataclass(frozen=True)
class Variation:
    """How a training sample is made another picture, so that few pictures last long. Raises UsageError for what is none.

    Of all: ``levels``: the share of a picture's values, at either end, that become black and white, drawn up to this; for contrast, and
    because photographs have haze of their own, where what they teach as clear should have none. ``colours``: each channel to a power within
    1 +- this, times a gain within 1 +- half of it, for a camera's exposure and white balance.
    Of the user's pictures: ``lowest``: pixels; the picture is shrunk to a height drawn, uniformly in its logarithm, between this (or the
    crop's) and its own; 0 leaves it. ``depth``: the spread of the distances of made-up depth's regions (the farthest is 1).
    """

    lowest: int = 0
    levels: float = 0.0
    colours: float = 0.0
    depth: float = 0.08

    def __post_init__(self) -> None:
        if self.lowest < 0 or not 0 <= self.levels < 0.5 or not 0 <= self.colours < 1 or self.depth < 0:
            raise UsageError(
                f"data.vary={self}: lowest and depth must be 0 or more, levels from 0 to below 0.5, colours from 0 to below 1."
            )

    def shrunk(self, clear: npt.NDArray[Any], crop: int, rng: np.random.Generator) -> npt.NDArray[Any]:
        """(H, W, 3) at the drawn height."""
        height, width = clear.shape[:2]
        lowest = min(height, max(self.lowest, crop, -(-crop * height // width)))
        tall = round(float(np.exp(rng.uniform(np.log(lowest), np.log(height))))) if self.lowest else height
        return clear if tall == height else cv2.resize(clear, (round(width * tall / height), tall), interpolation=cv2.INTER_AREA)

    def seen(self, clear: Floats, whole: npt.NDArray[Any], rng: np.random.Generator) -> Floats:
        """(H, W, 3) in [0, 1], a part of the picture ``whole``, with levels and colours drawn anew."""
        if self.levels:
            share = rng.uniform(0, self.levels)
            black, white = np.quantile(_unit(whole[::4, ::4]), (share, 1 - share)).astype(np.float32)
            clear = np.asarray(np.clip((clear - black) / max(white - black, 1 / 255), 0, 1), np.float32)
        return self._coloured(clear, rng)

    def _coloured(self, clear: Floats, rng: np.random.Generator) -> Floats:
        if not self.colours:
            return clear
        common, own = rng.uniform(-1, 1, (2, 1)), rng.uniform(-0.25, 0.25, (2, 3))
        power, gain = 1 + self.colours * np.array([[1], [0.5]]) * np.clip(common + own, -1, 1)
        return np.asarray(np.clip(clear ** power.astype(np.float32) * gain.astype(np.float32), 0, 1), np.float32)


class SceneTraining(Samples):
    """Built-in scenes: the Token's epoch and position choose scene, window and haze. Pictures hold 8-bit levels, as files do.

    ``windows``: from which epoch on which Framing holds, the first from 0. With ``views`` 1 each sample is a scene of its own, drawn at
    its window's size alone. With more, so many samples share a scene (drawing it is most of the cost): it is drawn whole, and each takes
    a size, a window, a mirroring and a haze of its own. They lie far apart: a sample's scene is any of the newest of its stream, as many
    as are kept at hand. Raises UsageError for ``views`` below 1.
    """

    def __init__(
        self,
        samples: int,
        windows: Mapping[int, Framing],
        haze: Hazing,
        outdoor: float,
        seed: int,
        views: int = 1,
        vary: Variation = Variation(),
    ) -> None:
        if views < 1:
            raise UsageError(f"data.views={views}: a scene is for one sample or more.")
        self.samples, self.windows, self.haze, self.outdoor, self.seed = samples, dict(windows), haze, outdoor, seed
        self.views, self.vary = views, vary
        self.whole = max(max(window.highest, window.crop_size) for window in windows.values())
        self.kept = max(2, _AT_HAND // (_STREAMS * self.whole * (self.whole * 4 // 3)))
        self._drawn: dict[tuple[int, int], Scene] = {}

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, token: Token) -> Sample:
        rng = generator(self.seed, "train sample", token.epoch, token.position)
        window = self.windows[max(epoch for epoch in self.windows if epoch <= token.epoch)]
        crop, height = window.crop_size, window.height(rng)
        if self.views == 1:
            scene = draw_scene(rng, crop, crop, height, self.outdoor)
        else:
            scene = self._shared(token.epoch * self.samples + token.position, rng).scaled(height)
        top, left = (int(rng.integers(side - crop + 1)) for side in scene.clear.shape[:2])
        here = slice(top, top + crop), slice(left, left + crop)
        mirror = slice(None, None, int(rng.choice((-1, 1))))
        clear, depth = (np.ascontiguousarray(whole[here][:, mirror]) for whole in (scene.clear, scene.depth))
        clear = self.vary.seen(clear, scene.clear, rng)
        return _sample(clear, depth, self.haze, rng, f"{token.epoch}_{token.position}")

    def _shared(self, position: int, rng: np.random.Generator) -> Scene:
        stream, newest = position % _STREAMS, position // _STREAMS // self.views
        key = (stream, int(rng.integers(max(0, newest - self.kept + 1), newest + 1)))
        if key not in self._drawn:
            own = [other for other in self._drawn if other[0] == stream]
            if len(own) >= self.kept:
                del self._drawn[min(own)]
            self._drawn[key] = draw_scene(
                generator(self.seed, "train scene", *key), self.whole, self.whole * 4 // 3, self.whole, self.outdoor
            )
        return self._drawn[key]


class ScenePairs(Samples):
    """Built-in scenes for judging, whole pictures of height x width: number i of a split is always the same; splits share none."""

    def __init__(self, split: str, count: int, height: int, width: int, haze: Hazing, outdoor: float) -> None:
        self.split, self.count, self.height, self.width, self.haze, self.outdoor = split, count, height, width, haze, outdoor

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = generator(_JUDGED_SEED, f"{self.split} scene", *((0,) if self.split == "train" else ()), index)  # of training's first epoch
        scene = draw_scene(rng, self.height, self.width, None, self.outdoor)
        return _sample(scene.clear, scene.depth, self.haze, rng, f"{self.split}_{index:04d}.png")


class HazedTraining(Samples):
    """Random crops of the user's clear pictures, hazed; drawn by Tokens. Reading raises ImageError."""

    def __init__(
        self,
        files: Sequence[tuple[Path, Path | None]],
        crop_size: int,
        augment: Augment,
        haze: Hazing,
        seed: int,
        vary: Variation = Variation(),
    ) -> None:
        self.files, self.crop_size, self.augment, self.haze, self.seed, self.vary = files, crop_size, augment, haze, seed, vary

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, token: Token) -> Sample:
        path, depth_path = self.files[token.element]
        rng, crop = generator(self.seed, "train haze", token.epoch, token.position), self.crop_size
        whole = read_rgb(path)
        clear = self.vary.shrunk(whole, crop, rng)
        if depth_path is None:
            depth = guessed_depth(clear, rng, self.vary.depth)
        else:
            stored = read_depth(depth_path, path, whole.shape[:2])
            depth = np.asarray(cv2.resize(stored, clear.shape[1::-1], interpolation=cv2.INTER_NEAREST), np.float32)
        clear, depth = padded(clear, crop), padded(depth[..., None], crop)[..., 0]
        top, left = self.augment.window(clear.shape[0], clear.shape[1], crop, rng)
        both = [picture[top : top + crop, left : left + crop] for picture in (clear, depth)]
        clear, depth = self.augment.turn(both, rng)
        return _sample(self.vary.seen(_unit(clear), whole, rng), depth, self.haze, rng, path.name)


class HazedPairs(Samples):
    """The user's clear pictures hazed for judging, whole or their centre; a picture's haze depends on its name alone. Raises ImageError."""

    def __init__(self, files: Sequence[tuple[Path, Path | None]], haze: Hazing, crop: int | None = None) -> None:
        self.files, self.haze, self.crop = files, haze, crop

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path, depth_path = self.files[index]
        rng = generator(_JUDGED_SEED, f"judged haze {path.name}")
        clear = read_rgb(path)
        depth = read_depth(depth_path, path, clear.shape[:2]) if depth_path is not None else guessed_depth(clear, rng)
        return _sample(_unit(centre(clear, self.crop)), centre(depth, self.crop), self.haze, rng, path.name)


def clear_pictures(
    clear: str | os.PathLike[str], depth: str | os.PathLike[str] | None, holdout: float
) -> dict[str, list[tuple[Path, Path | None]]]:
    """The user's clear pictures and their depth maps by split: train, val, test.

    Each picture's place follows from its name's hash: the lowest share ``holdout`` of them (at least one) validates, the next one tests.
    A depth map is <stem> or <stem>_depth with .npy, .npz or .png in the folder ``depth``, or <stem>_depth.* or <stem>.np* beside the
    picture. Raises UsageError for fewer than three pictures or a folder that is not there.
    """
    folders = [Path(clear)] + ([Path(depth)] if depth is not None else [])
    for folder, key in zip(folders, ("clear", "depth"), strict=False):
        if not folder.is_dir():
            raise UsageError(f"data.{key}={folder}: no such folder.")
    found = sorted(path for path in pictures(folders[0]) if not path.stem.endswith("_depth"))
    if len(found) < 3 or not 0 < holdout < 0.5:
        raise UsageError(
            f"data.clear={clear} holds {len(found)} picture(s), and data.holdout={holdout}.\n"
            "Training, validation and test need a picture each; holdout is a share above 0 and below 0.5."
        )
    found.sort(key=lambda path: hashlib.sha256(path.relative_to(folders[0]).as_posix().encode()).digest())
    share = min(max(1, round(holdout * len(found))), (len(found) - 1) // 2)
    files = [(path, _depth_of(path, folders[1] if depth is not None else None)) for path in found]
    return {"val": files[:share], "test": files[share : 2 * share], "train": files[2 * share :]}


def read_depth(path: Path, of: Path, size: tuple[int, ...], unknown: float = 1) -> Floats:
    """A depth map (H, W) of distances in any unit, scaled so that the farthest is 1; 0 and what is not finite becomes ``unknown``.

    .npy, .npz (its first array) or a grey picture of 8 or 16 bits. Raises ImageError for anything else, and where ``size`` differs.
    """
    try:
        stored: Any = read_picture(path).pixels[..., 0] if path.suffix.lower() == ".png" else np.load(path, allow_pickle=False)
        stored = stored[stored.files[0]] if isinstance(stored, np.lib.npyio.NpzFile) else stored
        depth = np.squeeze(np.asarray(stored, dtype=np.float32))
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(path, f"is not a depth map: {error}", "Store distances as .npy, .npz or a grey .png.") from error
    if depth.shape != tuple(size):
        sizes = f"{'x'.join(map(str, depth.shape[::-1]))} and {size[1]}x{size[0]}"
        raise ImageError(path, f"this depth map and its picture {of} differ in size: {sizes}", "Both must show the same view.")
    known = np.isfinite(depth) & (depth > 0)
    farthest = float(depth[known].max()) if known.any() else 1.0
    return np.asarray(np.where(known, depth / np.float32(farthest), np.float32(unknown)))


def guessed_depth(clear: npt.NDArray[Any], rng: np.random.Generator, spread: float = 0.08) -> Floats:
    """A plausible depth (H, W) for a picture without one; the farthest is 1, the sky SKY_DEPTH.

    Near at the bottom, far at the top, one distance mixed in for each of its coloured regions (apart by ``spread``), smooth unevenness;
    bright even regions at the top are the sky. It is no estimate: haze only needs a depth that goes along with the picture.
    """
    height, width = clear.shape[:2]
    scale = 64 / max(height, width)
    rows, columns = max(4, round(height * scale)), max(4, round(width * scale))
    small = cv2.resize(_unit(clear), (columns, rows), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j].astype(np.float32)
    features = np.dstack([small * 2, x, y]).reshape(-1, 5).astype(np.float32)
    regions = 8
    first = rng.integers(regions, size=(len(features), 1)).astype(np.int32)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 10, 1e-3)
    _, labels, _ = cv2.kmeans(features, regions, first, criteria, 1, cv2.KMEANS_USE_INITIAL_LABELS)  # type: ignore[call-overload]
    labels = labels.reshape(rows, columns)
    horizon, steepness = rng.uniform(0.1, 0.5), rng.uniform(0.6, 1.6)
    depth = np.clip((1 - y) / (1 - horizon), 0, 1) ** steepness
    luma = small @ np.array([0.299, 0.587, 0.114], np.float32)
    sky = np.zeros((rows, columns), bool)
    for region in range(regions):
        here = labels == region
        if not here.any():
            continue
        depth[here] = 0.6 * depth[here] + 0.4 * depth[here].mean() + rng.normal(0, spread)  # things stand upright: one distance each
        sky |= here & bool(y[here].mean() < 0.4 and luma[here].mean() > 0.6 and luma[here].std() < 0.08)
    unevenness = cv2.resize(rng.standard_normal((4, 5)).astype(np.float32), (columns, rows), interpolation=cv2.INTER_CUBIC)
    depth = np.clip(depth + 0.05 * unevenness, 0.05, None)
    depth = np.where(sky, np.float32(SKY_DEPTH), depth / depth.max())
    full = cv2.resize(cv2.GaussianBlur(depth.astype(np.float32), (0, 0), 0.8), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(full, dtype=np.float32)


def _depth_of(picture: Path, folder: Path | None) -> Path | None:
    ends = ("_depth.npy", "_depth.npz", "_depth.png", ".npy", ".npz", *((".png",) if folder is not None else ()))
    places = [(folder or picture.parent) / (picture.stem + end) for end in ends]
    return next((place for place in places if place.is_file()), None)


def _unit(picture: npt.NDArray[Any]) -> Floats:
    return np.asarray(picture / np.float32(255) if picture.dtype == np.uint8 else picture, np.float32)


def _sample(clear: Floats, depth: Floats, haze: Hazing, rng: np.random.Generator, name: str) -> Sample:
    hazy = haze.apply(clear, depth, rng)
    levels = [np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8) for picture in (hazy, clear)]
    return {"hazy": as_tensor(levels[0]), "clear": as_tensor(levels[1]), "name": name}
