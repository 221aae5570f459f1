"""Every loss of configs/loss: its yaml, its gradient, its dtypes; then each formula against plain numpy or a published figure."""

from __future__ import annotations

import importlib
import inspect
import urllib.error
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import squeezenet1_1

import dehaze_zoo.losses
import parity
from dehaze_zoo.errors import UsageError
from dehaze_zoo.losses import (
    CharbonnierLoss,
    EdgeLaplacianLoss,
    EdgeLoss,
    KnowledgeTransferLoss,
    L1Loss,
    LaplacianLoss,
    MSELoss,
    PerceptualLoss,
    SSIMLoss,
)
from dehaze_zoo.losses.base import ImageLoss
from dehaze_zoo.metrics.functional import ssim
from dehaze_zoo.networks.registry import build_model, list_models
from support import ROOT, shared_dir

YAMLS = sorted((ROOT / "configs" / "loss").glob("*.yaml"))
NEEDS_WEIGHTS = {"perceptual"}
Array = npt.NDArray[np.float64]


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in torchvision's layout of SqueezeNet, LPIPS' smallest backbone."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("backbone") / "squeezenet.pth"
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


def read(path: Path) -> tuple[type[ImageLoss], dict[str, Any]]:
    settings = yaml.safe_load(path.read_text())
    module, name = settings.pop("_target_").rsplit(".", 1)
    return getattr(importlib.import_module(module), name), settings


def built(path: Path, backbone: Path) -> ImageLoss:
    kind, _ = read(path)
    return PerceptualLoss("squeeze", backbone) if path.stem in NEEDS_WEIGHTS else kind()


def pair(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))  # type: ignore[return-value]


every_loss = pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)


@every_loss
def test_yaml_says_what_the_class_does(path: Path) -> None:
    kind, settings = read(path)
    assert path.read_text().startswith(f"# @package loss.{path.stem}\n")
    assert settings.pop("weight") == f"${{oc.select:model.recipe.weights.{path.stem},1.0}}"
    options = inspect.signature(kind).parameters if "__init__" in vars(kind) else {}
    assert settings == {name: option.default for name, option in options.items()}


def test_every_class_has_a_yaml() -> None:
    assert {read(path)[0] for path in YAMLS} >= {getattr(dehaze_zoo.losses, name) for name in dehaze_zoo.losses.__all__}


@every_loss
def test_gradient_in_float64(path: Path, backbone: Path) -> None:
    size = (1, 3, 32, 32) if path.stem in NEEDS_WEIGHTS else (2, 3, 9, 7)
    prediction, target = pair(*size, dtype=torch.float64)
    loss = built(path, backbone).double()
    assert torch.autograd.gradcheck(lambda images: loss(images, target), prediction.requires_grad_(), fast_mode=path.stem in NEEDS_WEIGHTS)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(path: Path, backbone: Path, dtype: torch.dtype) -> None:
    prediction, target = pair(2, 3, 40, 33, dtype=dtype)
    loss = built(path, backbone)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss(prediction.requires_grad_(), target)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, loss(prediction.float(), target.float()))
    got.backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize("kind", [MSELoss, CharbonnierLoss, EdgeLoss, EdgeLaplacianLoss, LaplacianLoss])
def test_fp16_values_whose_squares_overflow_stay_finite(kind: type[ImageLoss]) -> None:
    prediction = torch.full((1, 3, 8, 8), 3e4, dtype=torch.float16).requires_grad_()
    got = kind()(prediction, -prediction.detach())
    got.backward()
    assert got.isfinite()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize("kind", [CharbonnierLoss, EdgeLoss, EdgeLaplacianLoss])
def test_equal_images_have_a_finite_gradient(kind: type[ImageLoss]) -> None:
    images = torch.rand(1, 3, 8, 8).requires_grad_()
    kind()(images, images.detach().clone()).backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


@every_loss
def test_shapes_that_differ_are_refused(path: Path, backbone: Path) -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        built(path, backbone)(torch.rand(1, 3, 40, 40), torch.rand(1, 3, 1, 1))


@every_loss
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (13, 1)])
def test_any_size(path: Path, backbone: Path, size: tuple[int, int]) -> None:
    prediction, target = pair(1, 3, *size)
    if path.stem in NEEDS_WEIGHTS:
        with pytest.raises(UsageError, match="larger crops"):
            built(path, backbone)(prediction, target)
    else:
        assert built(path, backbone)(prediction, target).isfinite()


# --------------------------------------------------------------------------------------------------------- with every network

SMALL = {
    "gunet": {"width": 8, "depth": 1},
    "mprnet": {"width": 8, "unet_step": 4, "orsnet_step": 4},
    "ridcp": {"width": 32, "codebook_size": 32},
}
"""Designs by family, where the published one is slow; a new network is taken as it is."""


@cache
def restored(name: str) -> tuple[Any, Tensor, Tensor]:
    """A network, a hazy picture and what it makes of it; in eval mode, where batch norms take a single one."""
    torch.manual_seed(0)
    net = build_model(name, **SMALL.get(name.split("_")[0], {})).eval()
    hazy = pair(1, 3, 32, 32)[0].requires_grad_()
    return net, hazy, net(hazy)


@pytest.mark.parametrize("name", list_models())
@every_loss
def test_every_loss_with_every_network(path: Path, backbone: Path, name: str) -> None:
    """Something learns: the network where it can, else (identity, dcp) its picture would. Knowledge is transferred between features."""
    net, hazy, prediction = restored(name)
    clear = pair(1, 3, 32, 32)[1]
    if path.stem == "knowledge_transfer" and hasattr(net, "features"):
        prediction, clear = net.features(hazy), net.features(clear).detach()
    value = built(path, backbone)(prediction, clear)
    assert value.shape == ()
    assert value.isfinite()
    learning: list[Tensor] = [p for p in net.parameters() if p.requires_grad] or [hazy]
    grads = [grad for grad in torch.autograd.grad(value, learning, retain_graph=True, allow_unused=True) if grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    assert any(grad.any() for grad in grads)


# --------------------------------------------------------------------------------------------------------------------- formulas


def correlated(image: Array, kernel: Array) -> Array:
    """Borders repeated, loop by loop."""
    reach = len(kernel) // 2
    padded = np.pad(image, reach, mode="edge")
    height, width = image.shape
    return sum(kernel[y, x] * padded[y : y + height, x : x + width] for y in range(len(kernel)) for x in range(len(kernel)))  # type: ignore[no-any-return]


GAUSSIAN = np.outer([0.05, 0.25, 0.4, 0.25, 0.05], [0.05, 0.25, 0.4, 0.25, 0.05])


def residue(image: Array) -> Array:
    spread = np.zeros_like(image)
    spread[::2, ::2] = 4 * correlated(image, GAUSSIAN)[::2, ::2]
    return image - correlated(spread, GAUSSIAN)


def laplacian(image: Array) -> Array:
    return correlated(image, np.array([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]))


@pytest.mark.parametrize(("kind", "operator"), [(EdgeLoss, residue), (EdgeLaplacianLoss, laplacian)])
@pytest.mark.parametrize("size", [(8, 12), (7, 11), (1, 6)])
def test_edges_against_numpy(kind: type[ImageLoss], operator: Any, size: tuple[int, int]) -> None:
    prediction, target = pair(2, 3, *size, dtype=torch.float64)
    planes = [np.stack([operator(plane) for plane in images.flatten(0, 1).numpy()]) for images in (prediction, target)]
    wanted = np.sqrt((planes[0] - planes[1]) ** 2 + 1e-6).mean()
    assert float(kind()(prediction, target)) == pytest.approx(wanted, rel=1e-12)


def test_figures_of_the_published_program() -> None:
    figures = parity.read("mprnet_meta.json")["losses"]
    prediction, target = (parity.image(seed, *figures["size"]) for seed in figures["image_seeds"])
    assert float(CharbonnierLoss()(prediction, target)) == pytest.approx(figures["charbonnier"], rel=1e-6)
    assert float(EdgeLoss()(prediction, target)) == pytest.approx(figures["edge"], rel=1e-6)
    assert float(L1Loss()(prediction, target)) == pytest.approx(figures["l1"], rel=1e-6)


def test_plain_distances() -> None:
    prediction, target = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.5, 0.0]]]])
    assert float(L1Loss()(prediction, target)) == 0.75
    assert float(MSELoss()(prediction, target)) == 0.625
    assert float(CharbonnierLoss(eps=0.1)(prediction, target)) == pytest.approx((0.26**0.5 + 1.01**0.5) / 2)


def test_lap1_weighs_levels_by_powers_of_a_quarter() -> None:
    flat, other = torch.full((1, 3, 32, 48), 0.25), torch.full((1, 3, 32, 48), 0.75)
    assert float(LaplacianLoss()(flat, other)) == pytest.approx(0.5 / 4**4, rel=1e-4)  # a shift lives in the last level alone
    assert float(LaplacianLoss(levels=2)(flat, other)) == pytest.approx(0.5 / 4)
    stripes = torch.tensor([1.0, -1.0]).repeat(24).expand(1, 3, 32, 48)
    smooth = torch.linspace(-1, 1, 48).sin().expand(1, 3, 32, 48)
    zero = torch.zeros_like(smooth)
    assert float(LaplacianLoss()(stripes, zero)) > 0.9  # detail as fine as it gets lives in the first, whose weight is 1
    assert float(LaplacianLoss()(smooth, zero)) < 0.05


def test_ssim_is_the_metric() -> None:
    prediction, target = pair(2, 3, 20, 30)
    torch.testing.assert_close(SSIMLoss()(prediction, target), 1 - ssim(prediction, target).mean())
    assert float(SSIMLoss()(target, target)) == pytest.approx(0, abs=1e-6)


def test_knowledge_transfer_leaves_the_teacher_alone() -> None:
    student, teacher = (features.requires_grad_() for features in pair(2, 7, 3, 4))
    got = KnowledgeTransferLoss()(student, teacher)
    got.backward()
    torch.testing.assert_close(got, F.l1_loss(student, teacher))
    assert student.grad is not None
    assert teacher.grad is None


# -------------------------------------------------------------------------------------------------------------------- perceptual


def test_perceptual_by_hand(backbone: Path) -> None:
    prediction, target = pair(2, 3, 40, 50)
    loss = PerceptualLoss("squeeze", backbone).train()
    assert float(loss(target, target)) == 0
    layers = squeezenet1_1(weights=None)
    layers.load_state_dict(torch.load(backbone, weights_only=True))
    heads: list[Any] = [head.model[-1].weight for head in loss.lpips.network.lins]  # torchmetrics' own file
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    x, y = ((2 * images - 1 - shift) / scale for images in (prediction, target))
    wanted, taps = torch.zeros(()), iter(heads)
    for index, layer in enumerate(layers.features):
        x, y = layer(x), layer(y)
        if index in (1, 4, 7, 9, 10, 11, 12):
            units = [features / (features.square().sum(1, keepdim=True) + 1e-8).sqrt() for features in (x, y)]
            wanted = wanted + F.conv2d((units[0] - units[1]).square(), next(taps)).mean()
    torch.testing.assert_close(loss(prediction, target), wanted)


def test_perceptual_weights_stay_frozen_and_take_unclamped_images(backbone: Path) -> None:
    loss = PerceptualLoss("squeeze", backbone)
    prediction = (3 * torch.rand(1, 3, 32, 32) - 1).requires_grad_()
    loss(prediction, torch.rand(1, 3, 32, 32)).backward()
    assert prediction.grad is not None
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_perceptual_without_weights_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backbone: Path) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(UsageError, match=r"vgg16-.*\.pth cannot be fetched.\n.*weights=FILE"):
        PerceptualLoss()
    with pytest.raises(UsageError, match="Did you mean squeeze"):
        PerceptualLoss("sqeeze")
    with pytest.raises(UsageError, match="not weights of torchvision's alexnet"):
        PerceptualLoss("alex", backbone)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UsageError, match=r"text\.pth: cannot be read"):
        PerceptualLoss("vgg", tmp_path / "text.pth")


def test_perceptual_with_real_weights_prefers_what_looks_alike() -> None:
    loss = PerceptualLoss("alex", shared_dir() / "weights" / "alexnet_features_imagenet.pth")
    picture = parity.image(5, 64, 64)
    blurred = F.interpolate(F.avg_pool2d(picture, 4), scale_factor=4, mode="bilinear")
    brighter = (picture + F.mse_loss(blurred, picture).sqrt()).clamp(0, 1)
    assert loss(brighter, picture) < loss(blurred, picture)  # at equal squared error
