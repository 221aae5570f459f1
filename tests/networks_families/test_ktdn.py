"""KTDN against the published program: output and transferred feature; sizes, gradients, files, ImageNet weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import parity
from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.errors import UsageError
from dehaze_zoo.networks import ktdn as family
from dehaze_zoo.networks.ktdn import KTDN
from dehaze_zoo.networks.registry import build_model


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> KTDN:
    """From a file in the authors' layout, the dead norm included."""
    path = tmp_path_factory.mktemp("ktdn") / "ktdn.pkl"
    torch.save({"model": {f"module.{key}": value for key, value in parity.state("ktdn", "ktdn").items()}}, path)
    made = create_model("ktdn", path)
    assert isinstance(made, KTDN)
    path.unlink()  # 200 MB
    return made


@torch.no_grad()
def test_output_and_feature_equal_the_published_ones(net: KTDN) -> None:
    hazy = parity.reference("ktdn", "ktdn/x")
    restored, transferred = net.restored_and_features(hazy)
    assert parity.error(restored, parity.reference("ktdn", "ktdn/y")) < 1e-5
    assert parity.error(transferred, parity.reference("ktdn", "ktdn/mid")) < 1e-5
    assert torch.equal(net(hazy), restored)
    assert torch.equal(net.features(hazy), transferred)


def test_parameter_count(net: KTDN) -> None:
    assert sum(parameter.numel() for parameter in net.parameters()) == 49_351_730


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (33, 47)])
def test_odd_sizes_are_the_reflected_image_cropped(net: KTDN, size: tuple[int, int]) -> None:
    hazy = torch.rand(2, 3, *size)
    restored = net(hazy)
    assert restored.shape == hazy.shape
    height, width = (max(32, -(-side // 16) * 16) for side in size)
    assert net.features(hazy).shape == (2, 1024, height // 16, width // 16)
    if size != (1, 1):
        padded = nn.functional.pad(hazy, (0, width - size[1], 0, height - size[0]), mode="reflect")
        torch.testing.assert_close(restored, net(padded)[..., : size[0], : size[1]])
    torch.testing.assert_close(restored[:1], net(hazy[:1]), rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    made = build_model("ktdn").train()
    made(torch.rand(2, 3, 32, 64)).square().mean().backward()
    assert [name for name, parameter in made.named_parameters() if parameter.grad is None or not parameter.grad.any()] == []


def test_imagenet_weights_from_a_file(tmp_path: Path) -> None:
    whole = timm.create_model(family.ENCODER, pretrained=False).state_dict()  # with layer4 and a classifier, as published
    torch.save(whole, tmp_path / "res2net.pth")
    made = build_model("ktdn", pretrained=str(tmp_path / "res2net.pth"))
    assert isinstance(made, KTDN)
    assert all(torch.equal(value, whole[key]) for key, value in made.encoder.state_dict().items())
    torch.save({"conv1.0.weight": whole["conv1.0.weight"]}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match="not timm's res2net101d"):
        build_model("ktdn", pretrained=str(tmp_path / "other.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UsageError, match=r"text\.pth: cannot be read"):
        build_model("ktdn", pretrained=str(tmp_path / "text.pth"))


def test_imagenet_weights_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def offline(url: str) -> str:
        asked.append(url)
        raise ConnectionError("no network")

    monkeypatch.setattr(family, "get_hf_file_metadata", offline)
    monkeypatch.setattr(family, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(family, "hf_hub_download", lambda *_: pytest.fail("its retries take half a minute"))
    with pytest.raises(UsageError, match=r"cannot be fetched from huggingface\.co.*\n.*model\.network\.pretrained=FILE"):
        build_model("ktdn", pretrained=True)
    assert family.IMAGENET in asked[0]
    # What was fetched once needs no network.
    file = tmp_path / "model.safetensors"
    whole = timm.create_model(family.ENCODER, pretrained=False).state_dict()
    save_file(whole, file)
    monkeypatch.setattr(family, "try_to_load_from_cache", lambda *_: str(file))
    made = build_model("ktdn", pretrained=True)
    assert isinstance(made, KTDN)
    assert all(torch.equal(value, whole[key]) for key, value in made.encoder.state_dict().items())
