"""Per-image measures as functions: one figure an image, never pooled over a batch.

Images are float (B, C, H, W) in [0, 1]; nothing is clamped or rounded here, the protocols say how that is done.
"""

from __future__ import annotations

import torch.nn.functional as F
from kornia.metrics import ssim as ssim_map
from torch import Tensor

PSNR_CAP = 100.0
"""dB given for equal images (a mean squared error of 1e-10 or less), so that means stay finite and JSON stays valid."""

SSIM_WINDOW = 11


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
