"""Normalised feature alignment: deformable warping of one decoder's feature onto another's (RIDCP, section 3.2).

The operator is torchvision's modulated deformable convolution (Zhu et al. 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from dehaze_zoo.errors import UsageError

WORKSPACE = 2**29
"""Bytes of the operator's work space above which it is called for a part of the channels at a time."""


class NonFiniteOffsets(UsageError):
    """The offsets of a deformable convolution hold NaN or infinity (torchvision's CPU operator would end the process)."""


class DeformableConv(nn.Module):
    """Modulated 3x3 deformable convolution of f (B, C, H, W), with offsets and masks (B, 27 * groups, H, W) as ``conv_offset`` gives them.

    Raises NonFiniteOffsets.
    """

    def __init__(self, width: int, groups: int = 4) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(width, width, 3, 3).uniform_(-1, 1) / (9 * width) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(width))
        self.conv_offset = nn.Conv2d(width, 27 * groups, 3, padding=1)  # per group 9 offsets (y, x); then per group 9 masks
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, f: Tensor, moves: Tensor) -> Tensor:
        offset, mask = moves.float().split((18 * self.groups, 9 * self.groups), dim=1)
        if torch.compiler.is_compiling():
            offset = offset.nan_to_num()  # a graph cannot raise; NaN would end the process that runs it
        # One sum instead of a map of flags: it is finite exactly when all are (or they are astronomically wrong).
        elif not bool(offset.detach().sum().isfinite()):
            raise NonFiniteOffsets("RIDCP's alignment got offsets that are not finite: the image or the weights hold NaN or infinity")
        with torch.autocast(f.device.type, enabled=False):
            out = self._convolve(f.float(), offset, mask)
        return out.to(f.dtype)

    def _convolve(self, f: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        parts, workspace = 1, 9 * f.numel() * 4
        if workspace <= WORKSPACE:
            return deform_conv2d(f, offset, weight, bias, padding=1, mask=mask.sigmoid())  # type: ignore[no-any-return]
        # The result is a sum over input channels: take each group's in ``parts`` parts and add up.
        while parts < f.shape[1] // self.groups and workspace > WORKSPACE * self.groups * parts:
            parts *= 2
        out: Tensor | None = None
        for group, (moved, masked) in enumerate(zip(offset.chunk(self.groups, 1), mask.chunk(self.groups, 1), strict=True)):
            shown = masked.sigmoid()
            for f_part, weight_part in zip(*(x.chunk(self.groups, 1)[group].chunk(parts, 1) for x in (f, weight)), strict=True):
                part = deform_conv2d(f_part, moved, weight_part, padding=1, mask=shown)
                out = part if out is None else out.add_(part)
        assert out is not None
        return out + bias[:, None, None]


class Alignment(nn.Module):
    """x + w * mean(x) / mean(w), w = f warped by what f and x (B, C, H, W) say together; means over each sample.

    Where |mean(w)| is below ``smallest`` that takes its place, so that the result stays finite.
    """

    smallest = 1e-6

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(2 * width, width, 3, padding=1)
        self.dcn = DeformableConv(width)

    def forward(self, f: Tensor, x: Tensor) -> Tensor:
        moves = self.dcn.conv_offset(self.offset(torch.cat((f, x), dim=1)))
        return self.add(x, self.dcn(f, moves))

    def add(self, x: Tensor, warped: Tensor) -> Tensor:
        """The sum, without the warping."""
        mean_x, mean_w = (y.float().mean(dim=(1, 2, 3), keepdim=True) for y in (x, warped))
        floor = torch.where(mean_w < 0, -self.smallest, self.smallest)
        ratio = mean_x / torch.where(mean_w.abs() < self.smallest, floor, mean_w)
        return torch.addcmul(x.float(), warped.float(), ratio).to(x.dtype)  # in half precision the ratio may be infinite
