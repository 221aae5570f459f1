"""Normalised feature alignment: deformable warping of one decoder's feature onto another's (RIDCP, section 3.2).

The operator is torchvision's modulated deformable convolution (Zhu et al. 2019).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from dehaze_zoo.errors import UsageError

WORKSPACE = 2**29
"""Bytes of the operator's work space above which it is called for a part of the channels at a time."""

PLACES = 4096
"""Places whose samples are held at a time, as many as a cache holds."""


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


class DeployedDeformableConv(DeformableConv):
    """A DeformableConv for evaluation on a CPU, on all threads: its samples are weighted bags of four neighbours (embedding_bag)."""

    def __init__(self, plain: DeformableConv) -> None:
        nn.Module.__init__(self)
        self.groups, self.weight, self.bias, self.conv_offset = plain.groups, plain.weight, plain.bias, plain.conv_offset

    def _convolve(self, f: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        b, c, h, w = f.shape
        groups, wide = self.groups, w + 3
        # With a border of zeros every sample has four neighbours: from beyond it, all weight falls on zeros.
        rows = f.new_zeros(b, h + 3, wide, c)
        rows[:, 1:-2, 1:-2] = f.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        weight = self.weight.float().permute(0, 2, 3, 1).reshape(c, 9 * c)
        tap, group = torch.arange(9), torch.arange(groups, dtype=torch.int32)[:, None, None, None]
        down, right = (tap // 3 - 1)[:, None, None].float(), (tap % 3 - 1)[:, None, None] + torch.arange(float(w))
        out = f.new_empty(b, c, h * w)
        step = max(1, PLACES // w)
        for i in range(b):
            for top in range(0, h, step):
                part = slice(top, min(top + step, h))
                moved, shown = offset[i, :, part].unflatten(0, (groups, 9, 2)), mask[i, :, part].unflatten(0, (groups, 9)).sigmoid()
                y = (moved[:, :, 0] + (down + torch.arange(float(part.start), part.stop)[:, None])).clamp_(-1, h)
                x = (moved[:, :, 1] + right).clamp_(-1, w)
                above, before = y.floor(), x.floor()
                below, after = y - above, (x - before) * shown
                first = ((above.int() + 1) * wide + (before.int() + 1)) * groups + group
                bags = torch.empty(*y.shape[2:], 9, groups, 4, dtype=torch.int32)
                shares = torch.empty(bags.shape)
                corners = ((0, 1 - below, shown - after), (1, 1 - below, after), (wide, below, shown - after), (wide + 1, below, after))
                for corner, (further, share_y, share_x) in enumerate(corners):
                    torch.add(first, further * groups, out=bags[..., corner].permute(3, 2, 0, 1))
                    torch.mul(share_y, share_x, out=shares[..., corner].permute(3, 2, 0, 1))
                near = rows[i].view(-1, c // groups)
                samples = F.embedding_bag(bags.view(-1, 4), near, per_sample_weights=shares.view(-1, 4), mode="sum")
                torch.mm(weight, samples.view(-1, 9 * c).t(), out=out[i, :, part.start * w : part.stop * w])
        return out.add_(self.bias.float()[:, None]).view(b, c, h, w)


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
