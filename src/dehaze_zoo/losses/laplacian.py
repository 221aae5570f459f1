"""Lap1."""

from __future__ import annotations

from torch import Tensor

from dehaze_zoo.losses.base import ImageLoss
from dehaze_zoo.losses.pyramid import blurred_half, doubled


class LaplacianLoss(ImageLoss):
    """sum_j 4^-j mean |L_j(p) - L_j(t)| over a Laplacian pyramid, j = 0 the finest (Lap1: Bojanowski et al., ICML 2018; KTDN, CVPRW 2020).

    Images (B, C, H, W). KTDN states no weights: 4^-j is our reading of its notes. The last of the ``levels`` is what remains after all
    halvings (local means), so a shift of colour counts, if little. ``levels`` is our choice.
    """

    def __init__(self, levels: int = 5) -> None:
        super().__init__()
        self.levels = levels

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        fine = prediction - target  # the pyramid is linear: that of the difference is the difference of the two
        loss = fine.new_zeros(())
        for level in range(self.levels - 1):
            coarse = blurred_half(fine)
            loss += (fine - doubled(coarse, (fine.shape[-2], fine.shape[-1]))).abs().mean() / 4.0**level
            fine = coarse
        return loss + fine.abs().mean() / 4.0 ** (self.levels - 1)
