"""Weights and images by rule, and what the published networks computed with them (tests/fixtures/parity)."""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FIXTURES = Path(__file__).parent / "fixtures" / "parity"


@cache
def read(name: str) -> Any:
    """A json or npz file of the fixtures."""
    path = FIXTURES / name
    return np.load(path) if path.suffix == ".npz" else json.loads(path.read_text())


def reference(family: str, name: str) -> Tensor:
    """An input or output of the published network, ``name`` as model/what."""
    return torch.from_numpy(read(f"{family}.npz")[name])


def state(family: str, name: str, gain: float | None = None) -> dict[str, Tensor]:
    """The authors' state dict of a network, filled by rule."""
    gain = read(f"{family}_meta.json")[name]["gain"] if gain is None else gain
    return {key: fill(key, shape, gain) for key, shape in read(f"{family}_keys.json")[name].items()}


def fill(key: str, shape: list[int], gain: float) -> Tensor:
    """One entry from its key and shape alone."""
    if key.endswith("num_batches_tracked"):
        return torch.tensor(100)
    values = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(shape))  # its streams are frozen
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "running_var":
        values = 1.0 + 0.1 * np.abs(values)
    elif leaf == "running_mean":
        values = 0.1 * values
    elif key.endswith("dcn.bias"):
        values = 1.0 + 0.02 * values
    elif leaf == "bias":
        values = 0.02 * values
    elif values.size == 1:  # a PReLU's one slope
        values = np.full(values.shape, 0.25)
    elif values.ndim == 1:  # a norm's weights
        values = 1.0 + 0.1 * values
    else:
        values = gain * values / np.sqrt(int(np.prod(shape[1:])))
    return torch.from_numpy(np.asarray(values, np.float32))


def image(seed: int, height: int, width: int) -> Tensor:
    """A smooth noisy RGB image in [0, 1], float32 (1, 3, H, W)."""
    random = np.random.RandomState(seed)
    rows, columns = np.mgrid[0:height, 0:width] / float(max(height, width))
    picture = np.zeros((3, height, width))
    for channel in picture:
        for _ in range(6):
            down, across = random.uniform(-12, 12), random.uniform(-12, 12)
            phase, strength = random.uniform(0, 6.28), random.uniform(0.2, 1)
            channel += strength * np.sin(down * rows * 6.28 + across * columns * 6.28 + phase)
        channel += 0.3 * random.standard_normal((height, width))
    picture = (picture - picture.min()) / (picture.max() - picture.min())
    return torch.from_numpy(picture.astype(np.float32)[None])


def error(got: Tensor, wanted: Tensor) -> float:
    """Largest difference, in standard deviations of what is wanted."""
    return float((got.detach().double() - wanted.double()).abs().max() / wanted.double().std())
