"""RIDCP's degradation pipeline: hazy pictures as cameras make them, from clear ones with depth (Wu et al., CVPR 2023, section 3.1).

Seven steps in this order, each a function of its own: transmission, airlight, darkening, noise, scattering, JPEG, and a random scale with
crop and flip. The clear partner goes through the last one alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dehaze_zoo.data.haze import scatter, transmission
from dehaze_zoo.data.images import read_rgb
from dehaze_zoo.data.pairs import Sample, Samples, as_tensor, centre
from dehaze_zoo.data.samplers import Token, generator
from dehaze_zoo.data.synthetic import guessed_depth, read_depth
from dehaze_zoo.errors import ImageError, UsageError, near_misses

Floats = npt.NDArray[np.float32]
Window = tuple[int, int, int, int]
_JUDGED_SEED = 0
_BLOCK = 16  # pixels: JPEG's coding unit with halved colour
_REACH = 20  # pixels around a window that its resampling (2) and JPEG's smoothing of colour between units may look at


def darkened(clear: Floats, gamma: float) -> Floats:
    """clear ** gamma, for pictures in [0, 1]; gamma above 1 darkens."""
    return np.asarray(clear ** np.float32(gamma), np.float32)


def noisy(clear: Floats, rng: np.random.Generator, colour: float = 0.4, grey: float = 0.4, levels: tuple[int, int] = (2, 25)) -> Floats:
    """Gaussian noise on (H, W, 3), cut to [0, 1].

    With probability ``colour`` independent in each channel, with ``grey`` the same in all, both of a sigma uniform in whole ``levels``
    of 255; else correlated between channels, with the covariance |L^2 U^T D U| (elementwise), L = levels[1] / 255, D three uniforms, U a
    random orthonormal basis.
    """
    kind, shape = rng.random(), clear.shape
    if kind < colour + grey:
        sigma = np.float32(rng.integers(levels[0], levels[1] + 1) / 255)
        added = sigma * rng.standard_normal(shape if kind < colour else (*shape[:2], 1), dtype=np.float32)
    else:
        basis = np.linalg.svd(rng.random((3, 3)))[0]
        covariance = np.abs((levels[1] / 255) ** 2 * basis.T @ np.diag(rng.random(3)) @ basis)
        # Elementwise absolute values may leave a negative eigenvalue: the root over singular values, numpy's own way, takes it.
        left, singular, _ = np.linalg.svd(covariance)
        added = rng.standard_normal(shape, dtype=np.float32) @ (left * np.sqrt(singular)).T.astype(np.float32)
    return np.asarray(np.clip(clear + added, 0, 1), np.float32)


def jpeg(picture: Floats, quality: int) -> Floats:
    """Through JPEG and back: (H, W, 3) RGB is clipped to [0, 1] and rounded to 8 bits."""
    levels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    stored = cv2.imencode(".jpg", levels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    levels = np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(levels[..., ::-1] / np.float32(255), np.float32)


def resampled(picture: Floats, source: Window, size: tuple[int, int], scale: float, window: Window) -> Floats:
    """A window of a picture enlarged by ``scale``: bicubic (a = -0.75), without antialiasing, borders repeated, cut to [0, 1].

    ``picture`` is the part ``source`` (top, left, bottom, right) of a whole of ``size``; ``window`` lies in the enlarged whole.
    """
    top, left, bottom, right = window
    rows = _taps(np.arange(top, bottom), scale, size[0], source[0])
    columns = _taps(np.arange(left, right), scale, size[1], source[1])
    tall = np.asarray(sum(weight[:, None, None] * picture[index] for index, weight in rows))
    out = sum(weight[None, :, None] * tall[:, index] for index, weight in columns)
    return np.asarray(np.clip(out, 0, 1), np.float32)


def _taps(at: npt.NDArray[Any], scale: float, length: int, offset: int) -> list[tuple[npt.NDArray[Any], Floats]]:
    """For each of the four neighbours along one side: where it lies in the part, and its weight."""
    place = (at + 0.5) / scale - 0.5
    first = np.floor(place)
    t = place - first
    a = -0.75
    weights = [
        ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a,
        ((a + 2) * t - (a + 3)) * t * t + 1,
        ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1,
        ((a * (2 - t) - 5 * a) * (2 - t) + 8 * a) * (2 - t) - 4 * a,
    ]
    index = [np.clip(first + k, 0, length - 1).astype(int) - offset for k in (-1, 0, 1, 2)]
    return [(i, w.astype(np.float32)) for i, w in zip(index, weights, strict=True)]


@dataclass(frozen=True)
class Degradation:
    """What is drawn for a picture, each uniformly; defaults are published. Raises UsageError for a range that is none.

    Switched off: transmission by beta=[0, 0], the airlight's range and tint by one value and 0, a step with a probability by 0, the random
    scale by resize=False (then a crop at the picture's own).
    """

    beta: tuple[float, float] = (0.3, 1.5)
    """t = exp(-2 beta remoteness); remoteness is 0 at the nearest and 1 at the farthest point of the picture."""
    airlight: tuple[float, float] = (0.25, 1.0)
    """Common to the channels, of the range 1."""
    tint: float = 0.025
    """Each channel's airlight is moved by up to this much, either way, also out of the range; the hazy picture is cut to it."""
    darken: float = 0.5
    """Probability of clear ** gamma."""
    gamma: tuple[float, float] = (1.5, 3.0)
    noise: float = 0.5
    """Probability of noise."""
    jpeg: float = 0.5
    """Probability of JPEG, with a whole quality in ``quality``."""
    quality: tuple[int, int] = (30, 95)
    resize: bool = True
    """Scales hazy and clear so that the short side is a whole number between the crop and its own; where it is no longer than the crop, one
    more than the crop."""
    flip: float = 0.5
    """Probability of mirroring hazy and clear."""

    def __post_init__(self) -> None:
        tops = {"beta": np.inf, "airlight": 1, "gamma": np.inf, "quality": 100, "tint": 1, "darken": 1, "noise": 1, "jpeg": 1, "flip": 1}
        for name, top in tops.items():
            value = getattr(self, name)
            low, high = value if isinstance(value, (tuple, list)) and len(value) == 2 else (0, value)
            if not isinstance(high, (int, float)) or not 0 <= low <= high <= top:
                raise UsageError(f"data.degradation.{name}={value}: must be from 0 to {top}; of a range, two numbers, the lower first.")

    def apply(self, clear: Floats, depth: Floats, rng: np.random.Generator) -> Floats:
        """Steps 1 to 6 on (H, W, 3) in [0, 1] with remoteness (H, W), cut at 1 (skies of built-in scenes lie beyond)."""
        t = transmission(2 * np.minimum(depth, 1), rng.uniform(*self.beta)).astype(np.float32)
        airlight = (rng.uniform(*self.airlight) + rng.uniform(-self.tint, self.tint, 3)).astype(np.float32)
        # Every number is drawn whatever is switched on: switching one step leaves the others' numbers alone.
        darken, noise, compress = rng.random(3) < (self.darken, self.noise, self.jpeg)
        gamma, quality = rng.uniform(*self.gamma), int(rng.integers(self.quality[0], self.quality[1] + 1))
        within = rng.spawn(1)[0]
        shown = darkened(clear, gamma) if darken else clear
        shown = noisy(shown, within) if noise else shown
        hazy = np.asarray(np.clip(scatter(shown, t, airlight), 0, 1), np.float32)
        return jpeg(hazy, quality) if compress else hazy

    def crop(self, clear: Floats, depth: Floats, size: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """All seven steps: (hazy, clear), each (size, size, 3). Only the part of the picture that the crop shows is worked on."""
        height, width = clear.shape[:2]
        short = min(height, width)
        side = int(rng.integers(size, short + 1)) if self.resize and short > size else max(short, size + 1) if short <= size else short
        tall, wide = height * side // short, width * side // short
        top, left = int(rng.integers(tall - size + 1)), int(rng.integers(wide - size + 1))
        mirror = slice(None, None, -1 if rng.random() < self.flip else 1)
        scale, window = side / short, (top, left, top + size, left + size)
        y0, x0 = (max(0, int(start / scale) - _REACH) // _BLOCK * _BLOCK for start in (top, left))
        y1, x1 = (
            min(length, (int((start + size) / scale) + _REACH + _BLOCK) // _BLOCK * _BLOCK)
            for start, length in ((top, height), (left, width))
        )
        part = clear[y0:y1, x0:x1]
        hazy = self.apply(part, depth[y0:y1, x0:x1], rng)
        if side == short:
            inner = slice(top - y0, top - y0 + size), slice(left - x0, left - x0 + size)
            pair = [picture[inner] for picture in (hazy, part)]
        else:
            pair = [resampled(picture, (y0, x0, y1, x1), (height, width), scale, window) for picture in (hazy, part)]
        return pair[0][:, mirror], pair[1][:, mirror]


DEPTH_KINDS = ("distance", "disparity")


def remoteness(depth: Floats, file: Path, kind: str = "distance") -> Floats:
    """A depth map (H, W) scaled to 0 at its nearest and 1 at its farthest point: 1 - d of the paper.

    ``kind``: distance (larger is farther) or disparity (larger is nearer, as most estimators give it). Raises ImageError naming ``file``
    where all values are equal, UsageError for another kind.
    """
    if kind not in DEPTH_KINDS:
        raise UsageError(f"data.depth_kind={kind}: not known. {near_misses(kind, DEPTH_KINDS)}")
    low, high = float(depth.min()), float(depth.max())
    if not high > low:
        raise ImageError(
            file, "this depth map holds the same value everywhere", "Store distances, or take it away to have a depth made up."
        )
    scaled = (depth - np.float32(low)) / np.float32(high - low)
    return np.asarray(1 - scaled if kind == "disparity" else scaled, np.float32)


class DegradedTraining(Samples):
    """Crops of the user's clear pictures, degraded; drawn by Tokens. Pictures without a depth map get a made-up one. Raises ImageError."""

    def __init__(
        self, files: Sequence[tuple[Path, Path | None]], crop_size: int, degradation: Degradation, seed: int, depth_kind: str = "distance"
    ) -> None:
        self.files, self.crop_size, self.degradation, self.seed, self.depth_kind = files, crop_size, degradation, seed, depth_kind

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, token: Token) -> Sample:
        path, depth_path = self.files[token.element]
        rng = generator(self.seed, "train degradation", token.epoch, token.position)
        clear, depth = _read(path, depth_path, self.depth_kind, rng)
        hazy, clear = self.degradation.crop(clear, depth, self.crop_size, rng)
        return {"hazy": as_tensor(hazy), "clear": as_tensor(clear), "name": path.name}


class DegradedPairs(Samples):
    """The user's clear pictures through steps 1 to 6 for judging, whole or their centre; what is drawn depends on their names alone."""

    def __init__(
        self, files: Sequence[tuple[Path, Path | None]], degradation: Degradation, crop: int | None = None, depth_kind: str = "distance"
    ) -> None:
        self.files, self.degradation, self.crop, self.depth_kind = files, degradation, crop, depth_kind

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path, depth_path = self.files[index]
        rng = generator(_JUDGED_SEED, f"judged degradation {path.name}")
        clear, depth = (centre(array, self.crop) for array in _read(path, depth_path, self.depth_kind, rng))
        hazy = self.degradation.apply(clear, depth, rng)
        return {"hazy": as_tensor(hazy), "clear": as_tensor(clear), "name": path.name}


def _read(path: Path, depth_path: Path | None, kind: str, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A clear picture in [0, 1] and its remoteness."""
    stored = read_rgb(path)
    clear = np.asarray(stored / np.float32(255) if stored.dtype == np.uint8 else stored, np.float32)
    if depth_path is None:
        return clear, remoteness(np.minimum(guessed_depth(clear, rng), 1), path)
    # A disparity of 0 is as far as a distance that is not known.
    depth = read_depth(depth_path, path, clear.shape[:2], unknown=float(kind == "distance"))
    return clear, remoteness(depth, depth_path, kind)
