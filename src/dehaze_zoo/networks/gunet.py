"""gUNet: a U-Net of gated convolutions. Song et al., "Rethinking Performance Gains in Image Dehazing Networks", 2022 (arXiv:2209.11448).

Attribute names follow the authors' checkpoints, so that their files load as they are.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from copy import deepcopy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dehaze_zoo.networks.blocks.forms import replace_all
from dehaze_zoo.networks.blocks.padding import crop_to, pad_reflect
from dehaze_zoo.networks.blocks.tiles import GlobalMean, Tiling
from dehaze_zoo.networks.registry import register_model


class GatedConv(nn.Module):
    """proj(value(x) * sigmoid(gate(x))), the gConv of the paper's section 3; (B, C, H, W) to the same, sides > kernel_size // 2."""

    def __init__(self, width: int, kernel_size: int, total_blocks: int) -> None:
        super().__init__()
        value, gate = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        depthwise = nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2, groups=width, padding_mode="reflect")
        self.Wv = nn.Sequential(value, depthwise)
        self.Wg = nn.Sequential(gate, nn.Sigmoid())
        self.proj = nn.Conv2d(width, width, 1)
        gain = (8 * total_blocks) ** -0.25  # keeps the sum of all residual branches in scale
        for conv in (value, depthwise, gate, self.proj):
            fans = conv.weight[0].numel() + conv.weight[:, 0].numel()
            nn.init.trunc_normal_(conv.weight, std=gain * math.sqrt(2 / fans))  # cut at the values -2 and 2
            conv.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.Wv(x) * self.Wg(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + gConv(BatchNorm(x))."""

    def __init__(self, width: int, kernel_size: int, total_blocks: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = GatedConv(width, kernel_size, total_blocks)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.norm(x))  # type: ignore[no-any-return]


BAND = 2**22
"""Values of a map that the form for evaluation takes at a time."""


class DeployedBlock(nn.Module):
    """A block (B, C, H, W) for evaluation alone, which may write over its input.

    Its norm is within the two 1x1 convolutions, and these are one; only rounding differs.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        value: Any = block.conv.Wv[0]
        gate: Any = block.conv.Wg[0]
        norm: Any = block.norm
        self.depthwise: Any = block.conv.Wv[1]
        self.proj = block.conv.proj
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        weight, bias = torch.cat((value.weight, gate.weight)), torch.cat((value.bias, gate.bias))
        self.both = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
        self.both.weight = nn.Parameter(weight * scale[:, None, None])
        self.both.bias = nn.Parameter(bias + (weight * shift[:, None, None]).sum((1, 2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or x.is_cuda:
            value, gate = self.both(x).chunk(2, 1)
            out: Tensor = x + self.proj(self.depthwise(value) * gate.sigmoid())
            return out
        for image in x.split(1):
            self._in_bands(image)
        return x

    def _in_bands(self, x: Tensor) -> None:
        """The same written over x (1, C, H, W), by bands of rows that stay in the cache, with the rows around that the kernel sees.

        Value and gate are made apart: halves of one map lie apart in memory, which costs more than to read x twice.
        """
        height, (around, _) = x.shape[2], self.depthwise.padding
        weight, bias = self.both.parameters()
        (to_value, to_gate), (value_bias, gate_bias) = weight.chunk(2), bias.chunk(2)
        rows = max(2 * around, math.ceil(height / math.ceil(x.numel() / BAND)))
        above = x[:, :, :0]  # the last rows of the band before, as they were
        for top in range(0, height, rows):
            end = min(top + rows, height)
            low, high = top - above.shape[2], min(height, end + around)
            written = x[:, :, low:top].clone()
            x[:, :, low:top] = above
            value = F.conv2d(x[:, :, low:high], to_value, value_bias)
            x[:, :, low:top] = written
            value = F.pad(value, (around, around, low - top + around, end + around - high), mode="reflect")
            value = F.conv2d(value, self.depthwise.weight, self.depthwise.bias, groups=value.shape[1])
            band = x[:, :, top:end]
            above = x[:, :, end - around : end].clone()
            gate = F.conv2d(band, to_gate, gate_bias)
            band.add_(self.proj(value.mul_(gate.sigmoid_())))


class Stage(nn.Module):
    """``depth`` blocks one after another."""

    def __init__(self, width: int, depth: int, kernel_size: int, total_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width, kernel_size, total_blocks) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)  # type: ignore[no-any-return]


class SKFusion(nn.Module):
    """Channelwise softmax mixture of two maps (B, C, H, W), weighed by their pooled sum (selective kernels, Li et al. 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(width // 8, 4)
        self.mlp = nn.Sequential(
            GlobalMean(), nn.Conv2d(width, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, 2 * width, 1, bias=False)
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        logits: Tensor = self.mlp(a + b)
        share: Tensor = logits.unflatten(1, (2, -1)).softmax(dim=1)
        return a * share[:, 0] + b * share[:, 1]


class DeployedFusion(nn.Module):
    """A fusion of a and b (B, C, H, W) for evaluation alone, which writes over ``a``."""

    def __init__(self, fusion: SKFusion) -> None:
        super().__init__()
        self.mlp = fusion.mlp

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        share = self.mlp(a.add_(b)).unflatten(1, (2, -1)).softmax(dim=1)
        return a.mul_(share[:, 0]).addcmul_(b, share[:, 1] - share[:, 0])  # a holds the sum by now


def _proj(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(proj=layer))  # the authors' keys have these layers under "proj"


class GUNet(nn.Module):
    """gUNet with ``depth`` blocks a stage (2 x depth at the bottleneck) and widths N, 2N, 4N, 8N, 4N, 2N, N for ``width`` N.

    ``net(hazy)``: (B, 3, H, W) RGB in [0, 1] to restored of the same shape, unclamped; any H, W >= 1 (reflected inside to
    multiples of 8, at least 24). The network itself works in [-1, 1]; with its global residual that is hazy + head / 2.
    """

    def __init__(self, depth: int, width: int = 24, kernel_size: int = 5) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width, 4 * width, 2 * width, width]
        depths = [depth, depth, depth, 2 * depth, depth, depth, depth]
        conv3 = partial(nn.Conv2d, kernel_size=3, padding=1, padding_mode="reflect")
        self.inconv = _proj(conv3(3, width))
        self.layers = nn.ModuleList(Stage(w, d, kernel_size, sum(depths)) for w, d in zip(widths, depths, strict=True))
        self.downs = nn.ModuleList(_proj(nn.Conv2d(w, 2 * w, 2, stride=2)) for w in widths[:3])
        self.ups = nn.ModuleList(_proj(nn.Sequential(nn.Conv2d(2 * w, 4 * w, 1), nn.PixelShuffle(2))) for w in widths[:3])
        self.skips = nn.ModuleList(nn.Conv2d(w, w, 1) for w in widths[:3])
        self.fusions = nn.ModuleList(SKFusion(w) for w in widths[:3])
        self.outconv = _proj(nn.Sequential(conv3(width, 3)))
        # The coarsest of the four scales must be larger than the depthwise kernel's reflection.
        self.smallest = 8 * (kernel_size // 2 + 1)
        # Measured at depth 2 on a trained network: 0.6/255 beyond 48 pixels, 0.01 beyond 64; what a stack sees grows with its root.
        self.tiling = Tiling(reach=8 * math.ceil(8 * math.sqrt(depth / 2)), step=8)

    def forward(self, hazy: Tensor) -> Tensor:
        x = 2 * pad_reflect(hazy, 8, minimum=self.smallest) - 1
        # On a CPU this layout takes 0.7 of the time. Not in training: its other rounding, grown over 50 steps, leaves the published curve.
        if x.device.type == "cpu" and not self.training:
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.inconv(x)
        skips = []
        for level in range(3):
            x = self.layers[level](x)
            skips.append(x)
            x = self.downs[level](x)
        x = self.layers[3](x)
        for level in (2, 1, 0):
            x = self.fusions[level](self.ups[level](x), self.skips[level](skips[level]))
            x = self.layers[6 - level](x)
        head: Tensor = self.outconv(x)
        return hazy + crop_to(head, hazy) / 2

    @torch.no_grad()
    def deployed(self) -> GUNet:
        """A copy for evaluation with fewer, larger steps; the same numbers but for rounding."""
        net = deepcopy(self).eval()
        replace_all(net, Block, DeployedBlock)
        replace_all(net, SKFusion, DeployedFusion)
        return net


_ORIGIN = {
    "paper": "Rethinking Performance Gains in Image Dehazing Networks, 2022",
    "citation": "Y. Song, Y. Zhou, H. Qian, X. Du: Rethinking Performance Gains in Image Dehazing Networks. arXiv:2209.11448, 2022",
    "licence": "MIT",
    "url": "https://arxiv.org/abs/2209.11448",
}


@register_model(**_ORIGIN)
def gunet_t(**overrides: Any) -> GUNet:
    return GUNet(**{"depth": 2, **overrides})


@register_model(**_ORIGIN)
def gunet_s(**overrides: Any) -> GUNet:
    return GUNet(**{"depth": 4, **overrides})


@register_model(**_ORIGIN)
def gunet_b(**overrides: Any) -> GUNet:
    return GUNet(**{"depth": 8, **overrides})


@register_model(**_ORIGIN)
def gunet_d(**overrides: Any) -> GUNet:
    return GUNet(**{"depth": 16, **overrides})
