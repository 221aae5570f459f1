"""The U-Net discriminator with spectral normalisation (Wang et al., "Real-ESRGAN", 2021), of RIDCP's both stages."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class UNetDiscriminator(nn.Module):
    """Realness of every position: (B, ``channels``, H, W) to (B, 1, H, W) without a bound (hinge losses); H, W at least 8.

    Judges images (3 channels) in stage 1 and features (512) in stage 2.
    """

    def __init__(self, channels: int = 3, width: int = 64) -> None:
        super().__init__()

        def normalised(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
            return spectral_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=False))

        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList(normalised(width * 2**i, width * 2 ** (i + 1), 4, 2) for i in range(3))
        self.up = nn.ModuleList(normalised(width * 2 ** (i + 1), width * 2**i) for i in (2, 1, 0))
        self.refine = nn.ModuleList(normalised(width, width) for _ in range(2))
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skips = [F.leaky_relu(self.first(x), 0.2)]
        for conv in self.down:
            skips.append(F.leaky_relu(conv(skips[-1]), 0.2))
        x = skips.pop()
        for conv in self.up:
            skip = skips.pop()
            # To the skip's size: twice, but for a side that the stride did not halve evenly.
            x = F.leaky_relu(conv(F.interpolate(x, skip.shape[-2:], mode="bilinear")), 0.2) + skip
        for conv in self.refine:
            x = F.leaky_relu(conv(x), 0.2)
        return self.last(x)  # type: ignore[no-any-return]
