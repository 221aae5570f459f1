"""The baselines: counts, what their formulas promise on pictures one can work out, and the known weights where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.inference.restore import load_network
from dehaze_zoo.networks.dcp import airlight, dark_channel, guided_filter
from dehaze_zoo.networks.gcanet import InstanceNorm, SharedConv, edges
from dehaze_zoo.networks.registry import model_info
from support import shared_dir


def test_parameter_counts() -> None:
    assert [model_info(name).parameters for name in ("aodnet", "gcanet", "dcp", "identity")] == [1_761, 702_818, 0, 0]


def test_identity_is_the_input() -> None:
    hazy = torch.rand(2, 3, 4, 5)
    assert torch.equal(create_model("identity")(hazy), hazy)


def test_aodnet_with_a_constant_k() -> None:
    net = create_model("aodnet")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.get_parameter("e_conv5.bias").fill_(2)  # K = 2: J = relu(2 I - 1)
        hazy = 1.5 * torch.rand(1, 3, 6, 7)  # unclamped above
        assert torch.allclose(net(hazy), (2 * hazy - 1).relu())


def test_gcanet_edges_and_norm() -> None:
    image = torch.zeros(1, 3, 3, 3)
    image[0, 0, 1, 1] = 12
    assert edges(image)[0, 0].tolist() == [[0, 1, 0], [1, 4, 1], [0, 1, 0]]  # 12 / 3 channels / 4 neighbours
    norm, x = InstanceNorm(5), torch.randn(2, 5, 6, 7)
    torch.nn.init.normal_(norm.weight)
    expected = torch.nn.InstanceNorm2d(5, affine=True)
    expected.load_state_dict(norm.state_dict())
    assert torch.allclose(norm(x), expected(x), atol=1e-6)
    one = torch.randn(1, 5, 1, 1)  # which torch's own refuses in training
    assert torch.allclose(norm(one).flatten(), norm.bias, atol=1e-4)
    assert torch.allclose(SharedConv(3)(x), x)


def test_dark_channel_is_the_least_of_the_neighbourhood() -> None:
    image = torch.rand(2, 3, 20, 9)
    dark = dark_channel(image, 15)
    for row, column in [(0, 0), (10, 4), (19, 8)]:
        window = image[1, :, max(row - 7, 0) : row + 8, max(column - 7, 0) : column + 8]
        assert dark[1, 0, row, column] == window.min()


def test_airlight_is_the_brightest_of_the_haziest() -> None:
    hazy = torch.full((1, 3, 40, 50), 0.2)  # 2000 pixels: the two of largest dark channel count
    hazy[..., 0, 0] = torch.tensor([0.7, 0.7, 0.7])
    hazy[..., 5, 5] = torch.tensor([0.8, 0.6, 0.9])
    hazy[..., 9, 9] = torch.tensor([1.0, 1.0, 0.0])  # brightest of all, but not hazy
    dark, luma = hazy.amin(1, keepdim=True), hazy.mean(1, keepdim=True)
    assert torch.allclose(airlight(hazy, luma, dark).flatten(), torch.tensor([0.8, 0.6, 0.9]))


def test_guided_filter_keeps_edges_of_the_guide_and_solves_its_least_squares() -> None:
    guide = torch.rand(1, 1, 12, 15, dtype=torch.float64)
    assert torch.allclose(guided_filter(guide, 3 * guide + 1, 4, 0.0), 3 * guide + 1)  # a linear map of the guide is its own fit
    image, radius, eps = torch.rand_like(guide), 2, 0.1
    slopes, offsets = np.zeros((12, 15)), np.zeros((12, 15))

    def window(x: Tensor, i: int, j: int) -> np.ndarray:
        return x[0, 0, max(i - radius, 0) : i + radius + 1, max(j - radius, 0) : j + radius + 1].numpy()

    for i in range(12):
        for j in range(15):
            g, p = window(guide, i, j), window(image, i, j)
            slopes[i, j] = ((g * p).mean() - g.mean() * p.mean()) / (g.var() + eps)
            offsets[i, j] = p.mean() - slopes[i, j] * g.mean()
    a, b = (torch.from_numpy(x)[None, None] for x in (slopes, offsets))
    expected = window(a, 5, 6).mean() * guide[0, 0, 5, 6] + window(b, 5, 6).mean()
    assert torch.allclose(guided_filter(guide, image, radius, eps)[0, 0, 5, 6], expected)


def test_dcp_takes_off_a_haze_of_its_own_model() -> None:
    clear = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))  # dark everywhere within 15 pixels
    clear[..., :8, :8] = 0.8
    hazy = clear * 0.5 + 0.8 * 0.5
    restored = create_model("dcp", omega=1.0)(hazy)
    assert (restored - clear).square().mean() < 0.1 * (hazy - clear).square().mean()


def sots(step: int) -> list[tuple[Tensor, Tensor]]:
    """Every ``step``-th of the 80 pairs of the SOTS subset."""
    root = shared_dir() / "data" / "sots_indoor_subset"
    hazy = sorted(path for path in root.rglob("*_*.png"))[::step]
    clear = {path.stem: path for path in root.rglob("*.png") if "_" not in path.stem}

    def read(path: Path) -> Tensor:
        return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None] / 255

    return [(read(path), read(clear[path.stem.split("_")[0]])) for path in hazy]


@pytest.mark.parametrize(
    ("name", "weights", "step", "lowest", "highest"),
    [
        ("aodnet", "aodnet/dehazer.pth", 10, 22.67, 22.71),  # ours, where all 80 pairs give 19.685
        ("gcanet", "gcanet/wacv_gcanet_dehaze.pth", 40, 30.62, 30.66),  # ours, where all 80 pairs give 29.206
        ("dcp", None, 10, 19, 23),  # 20.74
        ("gunet_t", "shipped", 10, 26.33, 26.43),  # where all 80 pairs give its card's 22.93
    ],
)
@torch.no_grad()
def test_plausible_figures_on_a_few_sots_pairs(name: str, weights: str | None, step: int, lowest: float, highest: float) -> None:
    pairs = sots(step)
    net = load_network(name, weights if weights in (None, "shipped") else shared_dir() / "weights" / weights)
    psnr = [-10 * (net(hazy).clamp(0, 1) - clear).square().mean().log10() for hazy, clear in pairs]
    assert lowest <= float(torch.stack(psnr).mean()) <= highest
