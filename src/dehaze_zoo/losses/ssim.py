"""Structural similarity as a loss."""

from __future__ import annotations

from torch import Tensor

from dehaze_zoo.losses.base import ImageLoss
from dehaze_zoo.metrics.functional import ssim


class SSIMLoss(ImageLoss):
    """1 - mean SSIM(p, t) of images (B, C, H, W) in [0, 1] (Wang et al., IEEE Trans. Image Processing 2004); the metric's own function."""

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return 1 - ssim(prediction, target).mean()
