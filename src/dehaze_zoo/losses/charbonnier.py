"""Charbonnier."""

from __future__ import annotations

from torch import Tensor

from dehaze_zoo.losses.base import ImageLoss


def charbonnier(difference: Tensor, eps: float) -> Tensor:
    """mean sqrt(d^2 + eps^2) over all elements, a scalar."""
    return (difference.square() + eps * eps).sqrt().mean()


class CharbonnierLoss(ImageLoss):
    """mean sqrt((p - t)^2 + eps^2), a smooth L1 with floor eps (Charbonnier et al., ICIP 1994; MPRNet, CVPR 2021, eq. 2).

    ``eps`` is 1e-3 in the units of the images, as published for [0, 1].
    """

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return charbonnier(prediction - target, self.eps)
