"""Edge loss, as MPRNet's program computes it."""

from __future__ import annotations

from torch import Tensor

from dehaze_zoo.losses.base import ImageLoss
from dehaze_zoo.losses.charbonnier import charbonnier
from dehaze_zoo.losses.pyramid import blurred_half, filtered, gaussian


class EdgeLoss(ImageLoss):
    """mean sqrt((L(p) - L(t))^2 + eps^2) with the pyramid's residue L(v) = v - G(up(G(v)[::2, ::2])) (MPRNet, CVPR 2021, its program).

    Images (B, C, H, W). G is a 5x5 Gaussian with repeated borders; ``up`` writes four times the sample at the even positions and zeros
    elsewhere. MPRNet adds 0.05 of it; its paper writes a Laplacian there (EdgeLaplacianLoss). ``eps`` is in the units of the images.
    """

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        difference = prediction - target  # L is linear: once over the difference is enough
        spread = difference.new_zeros(difference.shape)
        spread[..., ::2, ::2] = 4 * blurred_half(difference)
        return charbonnier(difference - filtered(spread, gaussian()), self.eps)
