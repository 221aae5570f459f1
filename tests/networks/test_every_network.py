"""What every registered network promises; a new one is covered the day it is registered."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.checkpoints.writing import write_safetensors
from dehaze_zoo.networks.registry import build_model, list_models, model_info

every_network = pytest.mark.parametrize("name", list_models())
SIZES = [(1, 1), (1, 7), (17, 23), (5, 64)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These maps are too small to share out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def network(name: str) -> nn.Module:
    """Shared by the tests that leave it as it is."""
    torch.manual_seed(0)
    return create_model(name)


def picture(batch: int, height: int, width: int) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height * width))


@every_network
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_any_size(name: str, size: tuple[int, int]) -> None:
    hazy = picture(1, *size)
    before = hazy.clone()
    restored = network(name)(hazy)
    assert restored.shape == hazy.shape
    assert restored.dtype == torch.float32
    assert torch.isfinite(restored).all()
    assert torch.equal(hazy, before), "the input was written to"


@every_network
@torch.no_grad()
def test_batch_mates_do_not_matter(name: str) -> None:
    net, hazy = network(name), picture(1, 21, 34)
    first = net(torch.cat([hazy, hazy.flip(3)]))[:1]
    again = net(torch.cat([hazy, 0.1 * hazy]))[:1]
    alone = net(hazy)
    assert (again - first).abs().max() <= 1e-6 * alone.std()
    assert (alone - first).abs().max() <= 0.01 * alone.std()  # other kernels at another batch size: rounding alone
    assert torch.equal(net(hazy), alone)


@every_network
def test_gradients_reach_every_trainable_parameter(name: str) -> None:
    """``net.LEARNT_APART`` names those that only a loss of their own reaches (a codebook's)."""
    torch.manual_seed(0)
    net = build_model(name)
    trainable = {key: p for key, p in net.named_parameters() if p.requires_grad and key not in getattr(net, "LEARNT_APART", ())}
    if not trainable:
        pytest.skip(f"{name} has nothing to learn")
    with torch.no_grad():
        for parameter in trainable.values():
            parameter.add_(0.02 * torch.randn_like(parameter))  # what starts at zero hides what lies behind it
    # Signs, so that a path that keeps the mean (a norm) still has a gradient.
    restored = net(picture(2, 34, 41))
    (restored * torch.randn_like(restored).sign()).sum().backward()
    without = [key for key, p in trainable.items() if p.grad is None or not p.grad.any()]
    assert not without, f"{len(without)} parameters without gradient: {without[:5]}"
    unfinite = [key for key, p in trainable.items() if p.grad is not None and not torch.isfinite(p.grad).all()]
    assert not unfinite


@every_network
@torch.no_grad()
def test_weights_survive_our_files(name: str, tmp_path: Path) -> None:
    hazy = picture(1, 17, 23)
    net = network(name)
    state = net.state_dict()
    files = []
    if state:
        files = [tmp_path / "net.safetensors", tmp_path / "last.ckpt"]
        write_safetensors(net, files[0], name)
        theirs = {"losses.perceptual.weight": torch.ones(3)}  # what a LightningModule may hold besides
        torch.save({"state_dict": {**{f"network.{key}": value for key, value in state.items()}, **theirs}, "epoch": 3}, files[1])
    for file in files:
        torch.manual_seed(1)
        again = create_model(name, file)
        file.unlink()
        assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
        assert torch.equal(again(hazy), net(hazy))


@every_network
def test_a_seed_makes_a_network(name: str) -> None:
    torch.manual_seed(0)
    again = build_model(name)
    assert again.training
    assert not network(name).training
    state = network(name).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in again.parameters())


@every_network
def test_facts_are_told(name: str) -> None:
    info = model_info(name)
    assert info.name == name
    assert info.paper
    assert info.parameters == sum(p.numel() for p in network(name).parameters())
