"""AOD-Net: five small convolutions estimate K(x), which gathers transmission and airlight. Li et al., ICCV 2017."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dehaze_zoo.networks.blocks.tiles import Tiling
from dehaze_zoo.networks.registry import register_model


class AODNet(nn.Module):
    """``net(hazy)``: (B, 3, H, W) RGB in [0, 1] to relu(K * hazy - K + 1) (eq. 5 and 8 of the paper, b = 1); any H, W >= 1.

    Attribute names follow the known weight files.
    """

    tiling = Tiling(reach=1 + 2 + 3 + 1)  # halves of its kernels

    def __init__(self) -> None:
        super().__init__()
        self.e_conv1 = nn.Conv2d(3, 3, 1)
        self.e_conv2 = nn.Conv2d(3, 3, 3, padding=1)
        self.e_conv3 = nn.Conv2d(6, 3, 5, padding=2)
        self.e_conv4 = nn.Conv2d(6, 3, 7, padding=3)
        self.e_conv5 = nn.Conv2d(12, 3, 3, padding=1)

    def forward(self, hazy: Tensor) -> Tensor:
        x1 = self.e_conv1(hazy).relu()
        x2 = self.e_conv2(x1).relu()
        x3 = self.e_conv3(torch.cat([x1, x2], 1)).relu()
        x4 = self.e_conv4(torch.cat([x2, x3], 1)).relu()
        k: Tensor = self.e_conv5(torch.cat([x1, x2, x3, x4], 1)).relu()
        return (k * hazy - k + 1).relu()


@register_model(
    paper="AOD-Net: All-in-One Dehazing Network, ICCV 2017",
    citation="B. Li, X. Peng, Z. Wang, J. Xu, D. Feng: AOD-Net: All-in-One Dehazing Network. ICCV 2017, 4770-4778",
    licence="MIT (PyTorch port of the authors' weights)",
    url="https://openaccess.thecvf.com/content_iccv_2017/html/Li_AOD-Net_All-In-One_Dehazing_ICCV_2017_paper.html",
)
def aodnet() -> AODNet:
    return AODNet()
