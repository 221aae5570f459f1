"""The dark channel prior, without weights. He, Sun, Tang: "Single Image Haze Removal Using Dark Channel Prior", CVPR 2009."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dehaze_zoo.networks.blocks.tiles import OfTheWhole, Tiling
from dehaze_zoo.networks.registry import register_model

LUMA = (0.299, 0.587, 0.114)


class DarkChannelPrior(nn.Module):
    """``net(hazy)``: (B, 3, H, W) RGB in [0, 1] to restored, unclamped; each image by itself; any H, W >= 1. Nothing is learnt.

    ``patch`` (pixels) of the dark channel, ``omega`` the share of haze removed, ``t_min`` the least transmission; the transmission
    is refined by a guided filter (He et al., ECCV 2010) of ``radius`` pixels and ``eps`` on the hazy luma. The airlight is the
    brightest pixel among the 0.1 % with the largest dark channel.
    """

    def __init__(self, patch: int = 15, omega: float = 0.95, t_min: float = 0.1, radius: int = 60, eps: float = 1e-4) -> None:
        super().__init__()
        self.airlight = Airlight()
        self.tiling = Tiling(reach=2 * (patch // 2) + 2 * radius, caveat="its airlight is found in the picture shrunk")
        self.patch, self.omega, self.t_min, self.radius, self.eps = patch, omega, t_min, radius, eps

    def forward(self, hazy: Tensor) -> Tensor:
        luma = (hazy * hazy.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        air: Tensor = self.airlight(hazy, luma, dark_channel(hazy, self.patch))
        transmission = 1 - self.omega * dark_channel(hazy / air.clamp(min=1e-3), self.patch)
        transmission = guided_filter(luma, transmission, self.radius, self.eps).clamp(min=self.t_min)
        return (hazy - air) / transmission + air


class Airlight(OfTheWhole):
    """``airlight`` as a part of the network, so that tiles can take it from the whole picture."""

    def forward(self, hazy: Tensor, luma: Tensor, dark: Tensor) -> Tensor:
        return airlight(hazy, luma, dark)


def dark_channel(image: Tensor, patch: int) -> Tensor:
    """Least value over the channels and a ``patch`` x ``patch`` neighbourhood (inside the image): (B, 1, H, W)."""
    least = -image.amin(1, keepdim=True)
    least = F.max_pool2d(least, (patch, 1), 1, (patch // 2, 0))
    return -F.max_pool2d(least, (1, patch), 1, (0, patch // 2))


def airlight(hazy: Tensor, luma: Tensor, dark: Tensor) -> Tensor:
    """Colour (B, 3, 1, 1) of the pixel of largest luma among the 0.1 % (at least one) of largest dark channel, in each image."""
    count = torch.sym_max(dark[0].numel() // 1000, 1)
    haziest = dark.flatten(1).topk(count).indices
    brightest = haziest.gather(1, luma.flatten(1).gather(1, haziest).argmax(1, keepdim=True))
    return hazy.flatten(2).gather(2, brightest[:, None].expand(-1, 3, -1))[..., None]


def guided_filter(guide: Tensor, image: Tensor, radius: int, eps: float) -> Tensor:
    """Edge-preserving mean of ``image`` (B, 1, H, W) along the edges of ``guide``; windows are cut at the border, so any size will do."""

    def mean(x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, (2 * radius + 1, 1), 1, (radius, 0), count_include_pad=False)
        return F.avg_pool2d(x, (1, 2 * radius + 1), 1, (0, radius), count_include_pad=False)

    mean_guide, mean_image = mean(guide), mean(image)
    slope = (mean(guide * image) - mean_guide * mean_image) / (mean(guide * guide) - mean_guide**2 + eps)
    return mean(slope) * guide + mean(mean_image - slope * mean_guide)


@register_model(
    paper="Single Image Haze Removal Using Dark Channel Prior, CVPR 2009",
    citation="K. He, J. Sun, X. Tang: Single Image Haze Removal Using Dark Channel Prior. CVPR 2009, 1956-1963",
    licence="no weights",
    url="https://doi.org/10.1109/CVPR.2009.5206515",
)
def dcp(patch: int = 15, omega: float = 0.95, t_min: float = 0.1, radius: int = 60, eps: float = 1e-4) -> DarkChannelPrior:
    return DarkChannelPrior(patch, omega, t_min, radius, eps)
