"""The module: terms by weight and name, published loss curves through its own optimiser, messages that name what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

import parity
import tiny
from dehaze_zoo.cli import compose
from dehaze_zoo.training.build import build_module
from dehaze_zoo.training.module import DehazingModule, Term
from dehaze_zoo.training.schedules import ConstantSchedule, NormSchedule

WITH_CURVE = {"gunet_t": 1.0, "mprnet_40": 0.5}
"""Networks whose published program's first losses are on record, and the gain of the weights they start from."""


def module_of(*overrides: str) -> DehazingModule:
    return build_module(compose("train", list(overrides)))


def batch(model: str, step: int) -> dict[str, Any]:
    count = parity.read("curves.json")[model]["batch"]
    hazy = torch.cat([parity.image(10000 + count * step + i, 64, 64) for i in range(count)])
    other = torch.cat([parity.image(30000 + count * step + i, 64, 64) for i in range(count)])
    return {"hazy": hazy, "clear": (hazy + other) / 2, "name": [str(i) for i in range(count)]}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def curve(model: str) -> list[float]:
    """Losses through the LightningModule and its configured optimiser, at the published curve's constant rate."""
    lr = {"gunet_t": 8e-4, "mprnet_40": 2e-4}[model]
    module = module_of(f"model={model}", f"model.optimizer.lr={lr}")
    gain = WITH_CURVE[model]
    module.network.load_state_dict({key: parity.fill(key, list(value.shape), gain) for key, value in module.network.state_dict().items()})
    (optimizer,) = module.configure_optimizers()
    module.train()
    losses = []
    for step in range(len(parity.read("curves.json")[model]["loss"])):
        loss = module.training_step(batch(model, step), step)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@pytest.mark.parametrize("model", sorted(WITH_CURVE))
def test_the_loss_curve_is_the_published_programs(model: str, monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]) -> None:
    """Within 1e-3, or where rounding alone does more on this machine, within twice that.

    gunet_t's course is chaotic: rounding grows tenfold every eight steps, so that sums in another order (another CPU or torch, threads, a
    fused optimiser) are 1e-3 off after some 30 steps. How far is measured: by the same steps on one thread.
    """
    monkeypatch.setattr(LightningModule, "log_dict", lambda *args, **kwargs: None)
    published = parity.read("curves.json")[model]["loss"]
    threads(2 if model == "gunet_t" else 1)
    ours = curve(model)
    bounds = [1e-3] * len(ours)
    if model == "gunet_t" and ours != pytest.approx(published, rel=1e-3):
        threads(1)
        apart = [abs(a - b) / b for a, b in zip(curve(model), ours, strict=True)]
        bounds = [max(1e-3, 2 * max(apart[: step + 1])) for step in range(len(ours))]
    assert max(bounds[:25]) == 1e-3  # a broken recipe is not to be mistaken for rounding
    for step, (loss, wanted, bound) in enumerate(zip(ours, published, bounds, strict=True)):
        assert loss == pytest.approx(wanted, rel=bound), f"step {step}"


def test_terms_compose_by_name_and_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(DehazingModule, "note", lambda self, figures, samples: logged.update(figures))
    module = module_of("loss=[l1,mse]", "loss.mse.weight=0.5", "model.loss_scale=3")
    data = batch("gunet_t", 0)
    restored = module(data["hazy"])
    apart = restored - data["clear"]
    loss = module.training_step(data, 0)
    assert logged["l1"].item() == pytest.approx(3 * apart.abs().mean().item(), rel=1e-4)
    assert logged["mse"].item() == pytest.approx(1.5 * apart.square().mean().item(), rel=1e-4)
    assert loss.item() == pytest.approx(logged["l1"].item() + logged["mse"].item())
    assert logged["loss"].item() == loss.item()


class Heavy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.judge = nn.Linear(2, 2)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs().mean()


def module_with(**losses: nn.Module) -> DehazingModule:
    return DehazingModule(
        nn.Conv2d(3, 3, 1),
        {name: Term(loss, 1.0) for name, loss in losses.items()},
        torch.optim.SGD,
        ConstantSchedule(max_epochs=1),
        NormSchedule(max_epochs=1),
    )


def test_the_state_dict_holds_the_network_alone() -> None:
    assert set(module_with(heavy=Heavy()).state_dict()) == {"network.weight", "network.bias"}


def test_only_trainable_parameters_reach_the_optimiser() -> None:
    module = module_with(heavy=Heavy())
    module.network.bias.requires_grad_(False)
    module.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.1)
    (optimizer,) = module.configure_optimizers()
    assert [p is module.network.weight for p in optimizer.param_groups[0]["params"]] == [True]


def test_another_memory_layout_changes_rounding_alone() -> None:
    plain, last = module_of(*tiny.NARROW), module_of(*tiny.NARROW, "model.channels_last=true")
    last.load_state_dict(plain.state_dict())
    hazy = batch("gunet_t", 0)["hazy"]
    assert last.layout is torch.channels_last
    assert torch.allclose(plain(hazy), last(hazy), atol=1e-5)
