"""What a network says of itself, so that pictures too large for the memory can be restored in tiles."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Tiling:
    """A network states it as its attribute ``tiling``; one that does not is taken to be ``UNKNOWN``."""

    reach: int
    """Pixels around a place that its result depends on by more than 1/255."""
    step: int = 1
    """Tiles begin at multiples of it, so that strides, windows and pooling grids lie as they do in the whole picture."""
    caveat: str = ""
    """Why tiles are not the whole picture's result; empty where they are."""
    refused: bool = False
    """Whether tiles are refused for that reason: pictures are restored whole or not at all."""


UNKNOWN = Tiling(reach=128, step=64, caveat="the network does not say how far it sees")


class OfTheWhole(nn.Module):
    """Marks a module whose result describes the whole picture (a mean, an airlight): tiles take it from the whole picture, shrunk."""


class GlobalMean(OfTheWhole):
    """Means over the picture: (B, C, H, W) to (B, C, 1, 1)."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3), keepdim=True)
