"""The scattering model, hazy = clear t + airlight (1 - t) with t = exp(-beta depth), and where its parameters are drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dehaze_zoo.errors import UsageError

Floats = npt.NDArray[np.floating[Any]]


def transmission(depth: Floats, beta: float) -> Floats:
    """exp(-beta depth): (H, W) in (0, 1], for a depth in the unit that 1/beta is in."""
    return np.asarray(np.exp(-beta * depth), dtype=depth.dtype)


def scatter(clear: Floats, t: Floats, airlight: Floats | float) -> Floats:
    """clear t + airlight (1 - t), Koschmieder's law: (H, W, 3) from clear (H, W, 3) in [0, 1], t (H, W), airlight one or three values."""
    return clear * t[..., None] + np.asarray(airlight, dtype=clear.dtype) * (1 - t[..., None])


class Hazing(Protocol):
    """What hazes clear pictures: Haze here, Degradation for RIDCP's pipeline."""

    def apply(self, clear: npt.NDArray[np.float32], depth: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """The hazy picture (H, W, 3) of a clear one in [0, 1] with depth (H, W), 1 the farthest solid point."""


@dataclass(frozen=True)
class Haze:
    """Ranges of the haze, each drawn uniformly for a picture. Raises UsageError for a range that is none.

    Defaults are RESIDE's (Li et al., TIP 2019): beta over a depth whose farthest point is 1. Skies lie at depth 2 (see synthetic.py).
    """

    beta: tuple[float, float] = (0.6, 1.8)
    """Scattering, per unit of depth; the unit is the farthest solid point of the scene."""
    airlight: tuple[float, float] = (0.7, 1.0)
    """Brightness of the airlight, common to the channels, of the range 1."""
    tint: float = 0.02
    """Each channel of the airlight is moved by up to this much, either way; the result is cut to [0, 1]."""

    def __post_init__(self) -> None:
        for name, value, top in (("beta", self.beta, np.inf), ("airlight", self.airlight, 1), ("tint", (0, self.tint), 1)):
            if len(value) != 2 or not 0 <= value[0] <= value[1] <= top:
                raise UsageError(f"data.haze.{name}={value}: must be from 0 to {top}; of a range, two numbers, the lower first.")

    def draw(self, rng: np.random.Generator) -> tuple[float, npt.NDArray[np.float32]]:
        """(beta, airlight of three values)."""
        beta = rng.uniform(*self.beta)
        airlight = rng.uniform(*self.airlight) + rng.uniform(-self.tint, self.tint, 3)
        return beta, np.clip(airlight, 0, 1).astype(np.float32)

    def apply(self, clear: npt.NDArray[np.float32], depth: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """The hazy picture (H, W, 3) of a clear one in [0, 1] with relative depth (H, W)."""
        beta, airlight = self.draw(rng)
        return scatter(clear, transmission(depth, beta), airlight).astype(np.float32)
