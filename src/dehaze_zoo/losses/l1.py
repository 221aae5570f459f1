"""L1."""

from __future__ import annotations

from torch import Tensor

from dehaze_zoo.losses.base import ImageLoss


class L1Loss(ImageLoss):
    """mean |p - t| (gUNet, Song et al., 2022: there in the [-1, 1] range, where it is twice as large)."""

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs().mean()
