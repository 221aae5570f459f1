"""Mean squared error."""

from __future__ import annotations

from torch import Tensor

from dehaze_zoo.losses.base import ImageLoss


class MSELoss(ImageLoss):
    """mean (p - t)^2, what PSNR measures (AOD-Net, Li et al., ICCV 2017)."""

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().mean()
