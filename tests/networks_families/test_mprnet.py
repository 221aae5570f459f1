"""MPRNet against the published program: outputs of all stages, a training step, the loss curve's first steps; early exits, odd sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import parity
from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.checkpoints.reading import load_into
from dehaze_zoo.checkpoints.writing import write_safetensors
from dehaze_zoo.cli import compose
from dehaze_zoo.errors import UsageError
from dehaze_zoo.inference.export import export
from dehaze_zoo.inference.restore import load_for_others, load_network
from dehaze_zoo.losses import CharbonnierLoss, EdgeLoss
from dehaze_zoo.networks.mprnet import MPRNet, SharedPReLU, join, split
from dehaze_zoo.networks.registry import build_model


@pytest.fixture(scope="module")
def authors_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of the authors' checkpoints: one slope under 55 keys."""
    path = tmp_path_factory.mktemp("mprnet") / "model_deraining.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in parity.state("mprnet", "mprnet_40").items()}, "epoch": 1}, path)
    return path


@pytest.fixture
def net(authors_file: Path) -> MPRNet:
    made = create_model("mprnet_40", authors_file)
    assert isinstance(made, MPRNet)
    return made


def recipe_loss(outputs: list[Tensor], clear: Tensor) -> tuple[Tensor, Tensor]:
    charbonnier, edge = CharbonnierLoss(), EdgeLoss()
    sums = [torch.stack([loss(restored, clear) for restored in outputs]).sum() for loss in (charbonnier, edge)]
    return sums[0], sums[1]


@torch.no_grad()
def test_all_stages_equal_the_published_outputs(net: MPRNet) -> None:
    hazy = parity.reference("mprnet", "mprnet_40/x")  # 53 x 70
    outputs = net.stages(hazy)
    for stage, restored in enumerate(outputs, 1):
        assert parity.error(restored, parity.reference("mprnet", f"mprnet_40/stage{stage}")) < 1e-5
    assert torch.equal(net(hazy), outputs[-1])


def test_a_training_step_equals_the_published_one(net: MPRNet) -> None:
    figures = parity.read("mprnet_meta.json")["mprnet_40"]
    ((hazy,), (clear,)) = figures["train_batch_seeds"]
    size = figures["train_size"]
    charbonnier, edge = recipe_loss(net.train().stages(parity.image(hazy, size, size)), parity.image(clear, size, size))
    (charbonnier + 0.05 * edge).backward()
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert len(gradients) == len(list(net.parameters()))
    assert all(gradient.any() for gradient in gradients)
    assert float(charbonnier.detach()) == pytest.approx(figures["charbonnier_sum"], rel=1e-5)
    assert float(edge.detach()) == pytest.approx(figures["edge_sum"], rel=1e-5)
    assert float(torch.stack([gradient.norm() for gradient in gradients]).norm()) == pytest.approx(figures["train_grad_norm"], rel=1e-5)


def test_our_gradient_of_the_slope() -> None:
    features = torch.randn(2, 3, 5, 4, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    act = SharedPReLU().double()
    assert torch.autograd.gradcheck(lambda images, _: act(images), (features, act.weight))
    ours = torch.autograd.grad(act(features).square().sum(), (features, act.weight))
    wanted = torch.autograd.grad(torch.prelu(features, act.weight).square().sum(), (features, act.weight))
    torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize(("name", "parameters"), [("mprnet_40", 3_637_249), ("mprnet_80", 15_741_025), ("mprnet_96", 20_127_073)])
def test_parameter_counts(name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build_model(name).parameters()) == parameters


def test_trains_in_bfloat16(net: MPRNet) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net(torch.rand(1, 3, 16, 16)).mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())


@torch.no_grad()
@pytest.mark.parametrize("name", ["mprnet_80", "mprnet_96"])
def test_wider_ones_run(name: str) -> None:
    hazy = torch.rand(1, 3, 9, 5)
    assert [restored.shape for restored in build_model(name).eval().stages(hazy)] == [hazy.shape] * 3  # type: ignore[union-attr,operator]


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (7, 20), (16, 33)])
def test_odd_sizes_are_the_reflected_image_cropped(net: MPRNet, size: tuple[int, int]) -> None:
    hazy = torch.rand(2, 3, *size)
    restored = net(hazy)
    assert restored.shape == hazy.shape
    height, width = (-(-side // 8) * 8 for side in size)
    if size[0] > height - size[0] and size[1] > width - size[1]:  # where one reflection reaches
        padded = nn.functional.pad(hazy, (0, width - size[1], 0, height - size[0]), mode="reflect")
        torch.testing.assert_close(restored, net(padded)[..., : size[0], : size[1]])
    torch.testing.assert_close(restored[:1], net(hazy[:1]), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_batched_patches_are_the_patches_one_after_another(net: MPRNet) -> None:
    hazy = parity.image(3, 32, 48)
    encoded = net.stage1_encoder(net.shallow_feat1(split(split(hazy, -2), -1)))[2]
    whole = join(join(encoded, -1), -2)
    for top in (0, 16):
        for left in (0, 24):
            alone = net.stage1_encoder(net.shallow_feat1(hazy[..., top : top + 16, left : left + 24]))[2]
            torch.testing.assert_close(whole[..., top // 4 : top // 4 + 4, left // 4 : left // 4 + 6], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stages", [1, 2])
def test_early_exits_hold_and_run_only_what_they_need(net: MPRNet, authors_file: Path, stages: int) -> None:
    short = create_model("mprnet", authors_file, stages=stages)
    assert isinstance(short, MPRNet)
    hazy = torch.rand(1, 3, 17, 24)
    outputs = short.stages(hazy)
    assert len(outputs) == stages
    for ours, full in zip(outputs, net.stages(hazy), strict=False):
        torch.testing.assert_close(ours, full)
    sum(output.square().mean() for output in outputs).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in short.parameters())
    assert sum(p.numel() for p in short.parameters()) == {1: 999_801, 2: 2_053_321}[stages]
    with pytest.raises(UsageError, match="three stages"):
        build_model("mprnet", stages=4)


def test_an_early_exit_in_our_format_is_known_by_the_verbs(tmp_path: Path) -> None:
    small = ["+model.network.width=8", "+model.network.unet_step=4", "+model.network.orsnet_step=4"]
    short = build_model("mprnet_40", width=8, unet_step=4, orsnet_step=4, stages=1)
    torch.save({"state_dict": short.state_dict()}, tmp_path / "last.ckpt")
    files = [f"checkpoint='{tmp_path / 'last.ckpt'}'", f"output='{tmp_path / 'short.safetensors'}'"]
    export(compose("export", ["model=mprnet", "model.network.stages=1", *small, "format=safetensors", *files]), tmp_path)
    cfg = compose("predict", ["model=mprnet", f"checkpoint='{tmp_path / 'short.safetensors'}'"])
    again, _, design, _ = load_for_others(cfg.model.network, cfg.checkpoint)
    assert design == {"width": 8, "unet_step": 4, "orsnet_step": 4, "stages": 1}
    hazy = torch.rand(1, 3, 17, 24)
    assert torch.equal(again(hazy), short.eval()(hazy))
    given = dict(cfg.model.network)
    assert torch.equal(load_network(given.pop("name"), cfg.checkpoint, **given)(hazy), again(hazy))


def test_our_files_hold_the_slope_once(net: MPRNet, tmp_path: Path) -> None:
    assert sum(value.numel() for value in net.state_dict().values()) == 3_637_249
    path = tmp_path / "mprnet.safetensors"
    write_safetensors(net, path, "mprnet_40")
    other = build_model("mprnet_40")
    load_into(other, path)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in net.state_dict().items())


def test_files_that_are_not_mprnets(tmp_path: Path) -> None:
    state = parity.state("mprnet", "mprnet_40")
    torch.save({**state, "shallow_feat1.1.body.1.weight": torch.tensor([0.5])}, tmp_path / "slopes.pth")
    with pytest.raises(UsageError, match="several PReLU slopes"):
        create_model("mprnet", tmp_path / "slopes.pth")
    del state["tail.weight"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(UsageError, match=r"tail\.weight"):
        create_model("mprnet", tmp_path / "short.pth")
