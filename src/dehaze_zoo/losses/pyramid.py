"""The two steps of Burt and Adelson's image pyramid (IEEE Trans. Communications 31(4), 1983), for the losses that look at detail."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def filtered(images: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
    """Each channel of (B, C, H, W) correlated with one (k, k) kernel, k odd; borders repeat the edge pixel. Keeps the size at stride 1."""
    channels, reach = images.shape[1], kernel.shape[-1] // 2
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(padded, kernel.to(images).expand(channels, 1, -1, -1), stride=stride, groups=channels)


def gaussian() -> Tensor:
    """The 5x5 outer product of (.05, .25, .4, .25, .05), which sums to 1."""
    row = torch.tensor([0.05, 0.25, 0.4, 0.25, 0.05], dtype=torch.float64)
    return torch.outer(row, row)


def blurred_half(images: Tensor) -> Tensor:
    """Every second pixel of the blurred images, the first included: (B, C, ceil(H / 2), ceil(W / 2))."""
    return filtered(images, gaussian(), stride=2)


def doubled(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The way back up to ``size`` (of which ``images`` is the blurred half): samples at even positions, linear between them."""
    height, width = images.shape[-2:]
    known = F.interpolate(images, size=(2 * height - 1, 2 * width - 1), mode="bilinear", align_corners=True)
    return F.pad(known, (0, size[1] - known.shape[-1], 0, size[0] - known.shape[-2]), mode="replicate")
