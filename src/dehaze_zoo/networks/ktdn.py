"""KTDN: a Res2Net-101 encoder, a decoder of feature attention, and a pooling enhancer; teacher and student are both this network.

Wu et al., "Knowledge Transfer Dehazing Network for NonHomogeneous Dehazing", CVPR workshops 2020. Parameter names are the authors'.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from torch import Tensor, nn
from torch.nn import functional as F

from dehaze_zoo.errors import UsageError
from dehaze_zoo.networks.blocks.padding import crop_to, pad_reflect
from dehaze_zoo.networks.blocks.tiles import GlobalMean, Tiling
from dehaze_zoo.networks.registry import register_model

ENCODER = "res2net101d"
"""timm's name of Res2Net-101 v1b 26w4s; its first three layers carry exactly the authors' keys."""
IMAGENET = "timm/res2net101d.in1k"
"""Where its ImageNet weights lie on huggingface.co."""

FROM_NOTHING = 0.2
"""Scale of the encoder's residual branches where it starts without ImageNet weights. At 1, thirty random branches bury the picture in noise
that the first minutes go into unlearning (240 steps of 8x64x64, same seed: 15.2 dB; at 0.2 16.4; the hazy input 12.2)."""

MEAN, STD = (0.64, 0.60, 0.58), (0.14, 0.15, 0.152)


class ChannelAttention(nn.Module):
    """Each channel times a factor in 0..1 from the image's means."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = GlobalMean()
        self.ca = nn.Sequential(nn.Conv2d(width, width // 8, 1), nn.ReLU(), nn.Conv2d(width // 8, width, 1), nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        factors: Tensor = self.ca(self.mean(features))
        return features * factors


class PixelAttention(nn.Module):
    """Each pixel times a factor in 0..1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pa = nn.Sequential(nn.Conv2d(width, width // 8, 1), nn.ReLU(), nn.Conv2d(width // 8, 1, 1), nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        factors: Tensor = self.pa(features)
        return features * factors


class FAM(nn.Module):
    """Feature attention module: two convolutions, channel and pixel attention, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.calayer = ChannelAttention(width)
        self.palayer = PixelAttention(width)

    def forward(self, features: Tensor) -> Tensor:
        residual = self.conv2(self.conv1(features).relu() + features)
        attended: Tensor = self.palayer(self.calayer(residual)) + features
        return attended


class Enhancer(nn.Module):
    """Adds the averages of 32, 16, 8 and 4 pixels to the features; 28 channels in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.refine1 = nn.Conv2d(28, 20, 3, padding=1)
        self.refine2 = nn.Conv2d(20, 20, 3, padding=1)
        self.conv1010, self.conv1020, self.conv1030, self.conv1040 = (nn.Conv2d(20, 1, 1) for _ in range(4))
        self.refine3 = nn.Conv2d(24, 28, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        features = F.leaky_relu(self.refine2(F.leaky_relu(self.refine1(features), 0.2)), 0.2)
        averages = []
        for kernel, conv in ((32, self.conv1010), (16, self.conv1020), (8, self.conv1030), (4, self.conv1040)):
            # Never a single row or column, to which an export of free sizes would be tied: one more, which is not read.
            average = F.leaky_relu(conv(F.pad(F.avg_pool2d(features, kernel), (0, 1, 0, 1))), 0.2)
            averages.append(_repeated(average, kernel, features))
        return torch.tanh(self.refine3(torch.cat((*averages, features), 1)))


def _repeated(average: Tensor, kernel: int, features: Tensor) -> Tensor:
    """The averages (B, 1, >= H // kernel, >= W // kernel) at the size of ``features``: the nearest, as ``interpolate`` takes it."""
    rows, columns = (torch.arange(side, device=average.device) * (side // kernel) // side for side in features.shape[-2:])
    return average.index_select(-2, rows).index_select(-1, columns)


class KTDN(nn.Module):
    """hazy (B, 3, H, W) RGB in [0, 1] -> restored in (-1, 1), unclamped; any H, W >= 1 (reflect-padded to multiples of 16, 32 at least).

    ``pretrained``: true fetches the encoder's ImageNet weights through timm, a path reads them from that file (timm's keys). Raises
    UsageError where they cannot be had or are another network's.
    """

    colour_mean: Tensor
    colour_std: Tensor
    tiling = Tiling(reach=128, step=32, caveat="its encoder sees further than the borders that tiles share")  # 32: the enhancer's averages

    def __init__(self, pretrained: bool | str | Path = False) -> None:
        super().__init__()
        # Not mean: so ONNX's writer calls the results of layers, and its checker wants names once.
        self.register_buffer("colour_mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("colour_std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.encoder = _encoder(pretrained)
        self.mid_conv = FAM(1024)
        self.attention1 = FAM(256)
        self.attention2 = FAM(192)
        self.enhancer = Enhancer()
        self.tail = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(28, 3, 7), nn.Tanh())

    def forward(self, hazy: Tensor) -> Tensor:
        return self.restored_and_features(hazy)[0]

    def features(self, hazy: Tensor) -> Tensor:
        """The transferred feature: (B, 1024, H / 16, W / 16) of the padded image. The rest of the decoder is not run."""
        return self._encoded(hazy)[-1]

    def restored_and_features(self, hazy: Tensor) -> tuple[Tensor, Tensor]:
        """What ``forward`` and ``features`` give, in one pass."""
        fine, middle, transferred = self._encoded(hazy)
        decoded = self.attention1(F.pixel_shuffle(transferred, 2))
        decoded = self.attention2(F.pixel_shuffle(torch.cat((decoded, middle), 1), 2))
        decoded = F.pixel_shuffle(F.pixel_shuffle(torch.cat((decoded, fine), 1), 2), 2)
        return crop_to(self.tail(self.enhancer(decoded)), hazy), transferred

    def _encoded(self, hazy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine, middle, coarse = self.encoder((pad_reflect(hazy, 16, minimum=32) - self.colour_mean) / self.colour_std)
        return fine, middle, self.mid_conv(coarse)

    @staticmethod
    def import_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Authors' state dict without its InstanceNorm, which nothing ever ran."""
        return {key: value for key, value in state.items() if not key.startswith("enhancer.batch1.")}


def _encoder(pretrained: bool | str | Path) -> nn.Module:
    # Not zero_init_last, timm's habit: no gradient would reach the residual branches at the first step.
    encoder: nn.Module = timm.create_model(ENCODER, features_only=True, out_indices=(1, 2, 3), zero_init_last=False)
    if pretrained is False:
        for name, module in encoder.named_modules():
            if name.endswith(".bn3"):  # each residual branch's last
                nn.init.constant_(module.weight, FROM_NOTHING)
        return encoder
    path = _fetched() if pretrained is True else str(pretrained)
    try:
        state = timm.models.load_state_dict(path, weights_only=True)
    except Exception as error:  # whatever the reader stumbles over, the file is the matter
        raise UsageError(f"{path}: cannot be read as a file of weights ({type(error).__name__}).") from error
    own = encoder.state_dict()
    strange = [key for key, value in own.items() if key not in state or state[key].shape != value.shape]
    if strange:
        raise UsageError(f"{path}: not timm's {ENCODER}: {strange[0]} and {len(strange) - 1} more of {len(own)} missing or misshapen.")
    encoder.load_state_dict({key: state[key] for key in own})
    return encoder


def _fetched() -> str:
    known = try_to_load_from_cache(IMAGENET, "model.safetensors")
    if isinstance(known, str):
        return known
    try:
        get_hf_file_metadata(hf_hub_url(IMAGENET, "model.safetensors"))  # the download would retry for half a minute
        return hf_hub_download(IMAGENET, "model.safetensors")
    except Exception as error:  # the hub's client has a dozen errors for being offline
        raise UsageError(
            f"the encoder's ImageNet weights ({IMAGENET}) cannot be fetched from huggingface.co ({type(error).__name__}).\n"
            "Give pretrained=FILE (model.network.pretrained=FILE) with its model.safetensors fetched elsewhere, or pretrained=false to\n"
            "start from random weights."
        ) from error


@register_model(
    paper="Knowledge Transfer Dehazing Network for NonHomogeneous Dehazing (CVPRW 2020)",
    citation="Wu, Liu, Xie, Qu, Ma: Knowledge Transfer Dehazing Network for NonHomogeneous Dehazing. CVPR Workshops 2020.",
    licence="none stated",
    url="https://openaccess.thecvf.com/content_CVPRW_2020/html/w31/Wu_Knowledge_Transfer_Dehazing_Network_for_NonHomogeneous_Dehazing_CVPRW_2020_paper.html",
)
def ktdn(**overrides: Any) -> KTDN:
    """The published size, the only one."""
    return KTDN(**overrides)
