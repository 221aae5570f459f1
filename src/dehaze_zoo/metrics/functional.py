"""Per-image measures as functions: one figure an image, never pooled over a batch.

Images are float (B, C, H, W) in [0, 1]; nothing is clamped or rounded here, the protocols say how that is done.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from kornia.color import rgb_to_lab
from kornia.metrics import ssim as ssim_map
from torch import Tensor

PSNR_CAP = 100.0
"""dB given for equal images (a mean squared error of 1e-10 or less), so that means stay finite and JSON stays valid."""

SSIM_WINDOW = 11
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of MS-SSIM's five scales, the full size first (Wang et al., 2003)."""


def psnr(restored: Tensor, clear: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image over all its channels and pixels, in dB, at most ``PSNR_CAP``.

    ``restored``, ``clear``: (B, C, H, W), peak 1; returns (B,). Raises ValueError where the shapes differ.
    """
    _check(restored, clear)
    error = (restored - clear).square().flatten(1).mean(1)
    return -10 * error.clamp_min(10 ** (-PSNR_CAP / 10)).log10()


def ssim(restored: Tensor, clear: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al., 2004) as the field computes it; differentiable.

    Gaussian window of 11 pixels, sigma 1.5, K = (0.01, 0.03), data range 1, each channel on its own, mean over channels and
    over the positions where the window lies wholly inside. A side shorter than the window is first extended on both ends
    by its edge pixels (the field has no rule there), so that images of any size have a value.

    ``restored``, ``clear``: (B, C, H, W); returns (B,). Raises ValueError where the shapes differ.
    """
    _check(restored, clear)
    restored, clear = _at_least_a_window(restored), _at_least_a_window(clear)
    # kornia's rather than torchmetrics', which counts the reflected border in its mean and, in float32, gives flat equal
    # areas less than 1 (it clamps variances but not the covariance).
    return ssim_map(restored, clear, SSIM_WINDOW, max_val=1.0, eps=0.0, padding="valid").flatten(1).mean(1)


def ms_ssim(restored: Tensor, clear: Tensor) -> Tensor:
    """Multi-scale structural similarity of each image (Wang, Simoncelli, Bovik, 2003): SSIM's windows at five scales.

    Halved by 2x2 means, an odd last row or column left out; contrast and structure of every scale, luminance of the last, each channel
    on its own, negative means counted as 0. Whole windows only, as ``ssim``; torchmetrics' counts reflected borders.

    ``restored``, ``clear``: (B, C, H, W), data range 1; returns (B,). Raises ValueError where shapes differ or a side is below 176.
    """
    _check(restored, clear)
    if min(restored.shape[-2:]) < SSIM_WINDOW * 2 ** (len(SCALES) - 1):
        raise ValueError(f"MS-SSIM needs sides of {SSIM_WINDOW * 2 ** (len(SCALES) - 1)} pixels, these have {tuple(restored.shape[-2:])}")
    product = restored.new_ones(restored.shape[:2])
    for scale, weight in enumerate(SCALES):
        if scale:
            restored, clear = F.avg_pool2d(restored, 2), F.avg_pool2d(clear, 2)
        similarity, structure = _ssim_parts(restored, clear)
        product = product * (similarity if scale == len(SCALES) - 1 else structure).clamp_min(0) ** weight
    return product.mean(1)


def _ssim_parts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure factor alone, means over whole windows: (B, C) each."""
    channels = a.shape[1]
    taps = torch.exp(-((torch.arange(SSIM_WINDOW, dtype=a.dtype, device=a.device) - SSIM_WINDOW // 2) ** 2) / (2 * 1.5**2))
    taps = (taps / taps.sum()).expand(channels, 1, -1)

    def mean(image: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(image, taps[..., None], groups=channels), taps[:, :, None], groups=channels)

    mu_a, mu_b = mean(a), mean(b)
    structure = (2 * (mean(a * b) - mu_a * mu_b) + 0.03**2) / (mean(a * a) - mu_a**2 + mean(b * b) - mu_b**2 + 0.03**2)
    luminance = (2 * mu_a * mu_b + 0.01**2) / (mu_a**2 + mu_b**2 + 0.01**2)
    return (luminance * structure).mean((2, 3)), structure.mean((2, 3))


def ciede2000(restored: Tensor, clear: Tensor) -> Tensor:
    """Colour difference of each image, mean over its pixels; below 1 nobody sees it (CIE 142-2001; sRGB seen under D65).

    ``restored``, ``clear``: RGB (B, 3, H, W) in [0, 1]; returns (B,). Raises ValueError where the shapes differ.
    """
    _check(restored, clear)
    return delta_e_2000(rgb_to_lab(restored), rgb_to_lab(clear)).flatten(1).mean(1)


def delta_e_2000(first: Tensor, second: Tensor) -> Tensor:
    """CIEDE2000 of CIELAB colours (B, 3, H, W), as Sharma, Wu and Dalal (2005) write it; returns (B, H, W)."""
    (l1, a1, b1), (l2, a2, b2) = first.unbind(1), second.unbind(1)
    chroma = (a1.hypot(b1) + a2.hypot(b2)) / 2
    g = 1.5 - 0.5 * (chroma**7 / (chroma**7 + 25.0**7)).sqrt()
    c1, c2 = (a1 * g).hypot(b1), (a2 * g).hypot(b2)
    h1, h2 = (torch.atan2(b, a * g) % (2 * math.pi) for a, b in ((a1, b1), (a2, b2)))
    grey = c1 * c2 == 0
    apart = h2 - h1
    apart = torch.where(apart > math.pi, apart - 2 * math.pi, torch.where(apart < -math.pi, apart + 2 * math.pi, apart))
    apart = torch.where(grey, 0, apart)
    hue = (h1 + h2) / 2
    hue = torch.where((h1 - h2).abs() > math.pi, torch.where(h1 + h2 < 2 * math.pi, hue + math.pi, hue - math.pi), hue)
    hue = torch.where(grey, h1 + h2, hue)
    degrees = torch.rad2deg(hue)
    light, c = (l1 + l2) / 2, (c1 + c2) / 2
    t = (
        1
        - 0.17 * torch.cos(hue - math.radians(30))
        + 0.24 * torch.cos(2 * hue)
        + 0.32 * torch.cos(3 * hue + math.radians(6))
        - 0.20 * torch.cos(4 * hue - math.radians(63))
    )
    s_l = 1 + 0.015 * (light - 50) ** 2 / (20 + (light - 50) ** 2).sqrt()
    s_c, s_h = 1 + 0.045 * c, 1 + 0.015 * c * t
    turn = torch.deg2rad(60 * torch.exp(-(((degrees - 275) / 25) ** 2)))
    r_t = -2 * (c**7 / (c**7 + 25.0**7)).sqrt() * torch.sin(turn)
    d_l, d_c, d_h = (l2 - l1) / s_l, (c2 - c1) / s_c, 2 * (c1 * c2).sqrt() * torch.sin(apart / 2) / s_h
    return (d_l**2 + d_c**2 + d_h**2 + r_t * d_c * d_h).clamp_min(0).sqrt()


def luma(rgb: Tensor) -> Tensor:
    """Y of ITU-R BT.601 in studio range, as MATLAB's rgb2ycbcr has it: 16/255 for black to 235/255 for white, not rounded.

    ``rgb``: (B, 3, H, W) in [0, 1]; returns (B, 1, H, W).
    """
    weights = rgb.new_tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1)
    return ((rgb * weights).sum(1, keepdim=True) + 16) / 255


def pool_to_256(image: Tensor) -> Tensor:
    """Adaptive average pooling to (H // r, W // r), r = max(1, round(min(H, W) / 256)), halves rounded to even.

    SSIM's authors advise a short side of about 256; gUNet's test program does it this way. (B, C, H, W) in and out.
    """
    height, width = image.shape[-2:]
    ratio = max(1, round(min(height, width) / 256))
    return image if ratio == 1 else F.adaptive_avg_pool2d(image, (height // ratio, width // ratio))


def _check(restored: Tensor, clear: Tensor) -> None:
    if restored.shape != clear.shape or restored.ndim != 4:
        raise ValueError(f"two batches (B, C, H, W) of one shape are compared, not {tuple(restored.shape)} and {tuple(clear.shape)}")


def _at_least_a_window(image: Tensor) -> Tensor:
    missing = [max(0, SSIM_WINDOW - side) for side in image.shape[-2:]]
    if not any(missing):
        return image
    top, left = missing[0] // 2, missing[1] // 2
    return F.pad(image, (left, missing[1] - left, top, missing[0] - top), mode="replicate")
