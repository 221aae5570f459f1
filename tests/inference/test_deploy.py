"""Deploy forms: equal to the plain network, chosen only where they pay, and never a reason to fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.data.images import from_pil
from dehaze_zoo.errors import UsageError
from dehaze_zoo.inference import deploy
from dehaze_zoo.inference.deploy import Compiled, Form, difference, fold, units
from dehaze_zoo.networks import gunet
from dehaze_zoo.networks.blocks.tiles import GlobalMean
from dehaze_zoo.networks.registry import list_models

PICTURE = from_pil(Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)))
OTHER = from_pil(Image.fromarray(np.zeros((48, 60, 3), np.uint8)))


def lively(name: str, **design: Any) -> nn.Module:
    """With norms as training leaves them, far from the identity."""
    torch.manual_seed(0)
    net = create_model(name, **design)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values, low, high in ((norm.running_mean, -0.3, 0.3), (norm.running_var, 0.5, 2), (norm.weight, 0.5, 1.5)):
                assert values is not None
                values.data.uniform_(low, high)
            norm.bias.data.uniform_(-0.3, 0.3)
    return net


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "fx_graph_cache", False)
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "name", [name for name in list_models() if name not in ("ridcp_nat", "ridcp_vqvae", "mprnet", "mprnet_80", "mprnet_96", "gunet_d")]
)
@torch.no_grad()
def test_folding_changes_only_the_rounding(name: str) -> None:
    net = lively(name).double()  # where rounding is next to nothing: untrained, KTDN makes much of it
    folded = fold(net)
    hazy = torch.rand(1, 3, 37, 45).double()
    assert (net(hazy) - folded(hazy)).abs().max() < 1e-5  # RIDCP has means in float32
    left = [type(part) for part in folded.modules() if isinstance(part, nn.BatchNorm2d)]
    assert left == []
    assert any(isinstance(part, nn.BatchNorm2d) for part in net.modules()) == name.startswith(("gunet", "ktdn"))


@pytest.mark.parametrize("size", [(1, 3, 37, 45), (2, 3, 24, 50), (1, 3, 1, 90)])
@pytest.mark.parametrize("band", [1, 5000])
@torch.no_grad()
def test_bands_equal_the_whole(size: tuple[int, ...], band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net, hazy = lively("gunet_t", width=8).double(), torch.rand(size).double()
    monkeypatch.setattr(gunet, "BAND", band)
    assert (fold(net)(hazy) - net(hazy)).abs().max() < 1e-10


def test_parallel_convolutions_are_one() -> None:
    net = lively("gunet_t")
    plain, folded = (sum(isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1) for part in n.modules()) for n in (net, fold(net)))
    assert plain - folded == 16  # one of three in each of the 16 blocks


def test_a_form_that_differs_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(network: nn.Module) -> nn.Module:
        return nn.Sequential(network, nn.Threshold(0.5, 0.6))

    monkeypatch.setattr(deploy, "fold", off)
    net = lively("gunet_t")
    form = Form(net, "auto")
    assert (form.name, form.network) == ("none", net)
    with pytest.raises(UsageError, match="no such form"):
        deploy.deploy(net, "folded")


def test_a_small_picture_never_pays_for_a_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(network: nn.Module, only: torch.Size) -> nn.Module:
        raise AssertionError

    monkeypatch.setattr(deploy, "compiled", never)
    form = Form(lively("gunet_t"), "auto")
    for took, left in ((0.5, 0), (0.5, 100), (0.5, 50), (0.5, 40)):
        form.consider(took, left, PICTURE, None)
    form.consider(3.0, 100, OTHER, None)  # of another size, so compiled for nothing
    form.consider(3.0, 100, PICTURE, None)
    form.consider(3.0, 99, PICTURE, None)
    assert form.name == "fold"
    with pytest.raises(AssertionError):
        form.consider(3.0, 98, PICTURE, None)


@pytest.mark.parametrize(
    ("apart", "fastest", "expected"), [(0.0, "compile", "compile"), (0.0, "fold", "fold"), (1e-3, "compile", "fold"), (0.0, "none", "none")]
)
def test_the_fastest_of_the_equal_forms_is_taken(apart: float, fastest: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = lively("gunet_t", width=8)
    form, candidate = Form(net, "auto"), nn.Identity()
    forms = {"none": net, "fold": form.network, "compile": candidate}
    monkeypatch.setattr(deploy, "compiled", lambda network, only: candidate)
    monkeypatch.setattr(deploy, "difference", lambda *args: apart)
    monkeypatch.setattr(deploy, "seconds", lambda network, hazy: 1.0 if network is forms[fastest] else 2.0)
    for left in (12, 11, 10):
        form.consider(1000.0, left, PICTURE, None)
    assert (form.name, form.network) == (expected, forms[expected])
    assert form.report()["form"]["differs_by"] is not None


class Small(nn.Module):
    """Layers worth compiling, and a mean that tiles share."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
        self.mean = GlobalMean()

    def forward(self, hazy: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = self.body(hazy)
        mean: torch.Tensor = self.mean(x)
        return x - mean + 0.5


def test_compiled_equals_plain_and_leaves_out_what_tiles_share() -> None:
    net = Small().eval()
    assert units(net) == [net.body]
    assert len(units(fold(lively("gunet_t", width=8, depth=1)))) == 7  # the stages, not the fusions
    made = Compiled(net, torch.Size((1, 3, 32, 40)))
    hazy = torch.rand(1, 3, 32, 40)
    assert difference(net, made, hazy) <= 1e-4
    assert made.failure == ""
    if torch.backends.mkldnn.is_available():
        with torch.no_grad(), torch.profiler.profile() as run:
            made(hazy)
        assert any("convolution_pointwise" in event.key for event in run.key_averages())  # of packed weights, with what follows in it
    mean = torch.full((1, 3, 1, 1), 0.25)
    hooks = [part.mean.register_forward_hook(lambda *_: mean) for part in (net, made.network)]  # type: ignore[union-attr]
    with torch.no_grad():
        for size in ((32, 40), (20, 40)):  # what tiles share is heeded, compiled and, at the border, not
            assert torch.allclose(made(torch.ones(1, 3, *size)), net(torch.ones(1, 3, *size)), atol=1e-4)
    for hook in hooks:
        hook.remove()
    assert made.failure == ""


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_it_goes_on_and_says_so() -> None:
    form = Form(lively("gunet_t", width=8, depth=1), "compile")
    form.consider(0.1, 0, PICTURE, None)
    assert "torch.compile does not work here" in form.said
    assert "\n" not in form.said
    assert form.difference is not None
    assert form.difference <= 1e-4


def test_a_network_that_picks_codes_is_not_compiled_and_says_so() -> None:
    net = lively("ridcp", codebook_size=16, width=32, depth=1)
    net.state_dict()["residual_conv.weight"].mul_(0.01)  # untrained, its pictures reach from -50 to 50
    form = Form(net, "compile")
    assert (form.name, form.said) == ("fold", "optimize=compile: compiling is not for this network; going on with optimize=fold")
    assert form.difference is not None
    assert form.difference <= 1e-4


def test_bf16_only_when_asked_and_its_difference_told() -> None:
    form = Form(lively("gunet_t"), "bf16")
    form.consider(0.1, 0, PICTURE, None)
    assert form.difference is not None
    assert 1e-5 < form.difference < 0.1
    assert f"{form.difference:.1e}" in form.said
