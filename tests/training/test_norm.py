"""Frozen means that running statistics do not move, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dehaze_zoo.networks.registry import build_model
from dehaze_zoo.training.norm import set_norm_mode
from dehaze_zoo.training.schedules import NormSchedule


def network() -> nn.Sequential:
    instance_norm = nn.InstanceNorm2d(4, track_running_stats=True)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), instance_norm, nn.Dropout(), nn.BatchNorm2d(4))


def step(net: nn.Module) -> dict[str, torch.Tensor]:
    net(torch.randn(2, 3, 4, 4)).square().mean().backward()
    return {name: buffer.clone() for name, buffer in net.named_buffers()}


def gradient(parameter: object) -> torch.Tensor:
    assert isinstance(parameter, nn.Parameter)
    assert parameter.grad is not None
    return parameter.grad


def test_frozen_statistics_do_not_move_and_affine_weights_train() -> None:
    net = network()
    set_norm_mode(net, frozen=False)
    moved = step(net)
    assert any(not torch.equal(moved[name], buffer) for name, buffer in network().named_buffers())
    set_norm_mode(net, frozen=True)
    net.zero_grad()
    after = step(net)
    for name in (name for name in moved if "running" in name):
        assert torch.equal(after[name], moved[name]) == name.startswith(("1.", "4.")), name  # the instance norm (2.) is left alone
    assert gradient(net[1].weight).abs().sum() > 0
    assert gradient(net[1].bias).abs().sum() > 0
    assert net[3].training  # dropout goes on
    set_norm_mode(net, frozen=False)
    assert net[1].training


def test_the_published_whole_network_eval_is_an_option() -> None:
    net = network()
    set_norm_mode(net, frozen=True, whole_network=True)
    assert not any(module.training for module in net.modules())


def test_syncbn_is_frozen_likewise_and_keeps_the_keys() -> None:
    net = build_model("gunet_t")
    keys = list(net.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert list(converted.state_dict()) == keys
    set_norm_mode(converted, frozen=True)
    norms = [module for module in converted.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert norms
    assert not any(module.training for module in norms)
    assert converted.training


@pytest.mark.parametrize(("per_device", "gpus", "shared"), [(15, 2, True), (16, 2, False), (4, 1, False), (4, 0, False)])
def test_statistics_are_shared_below_16_per_gpu(per_device: int, gpus: int, shared: bool) -> None:
    assert NormSchedule(max_epochs=1, sync_below=16).synchronised(per_device, gpus) is shared
    assert NormSchedule(max_epochs=1).synchronised(per_device, gpus) is False
