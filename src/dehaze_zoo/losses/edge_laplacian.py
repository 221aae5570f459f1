"""Edge loss, as MPRNet's paper writes it."""

from __future__ import annotations

import torch
from torch import Tensor

from dehaze_zoo.losses.base import ImageLoss
from dehaze_zoo.losses.charbonnier import charbonnier
from dehaze_zoo.losses.pyramid import filtered


class EdgeLaplacianLoss(ImageLoss):
    """mean sqrt((D(p) - D(t))^2 + eps^2) with the five-point Laplacian D (MPRNet, CVPR 2021, eq. 3 taken at its word).

    Images (B, C, H, W), borders repeated. Its program uses a pyramid residue (EdgeLoss). ``eps`` is in the units of the images.
    """

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        operator = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
        return charbonnier(filtered(prediction - target, operator), self.eps)
