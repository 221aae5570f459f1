"""gUNet against the published program: keys, counts, forward, a training step, init."""

from __future__ import annotations

import math

import pytest
import torch

import parity
from dehaze_zoo.networks.gunet import GUNet, SKFusion
from dehaze_zoo.networks.registry import build_model

PARAMETERS = {"gunet_t": 844_899, "gunet_s": 1_477_059, "gunet_b": 2_741_379, "gunet_d": 5_270_019}
WITH_FIXTURE = ["gunet_t", "gunet_b"]


def published(name: str) -> GUNet:
    net = build_model(name)
    assert isinstance(net, GUNet)
    net.load_state_dict(parity.state("gunet", name))
    return net


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in build_model(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", WITH_FIXTURE)
def test_keys_are_the_authors(name: str) -> None:
    ours = {key: list(value.shape) for key, value in build_model(name).state_dict().items()}
    assert ours == parity.read("gunet_keys.json")[name]


@pytest.mark.parametrize("name", WITH_FIXTURE)
@torch.no_grad()
def test_forward_equals_the_published_one(name: str) -> None:
    hazy, restored = parity.reference("gunet", f"{name}/x"), parity.reference("gunet", f"{name}/y")
    assert parity.error(published(name).eval()(hazy), restored) < 1e-5


@pytest.mark.parametrize("name", WITH_FIXTURE)
def test_a_training_step_equals_the_published_one(name: str) -> None:
    figures = parity.read("gunet_meta.json")[name]
    size = figures["train_size"]
    hazy, clear = (torch.cat([parity.image(seed, size, size) for seed in seeds]) for seeds in figures["train_batch_seeds"])
    net = published(name).train()
    loss = 2 * (net(hazy) - clear).abs().mean()  # the L1 in [-1, 1]
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in net.parameters() if p.grad is not None]).norm()
    assert loss.item() == pytest.approx(figures["train_loss"], rel=1e-5)
    assert norm.item() == pytest.approx(figures["train_grad_norm"], rel=1e-4)


def test_the_layout_of_memory_changes_only_the_rounding() -> None:
    net = published("gunet_t").train()
    for norm in net.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.eval()  # the whole net in evaluation, but in the layout of training
    hazy = parity.image(1, 40, 33)
    with torch.no_grad():
        plain = net(hazy)
        assert parity.error(net.eval()(hazy), plain) < 1e-5


def test_init_of_the_blocks_and_of_the_rest() -> None:
    torch.manual_seed(0)
    net = build_model("gunet_b")
    weights = net.state_dict()
    gain = (8 * 64) ** -0.25  # gunet_b has 64 blocks
    for key, fans in {"Wv.0": 2 * 192, "Wv.1": 25 + 192 * 25, "Wg.0": 2 * 192, "proj": 2 * 192}.items():
        deviations = [weights[f"layers.3.blocks.{block}.conv.{key}.weight"].std().item() for block in range(16)]
        assert sum(deviations) / 16 == pytest.approx(gain * math.sqrt(2 / fans), rel=0.03)
        assert not weights[f"layers.3.blocks.0.conv.{key}.bias"].any()
    assert weights["downs.0.proj.weight"].abs().max().item() == pytest.approx(1 / math.sqrt(24 * 4), rel=0.01)  # torch's default
    assert weights["inconv.proj.bias"].any()


def test_fusion_is_a_share_of_both_paths() -> None:
    fusion = SKFusion(24)
    share = fusion(torch.ones(2, 24, 4, 4), torch.zeros(2, 24, 4, 4))  # that of the first path
    assert 0 < share.min() < share.max() < 1
    same = torch.rand(2, 24, 4, 4)
    assert torch.allclose(fusion(same, same), same, atol=1e-6)


def test_overrides_of_the_design() -> None:
    net = build_model("gunet_t", depth=1, width=8, kernel_size=3)
    assert len(net.get_submodule("layers.3.blocks")) == 2  # type: ignore[arg-type]
    assert net(torch.rand(1, 3, 5, 9)).shape == (1, 3, 5, 9)
