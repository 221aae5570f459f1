"""GCANet: smoothed dilated convolutions and a gated fusion of three levels. Chen et al., WACV 2019 (arXiv:1811.08747)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dehaze_zoo.networks.blocks.padding import crop_to, pad_reflect
from dehaze_zoo.networks.blocks.tiles import Tiling
from dehaze_zoo.networks.registry import register_model

WIDTH = 64
DILATIONS = (2, 2, 2, 4, 4, 4, 1)
"""Of the seven residual blocks; 1 is the plain one at the end."""


class InstanceNorm(nn.Module):
    """Affine instance normalisation of (B, C, H, W) without running statistics.

    torch's own refuses a map of one pixel in training; here that gives zero, its limit, then the bias.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.instance_norm(x, self.weight, self.bias, None, None, True, 0.1, 1e-5, torch.backends.cudnn.enabled)


class SharedConv(nn.Module):
    """One k x k kernel applied to every channel alike: smooths before a dilated convolution (its gridding, section 3.1 of the paper)."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1, kernel_size, kernel_size))
        with torch.no_grad():
            self.weight[0, 0, kernel_size // 2, kernel_size // 2] = 1  # starts as the identity

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.weight.expand(channels, -1, -1, -1)
        return F.conv2d(x, kernel, padding=self.weight.shape[-1] // 2, groups=channels)


class SmoothDilatedBlock(nn.Module):
    """Residual block of two 3x3 convolutions with the given dilation, each after a SharedConv where the dilation is more than 1."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        if dilation > 1:
            self.pre_conv1, self.pre_conv2 = SharedConv(2 * dilation - 1), SharedConv(2 * dilation - 1)
        self.smooth = dilation > 1
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm1 = InstanceNorm(WIDTH)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm2 = InstanceNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pre_conv1(x) if self.smooth else x
        y = self.norm1(self.conv1(y)).relu()
        y = self.pre_conv2(y) if self.smooth else y
        y = self.norm2(self.conv2(y))
        return (x + y).relu()  # type: ignore[no-any-return]


class GCANet(nn.Module):
    """``net(hazy)``: (B, 3, H, W) RGB in [0, 1] to hazy + residual, unclamped; any H, W >= 1 (reflected inside to even sides).

    Inside it works on grey levels 0..255, less 128, with an edge map as fourth channel. Attribute names follow the authors' file.
    """

    tiling = Tiling(reach=128, step=2, caveat="its instance norms are taken over the whole picture")

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(4, WIDTH, 3, padding=1, bias=False), InstanceNorm(WIDTH)
        self.conv2, self.norm2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), InstanceNorm(WIDTH)
        self.conv3, self.norm3 = nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False), InstanceNorm(WIDTH)
        for number, dilation in enumerate(DILATIONS, start=1):
            self.add_module(f"res{number}", SmoothDilatedBlock(dilation))
        self.gate = nn.Conv2d(3 * WIDTH, 3, 3, padding=1)
        self.deconv3, self.norm4 = nn.ConvTranspose2d(WIDTH, WIDTH, 4, stride=2, padding=1), InstanceNorm(WIDTH)
        self.deconv2, self.norm5 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), InstanceNorm(WIDTH)
        self.deconv1 = nn.Conv2d(WIDTH, 3, 1)

    def forward(self, hazy: Tensor) -> Tensor:
        grey = 255 * pad_reflect(hazy, 2)
        x = torch.cat([grey, edges(grey)], 1) - 128
        x = self.norm1(self.conv1(x)).relu()
        x = self.norm2(self.conv2(x)).relu()
        x = y1 = self.norm3(self.conv3(x)).relu()
        for number in range(1, 5):
            x = self.get_submodule(f"res{number}")(x)
        y2 = x
        for number in range(5, 8):
            x = self.get_submodule(f"res{number}")(x)
        gates = self.gate(torch.cat([y1, y2, x], 1))
        x = y1 * gates[:, 0:1] + y2 * gates[:, 1:2] + x * gates[:, 2:3]
        x = self.norm4(self.deconv3(x)).relu()
        x = self.norm5(self.deconv2(x)).relu()
        return hazy + crop_to(self.deconv1(x), hazy) / 255


def edges(image: Tensor) -> Tensor:
    """Mean over channels of the absolute differences to the four neighbours (a missing one counts 0), over 4: (B, 1, H, W)."""
    down = F.pad((image[..., 1:, :] - image[..., :-1, :]).abs(), (0, 0, 1, 1))  # row i: between i-1 and i; zero at both ends
    right = F.pad((image[..., :, 1:] - image[..., :, :-1]).abs(), (1, 1))
    around = down[..., :-1, :] + down[..., 1:, :] + right[..., :, :-1] + right[..., :, 1:]
    return around.mean(1, keepdim=True) / 4


@register_model(
    paper="Gated Context Aggregation Network for Image Dehazing and Deraining, WACV 2019",
    citation="D. Chen, M. He, Q. Fan, J. Liao, L. Zhang, D. Hou, L. Yuan, G. Hua: Gated Context Aggregation Network for Image Dehazing and "
    "Deraining. WACV 2019, 1375-1383",
    licence="research purposes only",
    url="https://arxiv.org/abs/1811.08747",
)
def gcanet() -> GCANet:
    return GCANet()
