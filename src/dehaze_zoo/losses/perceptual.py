"""LPIPS as a loss."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from dehaze_zoo.losses.base import ImageLoss
from dehaze_zoo.metrics.lpips import LPIPS


class PerceptualLoss(ImageLoss):
    """mean LPIPS(p, t): weighted squared distances of unit-length ImageNet features (Zhang et al., CVPR 2018; RIDCP takes VGG's).

    Images (B, 3, H, W) in [0, 1], 32 pixels a side at least. ``backbone`` and ``weights`` as in ``metrics.lpips.LPIPS``, which raises
    UsageError where the weights are neither given nor to be had.
    """

    def __init__(self, backbone: str = "vgg", weights: str | Path | None = None) -> None:
        super().__init__()
        self.lpips = LPIPS(backbone, weights)

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self.lpips(prediction, target).mean()  # type: ignore[no-any-return]
