"""RIDCP: dehazing by a codebook of high-quality features. Wu et al., CVPR 2023 (arXiv:2304.03994).

Stage 1 (``VQGAN``) learns a codebook and a decoder on clear images. Stage 2 (``RIDCP``) keeps both, frozen, and learns an encoder
that finds the clear codes in a hazy image, and a second decoder aligned to the first. Attribute names follow the authors' checkpoints.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dehaze_zoo.errors import UsageError
from dehaze_zoo.networks.blocks.alignment import Alignment, DeformableConv, DeployedDeformableConv
from dehaze_zoo.networks.blocks.forms import in_channels_last, replace_all
from dehaze_zoo.networks.blocks.neighbourhood import NeighbourhoodAttention
from dehaze_zoo.networks.blocks.padding import crop_to, extend_mirror, padded_size
from dehaze_zoo.networks.blocks.quantiser import MatchingQuantiser, VectorQuantiser
from dehaze_zoo.networks.blocks.swin import DeployedGroup, ResidualGroup, WindowAttention
from dehaze_zoo.networks.blocks.tiles import Tiling
from dehaze_zoo.networks.registry import register_model

PUBLISHED_ALPHA = 21.25
"""The strength that the authors found for their matching weights."""

WIDTH = 64
"""Published, of both stages."""

STRIP = 2**18
"""Values that the form for evaluation norms at a time."""

MULTIPLE = 32
"""Sides of what the inner networks take: windows of 8 on a grid of a quarter."""


class Norm(nn.Module):
    """GroupNorm of 32 groups."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)  # one level down, as in the checkpoints' names

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.contiguous())  # in channels_last PyTorch's own loses four digits on a CPU
        return normed


class ResBlock(nn.Module):
    """x + (norm, SiLU, 3x3 convolution) twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        halves = [[Norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)] for _ in range(2)]
        self.conv = nn.Sequential(*halves[0], *halves[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)  # type: ignore[no-any-return]


class DeployedResBlock(nn.Module):
    """A ResBlock (B, C, H, W) for evaluation in channels_last, where convolutions are faster; with norms that are exact there too."""

    def __init__(self, block: ResBlock) -> None:
        super().__init__()
        layers: Any = block.conv
        self.norm1, self.conv1, self.norm2, self.conv2 = layers[0].norm, layers[2], layers[3].norm, layers[5]

    def forward(self, x: Tensor) -> Tensor:
        x = _wide(x.contiguous(memory_format=torch.channels_last))
        y = _wide(self.conv1(_normed_silu(self.norm1, x, torch.empty_like(x))))
        return _wide(self.conv2(_normed_silu(self.norm2, y, y))).add_(x)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))  # norms of half precision lose too much


def _normed_silu(norm: nn.GroupNorm, x: Tensor, out: Tensor) -> Tensor:
    """SiLU of the norm of x (B, C, H, W), both in channels_last, into ``out``, which may be x; by strips that a cache holds."""
    for image, new in zip(*(y.permute(0, 2, 3, 1).flatten(1, 2) for y in (x, out)), strict=True):
        strips = image.split(STRIP // x.shape[1])
        near = strips[0].mean(0)  # sums of what is apart from it keep their digits where the mean is far from 0
        sums = torch.zeros(2, x.shape[1], dtype=torch.float64, device=x.device)
        for strip in strips:
            apart = strip - near
            sums[0] += apart.sum(0)
            sums[1] += apart.square_().sum(0)
        first, second = (sums / len(image)).unflatten(1, (norm.num_groups, -1))
        means = first + near.view(first.shape)
        mean = means.mean(1, keepdim=True)
        variance = (second - first.square() + (means - mean).square()).mean(1, keepdim=True)
        scale = norm.weight.view(first.shape) / (variance + norm.eps).sqrt()
        shift = (norm.bias.view(first.shape) - mean * scale).flatten().to(x.dtype)
        scale = scale.flatten().to(x.dtype)
        for strip, to in zip(strips, new.split(STRIP // x.shape[1]), strict=True):
            F.silu(torch.addcmul(shift, strip, scale, out=to), inplace=True)
    return out


def _down(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), ResBlock(2 * width), ResBlock(2 * width))


class Up(nn.Sequential):
    """(B, width, H, W) to (B, width / 2, 2 H, 2 W)."""

    def __init__(self, width: int) -> None:
        conv = nn.Conv2d(width, width // 2, 3, padding=1)
        super().__init__(nn.Upsample(scale_factor=2), conv, ResBlock(width // 2), ResBlock(width // 2))


def _up_at_once(up: Up) -> nn.Sequential:
    """``up`` with its upsampling and first convolution as one transposed one, of 4 instead of 9 taps for a pixel."""
    _, conv, *blocks = up
    assert isinstance(conv, nn.Conv2d)
    taps = conv.weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])  # two rows that repeat one share the sum of their weights
    at_once = nn.ConvTranspose2d(conv.in_channels, conv.out_channels, 4, stride=2, padding=1)
    at_once.weight = nn.Parameter(torch.einsum("ay,bx,oiyx->ioab", taps, taps, conv.weight))
    at_once.bias = conv.bias
    return nn.Sequential(at_once, *blocks)


class TransformerGroups(nn.Module):
    """The four residual groups of ``depth`` blocks at the end of stage 2's encoder."""

    def __init__(self, width: int, depth: int, attention: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.swin_blks = nn.ModuleList(ResidualGroup(width, depth, attention) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for group in self.swin_blks:
            x = group(x)
        return x


class Encoder(nn.Module):
    """Image (B, 3, H, W), sides multiples of 4, to features (B, 4 * width, H/4, W/4); ``last`` comes after the convolutions."""

    def __init__(self, width: int, last: nn.Module | None = None) -> None:
        super().__init__()
        if width % 32:
            raise UsageError(f"RIDCP of width {width}: must be a multiple of 32, its group norms have 32 groups")
        self.in_conv = nn.Conv2d(3, width, 4, padding=1)
        self.blocks = nn.ModuleList([_down(width), _down(2 * width)])
        if last is not None:
            self.blocks.append(last)

    def forward(self, image: Tensor) -> Tensor:
        x: Tensor = self.in_conv(image)
        for block in self.blocks:
            x = block(x)
        return x


class DecoderStep(nn.Module):
    """Doubles the sides and halves the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = Up(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)  # type: ignore[no-any-return]


class AlignedDecoder(nn.Module):
    """Stage 2's decoder: its steps (``upsampler``), each followed by the alignment to the frozen decoder's output of that step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.upsampler = nn.ModuleList([Up(4 * width), Up(2 * width)])
        self.warp = nn.ModuleList([Alignment(2 * width), Alignment(width)])


class AfterQuantisation(nn.Module):
    """8 * width channels of the codebook to the decoder's 4 * width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8 * width, 4 * width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


class Reconstruction(NamedTuple):
    """What stage 1 makes of an image, for its losses."""

    image: Tensor
    """(B, 3, H, W), unclamped."""
    features: Tensor
    """(B, 512, H/4, W/4) before quantisation."""
    vectors: Tensor
    """The codes' vectors, same shape; gradients reach the codebook through them, and nothing else."""
    codes: Tensor
    """int64 (B, H/4, W/4)."""


class VQGAN(nn.Module):
    """Stage 1: encoder, codebook of ``codebook_size`` x 512, decoder. VQ-VAE is the same network with another recipe.

    ``width`` 64 is published; the codebook has 8 times as many channels. Shapes below are of the published width.

    ``net(image)``: (B, 3, H, W) RGB in [0, 1] to its reconstruction, unclamped; any H, W >= 1, mirrored inside to multiples of 32.
    """

    tiling = Tiling(reach=96, step=MULTIPLE, caveat="its group norms are taken over the whole picture", refused=True)
    rounding_decides = True  # between codes: faster forms must not round the encoder otherwise
    LEARNT_APART = ("quantize_group.0.embedding.weight",)
    """Learns by the codebook loss alone: the gradient of the image passes straight through."""

    def __init__(self, codebook_size: int = 1024, width: int = WIDTH) -> None:
        super().__init__()
        self.multiscale_encoder = Encoder(width)
        self.before_quant_group = nn.ModuleList([nn.Conv2d(4 * width, 8 * width, 1)])
        self.quantize_group = nn.ModuleList([VectorQuantiser(codebook_size, 8 * width)])
        self.after_quant_group = nn.ModuleList([AfterQuantisation(width)])
        self.decoder_group = nn.ModuleList([DecoderStep(4 * width), DecoderStep(2 * width)])
        self.out_conv = nn.Conv2d(width, 3, 3, padding=1)
        self.residual_conv = nn.Conv2d(width, 3, 3, padding=1)
        self.residual_conv.requires_grad_(False)  # published stage-1 files carry it for stage 2; nothing here uses it

    def forward(self, image: Tensor) -> Tensor:
        return crop_to(self.reconstruct(extend(image)).image, image)

    def encode(self, image: Tensor) -> Tensor:
        """Codes of an image: int64 (B, h, w), a code for each 4 x 4 pixels of the image mirrored to multiples of 32."""
        codes: Tensor = self.quantiser.codes(self.unquantised(extend(image)))
        return codes

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Image (B, 3, 4h, 4w) of codes (B, h, w). Raises UsageError for a code that the codebook does not have."""
        size = self.quantiser.embedding.num_embeddings
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= size):
            raise UsageError(f"codes reach from {int(codes.min())} to {int(codes.max())}; this codebook has 0 to {size - 1}")
        return self._decode(self.quantiser.lookup(codes))

    def reconstruct(self, image: Tensor) -> Reconstruction:
        """For training: image with sides that are multiples of 32, taken as it is."""
        features = self.unquantised(image)
        quantised, codes = self.quantiser(features)
        return Reconstruction(self._decode(quantised), features, self.quantiser.lookup(codes), codes)

    def unquantised(self, image: Tensor) -> Tensor:
        """Features (B, 512, H/4, W/4) before quantisation, of an image with sides that are multiples of 32."""
        features: Tensor = self.before_quant_group[0](self.multiscale_encoder(image))
        return features

    @torch.no_grad()
    def quantised(self, image: Tensor) -> Tensor:
        """Vectors of the image's codes (B, 512, H/4, W/4): stage 2's target. Sides as for ``reconstruct``; no gradient."""
        vectors: Tensor = self.quantiser.lookup(self.quantiser.codes(self.unquantised(image)))
        return vectors

    @property
    def quantiser(self) -> VectorQuantiser:
        return self.quantize_group[0]  # type: ignore[return-value]

    def _decode(self, quantised: Tensor) -> Tensor:
        x: Tensor = self.after_quant_group[0](quantised)
        for step in self.decoder_group:
            x = step(x)
        return self.out_conv(x)  # type: ignore[no-any-return]

    @staticmethod
    def import_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The authors' stage-1 keys to ours: without the parts that only their training or their bookkeeping used."""
        return _without_dead_keys(state)


class Branches(NamedTuple):
    """What stage 2 makes of an image, for its losses."""

    restored: Tensor
    """The result (B, 3, H, W), unclamped."""
    reconstruction: Tensor
    """The frozen decoder's image, same shape."""
    features: Tensor
    """(B, 512, H/4, W/4) before quantisation."""
    codes: Tensor
    """int64 (B, H/4, W/4)."""


class RIDCP(nn.Module):
    """Stage 2. ``attention(width, i)`` builds the attention of block i of each group of ``depth``, for tokens of that width.

    ``codebook_size`` and ``width`` must be stage 1's.

    ``net(hazy, alpha=None)``: (B, 3, H, W) RGB in [0, 1] to restored, unclamped; any H, W >= 1, mirrored inside to at least one more
    multiple of 32, as published. ``alpha`` sets how strongly codes of haze are shunned, in the paper's sign (positive enhances, 0 is
    plain nearest code); by default the value stored with the matching weights, 0 without. Raises UsageError for an alpha without
    matching weights and (as NonFiniteOffsets) for NaN in the image. The codebook and its decoder are frozen from the start.
    """

    tiling = Tiling(reach=96, step=MULTIPLE, caveat="its group norms and alignment's means are taken over the whole picture", refused=True)
    rounding_decides = True  # between codes: faster forms must not round the encoder otherwise

    def __init__(self, attention: Callable[[int, int], nn.Module], codebook_size: int = 1024, width: int = WIDTH, depth: int = 6) -> None:
        super().__init__()
        self.multiscale_encoder = Encoder(width, TransformerGroups(4 * width, depth, partial(attention, 4 * width)))
        self.multiscale_decoder = AlignedDecoder(width)
        self.before_quant_group = nn.ModuleList([nn.Conv2d(4 * width, 8 * width, 1)])
        self.quantize_group = nn.ModuleList([MatchingQuantiser(codebook_size, 8 * width)])
        self.after_quant_group = nn.ModuleList([AfterQuantisation(width)])
        self.decoder_group = nn.ModuleList([DecoderStep(4 * width), DecoderStep(2 * width)])
        self.out_conv = nn.Conv2d(width, 3, 3, padding=1)
        self.residual_conv = nn.Conv2d(width, 3, 3, padding=1)
        for part in (self.quantize_group, self.after_quant_group, self.decoder_group, self.out_conv):
            part.requires_grad_(False)

    def forward(self, hazy: Tensor, alpha: float | None = None) -> Tensor:
        return crop_to(self.branches(extend(hazy, always=True), alpha).restored, hazy)

    def codes(self, hazy: Tensor, alpha: float | None = None) -> Tensor:
        """Codes of the extended image, int64 (B, (H // 32 + 1) * 8, (W // 32 + 1) * 8)."""
        return self.quantiser.codes(self.unquantised(extend(hazy, always=True)), self.quantiser.factor(alpha))

    def unquantised(self, image: Tensor) -> Tensor:
        """Features (B, 512, H/4, W/4) before quantisation, of an image with sides that are multiples of 32."""
        return self._encoded(image)[1]

    def _encoded(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x: Tensor = self.multiscale_encoder(image)
        return x, self.before_quant_group[0](x)

    def branches(self, image: Tensor, alpha: float | None = None) -> Branches:
        """Both decoders' images, for an image with sides that are multiples of 32, taken as it is."""
        x, features = self._encoded(image)
        f, codes = self.quantiser(features, self.quantiser.factor(alpha))
        f = self.after_quant_group[0](f)
        x = x.detach()  # the losses on the image reach the encoder through the codes alone
        decoder = self.multiscale_decoder
        for frozen_step, step, warp in zip(self.decoder_group, decoder.upsampler, decoder.warp, strict=True):
            f = frozen_step(f)
            x = warp(f, step(x))
        return Branches(self.residual_conv(x), self.out_conv(f), features, codes)

    @torch.no_grad()
    def deployed(self) -> RIDCP:
        """A copy for evaluation, on a CPU with fewer steps in less memory. Up to the codes the sums are the same in the same order."""
        net = deepcopy(self).eval()
        if self.out_conv.weight.device.type != "cpu":
            return net
        replace_all(net, ResidualGroup, DeployedGroup)
        replace_all(net, DeformableConv, DeployedDeformableConv)
        for after_codes in (net.after_quant_group, net.decoder_group, net.multiscale_decoder):
            replace_all(after_codes, ResBlock, DeployedResBlock)
            replace_all(after_codes, Up, _up_at_once)
            in_channels_last(after_codes)
        return net

    def start_from(self, stage1: VQGAN) -> None:
        """Takes over every weight that stage 1 has too. Raises UsageError where codebooks or widths differ."""
        (ours, wide), (theirs, stage1_wide) = (net.quantiser.embedding.weight.shape for net in (self, stage1))
        if ours != theirs:
            raise UsageError(f"stage 1 has a codebook of {theirs} codes, this network one of {ours}; it takes codebook_size={theirs}")
        if wide != stage1_wide:
            raise UsageError(f"stage 1 has width {stage1_wide // 8}, this network {wide // 8}; it takes width={stage1_wide // 8}")
        self.load_state_dict(stage1.state_dict(), strict=False)

    def set_matching(self, frequency_gap: Tensor, alpha: float) -> None:
        """Stores matching weights f = P_haze - P_clear (codes,), the paper's sign, and the alpha to use by default.

        Raises UsageError for another number of codes, and for weights or an alpha that are not finite.
        """
        size = self.quantiser.embedding.num_embeddings
        if frequency_gap.shape != (size,):
            raise UsageError(f"matching weights of shape {tuple(frequency_gap.shape)} do not fit a codebook of {size} codes")
        if not (frequency_gap.isfinite().all() and math.isfinite(alpha)):
            raise UsageError(f"matching weights that are not finite numbers, or alpha={alpha:g}: the file is damaged or another's")
        self.quantiser.frequency_gap.copy_(frequency_gap)
        self.quantiser.alpha.fill_(alpha)

    @property
    def quantiser(self) -> MatchingQuantiser:
        return self.quantize_group[0]  # type: ignore[return-value]

    @staticmethod
    def import_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The authors' keys to ours: dead ones dropped, the matching vector negated into the paper's sign, with the published alpha.

        A state dict of ours passes unchanged. Without a matching vector there is none.
        """
        state = _without_dead_keys(state)
        at = "quantize_group.0."
        theirs = state.pop(at + "weight", None)
        book = state.get(at + "embedding.weight")
        if theirs is not None:
            state[at + "frequency_gap"] = -theirs
            state[at + "alpha"] = torch.tensor(PUBLISHED_ALPHA if bool(theirs.any()) else 0.0)
        elif book is not None and at + "frequency_gap" not in state:
            state[at + "frequency_gap"] = torch.zeros(len(book))
            state[at + "alpha"] = torch.zeros(())
        return state


def design_of(state: dict[str, Tensor]) -> dict[str, int]:
    """codebook_size, width and, of stage 2, depth of the network that a state dict is of. Raises UsageError where it holds no codebook."""
    book = state.get("quantize_group.0.embedding.weight")
    if book is None or book.ndim != 2:
        raise UsageError("holds no codebook: not RIDCP's weights")
    blocks = {re.match(r"multiscale_encoder\.blocks\.2\.swin_blks\.0\.residual_group\.blocks\.(\d+)\.", key) for key in state}
    numbers = {int(block[1]) for block in blocks if block}
    return {"codebook_size": len(book), "width": book.shape[1] // 8, **({"depth": len(numbers)} if numbers else {})}


def extend(image: Tensor, always: bool = False) -> Tensor:
    """Mirrors (B, 3, H, W) right and below to multiples of 32; ``always`` adds at least a pixel, as RIDCP's own program does."""
    h, w = (padded_size(side + always, MULTIPLE) for side in image.shape[-2:])
    return extend_mirror(image, h, w)


def _without_dead_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drops geometry (attention masks, position indices) and the parts of the semantic term."""
    ends, starts = (".attn_mask", ".relative_position_index"), ("conv_semantic.", "vgg_feat_extractor.")
    return {key: value for key, value in state.items() if not key.endswith(ends) and not key.startswith(starts)}


_ORIGIN = {
    "paper": "RIDCP: Revitalizing Real Image Dehazing via High-Quality Codebook Priors, CVPR 2023",
    "citation": "R.-Q. Wu, Z.-P. Duan, C.-L. Guo, Z. Chai, C. Li. CVPR 2023, arXiv:2304.03994",
    "licence": "CC BY-NC 4.0 (the authors' weights)",
    "url": "https://github.com/RQ-Wu/RIDCP_dehazing",
}


@register_model(**_ORIGIN)
def ridcp(**overrides: Any) -> RIDCP:
    """RIDCP with shifted-window attention, 8 heads, windows of 8: 29,479,902 parameters."""
    return RIDCP(lambda width, i: WindowAttention(width, 8, window=8, shift=4 * (i % 2)), **overrides)


@register_model(**_ORIGIN)
def ridcp_nat(**overrides: Any) -> RIDCP:
    """RIDCP with neighbourhood attention, kernel 7, in place of the shifted windows."""
    return RIDCP(lambda width, _: NeighbourhoodAttention(width, 8, kernel=7), **overrides)


@register_model(**_ORIGIN)
def ridcp_vqgan(**overrides: Any) -> VQGAN:
    """Stage 1 of RIDCP, trained as a VQGAN: 6,273,542 parameters."""
    return VQGAN(**overrides)


@register_model(**_ORIGIN)
def ridcp_vqvae(**overrides: Any) -> VQGAN:
    """Stage 1 of RIDCP, trained as a plain VQ-VAE."""
    return VQGAN(**overrides)
