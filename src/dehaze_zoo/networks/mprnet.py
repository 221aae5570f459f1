"""MPRNet: three supervised stages over quarters, halves and the whole image.

Zamir et al., "Multi-Stage Progressive Image Restoration", CVPR 2021. Parameter names are the authors' (but for the one PReLU).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from dehaze_zoo.errors import UsageError
from dehaze_zoo.networks.blocks.padding import crop_to, pad_reflect
from dehaze_zoo.networks.blocks.tiles import Tiling
from dehaze_zoo.networks.registry import register_model

SLOPE = "act.weight"
"""Our key of the PReLU that all attention blocks share; the authors' files repeat it under every ``*.body.1.weight``."""

NEEDED_FROM = {
    "shallow_feat2": 2, "concat12": 2, "stage2_encoder": 2, "stage2_decoder": 2, "sam12.conv1": 2, "sam12.conv3": 2, "sam23.conv2": 2,
    "shallow_feat3": 3, "concat23": 3, "stage3_orsnet": 3, "sam23.conv1": 3, "sam23.conv3": 3, "tail": 3,
}  # fmt: skip
"""The first stage that uses a part; every other part is stage 1's."""


def conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)


class _OneSlope(torch.autograd.Function):
    """PReLU of one slope. torch's own gradient of it writes two full tensors element by element on a CPU, 5 times slower."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(features, slope)
        return torch.prelu(features, slope)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        features, slope = ctx.saved_tensors
        of_slope = features.clamp_max(0).mul_(gradient).sum().view(1)
        positive = torch.ops.aten.threshold_backward(gradient, features, 0)
        return positive.lerp_(gradient, slope.to(gradient)), of_slope.to(slope)


class SharedPReLU(nn.PReLU):
    """The network's one activation."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type == "cpu" and torch.is_grad_enabled():
            activated: Tensor = _OneSlope.apply(input, self.weight)
            return activated
        return super().forward(input)


class ChannelAttention(nn.Module):
    """Factors (B, C, 1, 1) in 0..1 from each image's means."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(conv(width, width // 4, 1), nn.ReLU(), conv(width // 4, width, 1), nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        factors: Tensor = self.conv_du(features.mean((2, 3), keepdim=True))
        return factors


class CAB(nn.Module):
    """Channel attention block: x + attention * (conv, PReLU, conv)."""

    def __init__(self, width: int, act: nn.PReLU) -> None:
        super().__init__()
        self.shared = (act,)  # in a tuple: the network owns it, so that it is stored and counted once
        self.body = nn.ModuleDict({"0": conv(width, width, 3), "2": conv(width, width, 3)})
        self.CA = ChannelAttention(width)

    def forward(self, features: Tensor) -> Tensor:
        residual = self.body["2"](self.shared[0](self.body["0"](features)))
        return torch.addcmul(features, residual, self.CA(residual))


def cabs(width: int, count: int, act: nn.PReLU) -> list[nn.Module]:
    return [CAB(width, act) for _ in range(count)]


class Down(nn.Module):
    """Half the size (means of 2 x 2), then a 1x1 convolution to the next level's width."""

    def __init__(self, width: int, step: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.AvgPool2d(2), conv(width, width + step, 1))

    def forward(self, features: Tensor) -> Tensor:
        halved: Tensor = self.down(features)
        return halved


class Up(nn.Module):
    """Bilinear double size and a 1x1 convolution to the width of the level above."""

    def __init__(self, width: int, step: int) -> None:
        super().__init__()
        # The two commute (no bias, bilinear weights sum to 1), and the convolution is a quarter of the work before.
        resize = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.up = nn.Sequential(OrderedDict([("1", conv(width + step, width, 1)), ("0", resize)]))

    def forward(self, features: Tensor) -> Tensor:
        doubled: Tensor = self.up(features)
        return doubled


class Encoder(nn.Module):
    """Three levels of two CABs. With ``csff``, each level adds what the previous stage's encoder and decoder had there."""

    def __init__(self, width: int, step: int, act: nn.PReLU, csff: bool) -> None:
        super().__init__()
        self.encoder_level1 = nn.Sequential(*cabs(width, 2, act))
        self.encoder_level2 = nn.Sequential(*cabs(width + step, 2, act))
        self.encoder_level3 = nn.Sequential(*cabs(width + 2 * step, 2, act))
        self.down12 = Down(width, step)
        self.down23 = Down(width + step, step)
        if csff:
            for level in range(3):
                for origin in ("enc", "dec"):
                    self.add_module(f"csff_{origin}{level + 1}", conv(width + level * step, width + level * step, 1))

    def forward(self, features: Tensor, earlier: tuple[list[Tensor], list[Tensor]] | None = None) -> list[Tensor]:
        levels = []
        for level, (block, down) in enumerate(
            ((self.encoder_level1, None), (self.encoder_level2, self.down12), (self.encoder_level3, self.down23))
        ):
            features = block(features if down is None else down(features))
            if earlier is not None:
                for origin, known in zip(("enc", "dec"), earlier, strict=True):
                    features = features + self.get_submodule(f"csff_{origin}{level + 1}")(known[level])
            levels.append(features)
        return levels


class Decoder(nn.Module):
    """From the coarsest level up; the encoder's two finer levels come in through one CAB each."""

    def __init__(self, width: int, step: int, act: nn.PReLU) -> None:
        super().__init__()
        self.decoder_level1 = nn.Sequential(*cabs(width, 2, act))
        self.decoder_level2 = nn.Sequential(*cabs(width + step, 2, act))
        self.decoder_level3 = nn.Sequential(*cabs(width + 2 * step, 2, act))
        self.skip_attn1 = CAB(width, act)
        self.skip_attn2 = CAB(width + step, act)
        self.up21 = Up(width, step)
        self.up32 = Up(width + step, step)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        third = self.decoder_level3(levels[2])
        second = self.decoder_level2(self.up32(third) + self.skip_attn2(levels[1]))
        first = self.decoder_level1(self.up21(second) + self.skip_attn1(levels[0]))
        return [first, second, third]


class SAM(nn.Module):
    """Supervised attention: the stage's image, and (unless the stage is the last one run) the features it lets through."""

    def __init__(self, width: int, last: bool) -> None:
        super().__init__()
        self.conv2 = conv(width, 3, 1)
        if not last:
            self.conv1 = conv(width, width, 1)
            self.conv3 = conv(3, width, 1)

    def image(self, features: Tensor, image: Tensor) -> Tensor:
        restored: Tensor = self.conv2(features) + image
        return restored

    def features(self, features: Tensor, restored: Tensor) -> Tensor:
        return torch.addcmul(features, self.conv1(features), self.conv3(restored).sigmoid())


class ORB(nn.Module):
    """Original-resolution block: eight CABs and a convolution, residual."""

    def __init__(self, width: int, act: nn.PReLU) -> None:
        super().__init__()
        self.body = nn.Sequential(*cabs(width, 8, act), conv(width, width, 3))

    def forward(self, features: Tensor) -> Tensor:
        residual: Tensor = self.body(features)
        return residual + features


class ORSNet(nn.Module):
    """Stage 3's body at full size; after ORB k comes level k of stage 2, brought up to size."""

    def __init__(self, width: int, unet_step: int, step: int, act: nn.PReLU) -> None:
        super().__init__()
        self.orb1, self.orb2, self.orb3 = (ORB(width + step, act) for _ in range(3))
        for origin in ("enc", "dec"):
            self.add_module(f"up_{origin}1", Up(width, unet_step))
            self.add_module(f"up_{origin}2", nn.Sequential(Up(width + unet_step, unet_step), Up(width, unet_step)))
            for level in (1, 2, 3):
                self.add_module(f"conv_{origin}{level}", conv(width, width + step, 1))

    def forward(self, features: Tensor, encoded: list[Tensor], decoded: list[Tensor]) -> Tensor:
        for level, orb in enumerate((self.orb1, self.orb2, self.orb3)):
            features = orb(features)
            for origin, known in (("enc", encoded[level]), ("dec", decoded[level])):
                full = known if level == 0 else self.get_submodule(f"up_{origin}{level}")(known)
                features = features + self.get_submodule(f"conv_{origin}{level + 1}")(full)
        return features


def split(images: Tensor, dim: int) -> Tensor:
    """Both halves along ``dim``, one after the other in the batch: the same weights see them in one go."""
    return torch.cat(images.chunk(2, dim))


def join(halves: Tensor, dim: int) -> Tensor:
    """Undoes ``split``."""
    return torch.cat(halves.chunk(2), dim)


class MPRNet(nn.Module):
    """hazy (B, 3, H, W) RGB in [0, 1] -> restored, unclamped; any H, W >= 1 (reflect-padded to multiples of 8, cropped back).

    ``width``: features at full size; ``unet_step``, ``orsnet_step``: what a U-Net level and stage 3 have more. ``stages``: 1, 2 or 3, how
    many are built and run; the output is the last one's. UsageError for another number.
    """

    tiling = Tiling(reach=64, step=8, caveat="its first stage works on the quarters of a picture, its second on the halves")

    def __init__(self, width: int = 40, unet_step: int = 20, orsnet_step: int = 16, stages: int = 3) -> None:
        super().__init__()
        if stages not in (1, 2, 3):
            raise UsageError(f"MPRNet has three stages: stages={stages!r} is none of 1, 2, 3.")
        self.count = stages
        self.act = SharedPReLU()
        self.shallow_feat1 = nn.Sequential(conv(3, width, 3), CAB(width, self.act))
        self.stage1_encoder = Encoder(width, unet_step, self.act, csff=False)
        self.stage1_decoder = Decoder(width, unet_step, self.act)
        self.sam12 = SAM(width, last=stages == 1)
        if stages >= 2:
            self.shallow_feat2 = nn.Sequential(conv(3, width, 3), CAB(width, self.act))
            self.concat12 = conv(2 * width, width, 3)
            self.stage2_encoder = Encoder(width, unet_step, self.act, csff=True)
            self.stage2_decoder = Decoder(width, unet_step, self.act)
            self.sam23 = SAM(width, last=stages == 2)
        if stages == 3:
            self.shallow_feat3 = nn.Sequential(conv(3, width, 3), CAB(width, self.act))
            self.concat23 = conv(2 * width, width + orsnet_step, 3)
            self.stage3_orsnet = ORSNet(width, unet_step, orsnet_step, self.act)
            self.tail = conv(width + orsnet_step, 3, 3)

    def forward(self, hazy: Tensor) -> Tensor:
        return self.stages(hazy)[-1]

    def stages(self, hazy: Tensor) -> list[Tensor]:
        """The output of every stage, the first (on quarters) first; each (B, 3, H, W), unclamped."""
        image = pad_reflect(hazy, 8)
        if image.device.type == "cpu":  # its convolutions are faster in this layout, and every layer after keeps it
            image = image.contiguous(memory_format=torch.channels_last)
        return [crop_to(restored, hazy) for restored in self._stages(image)]

    def _stages(self, image: Tensor) -> list[Tensor]:
        halves = split(image, -2)
        # Stage 1: quarters, then (decoder) halves.
        encoded = [join(level, -1) for level in self.stage1_encoder(self.shallow_feat1(split(halves, -1)))]
        decoded = self.stage1_decoder(encoded)
        restored = self.sam12.image(decoded[0], halves)
        first = join(restored, -2)
        if self.count == 1:
            return [first]
        # Stage 2: halves, then (decoder) the whole.
        passed = self.sam12.features(decoded[0], restored)
        start = self.concat12(torch.cat((self.shallow_feat2(halves), passed), 1))
        encoded = [join(level, -2) for level in self.stage2_encoder(start, (encoded, decoded))]
        decoded = self.stage2_decoder(encoded)
        second = self.sam23.image(decoded[0], image)
        if self.count == 2:
            return [first, second]
        # Stage 3: the whole at full size.
        passed = self.sam23.features(decoded[0], second)
        start = self.concat23(torch.cat((self.shallow_feat3(image), passed), 1))
        third = self.tail(self.stage3_orsnet(start, encoded, decoded)) + image
        return [first, second, third]

    def import_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Authors' (or our) full state dict as this network takes it: one slope, nothing of stages that were not built.

        Raises UsageError where the file's slopes differ (they are one parameter in the design).
        """
        slopes = [value for key, value in state.items() if key.endswith(".body.1.weight") and value.numel() == 1]
        if any(not torch.equal(slope, slopes[0]) for slope in slopes):
            raise UsageError("these weights have several PReLU slopes, and MPRNet shares one: another network's, or altered.")
        later = tuple(f"{part}." for part, stage in NEEDED_FROM.items() if stage > self.count)
        kept = {k: v for k, v in state.items() if not k.startswith(later) and not (k.endswith(".body.1.weight") and v.numel() == 1)}
        return {**kept, **({SLOPE: slopes[0]} if slopes else {})}


_FACTS = {
    "paper": "Multi-Stage Progressive Image Restoration (CVPR 2021)",
    "citation": "Zamir, Arora, Khan, Hayat, Khan, Yang, Shao: Multi-Stage Progressive Image Restoration. CVPR 2021.",
    "licence": "academic, non-commercial (the authors' weights: deraining, deblurring, denoising)",
    "url": "https://arxiv.org/abs/2102.02808",
}


@register_model(**_FACTS)
def mprnet_40(**overrides: Any) -> MPRNet:
    """The deraining size."""
    return MPRNet(**overrides)


@register_model(**_FACTS)
def mprnet_80(**overrides: Any) -> MPRNet:
    """The denoising size."""
    return MPRNet(**{"width": 80, "unet_step": 48, "orsnet_step": 32, **overrides})


@register_model(**_FACTS)
def mprnet_96(**overrides: Any) -> MPRNet:
    """The deblurring size."""
    return MPRNet(**{"width": 96, "unet_step": 48, "orsnet_step": 32, **overrides})


register_model(mprnet_40, name="mprnet", **_FACTS)
