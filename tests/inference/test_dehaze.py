"""dehaze(): each kind of image gives the same kind, restored by the same network."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import dehaze_zoo
from dehaze_zoo.errors import ImageError, UsageError
from dehaze_zoo.inference.restore import choose_device, load_network, restore


@pytest.fixture(scope="module")
def hazy() -> np.ndarray:
    random = np.random.default_rng(3)
    return np.clip(np.linspace(90, 210, 40)[None, :, None] + random.normal(0, 12, (28, 40, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gunet_t with weights large enough that the result leaves [0, 1] before clamping."""
    torch.manual_seed(0)
    network = dehaze_zoo.create_model("gunet_t")
    state = {key: value * 3 if value.ndim == 4 else value for key, value in network.state_dict().items()}
    file = tmp_path_factory.mktemp("weights") / "gunet_t.safetensors"
    save_file(state, file)
    return file


def test_every_kind_gives_its_own_kind_and_the_same_picture(hazy: np.ndarray, weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "hazy.png"
    Image.fromarray(hazy).save(file)
    scaled = torch.tensor(hazy).permute(2, 0, 1) / 255
    with torch.no_grad():
        raw = dehaze_zoo.create_model("gunet_t", weights)(scaled[None])
    assert raw.min() < 0 or raw.max() > 1
    expected = raw.clamp(0, 1)

    batch = dehaze_zoo.dehaze(torch.stack([scaled, scaled.flip(-1)]), checkpoint=weights)
    assert torch.allclose(batch[:1], expected, atol=1e-5)
    assert batch.dtype == torch.float32
    assert not batch.requires_grad
    single = dehaze_zoo.dehaze(scaled.double(), checkpoint=weights)
    assert (single.shape, single.dtype) == (scaled.shape, torch.float64)
    assert torch.allclose(single.float(), expected[0], atol=1e-5)

    reference = expected[0].permute(1, 2, 0).numpy()
    floats = dehaze_zoo.dehaze(hazy.astype(np.float64) / 255, checkpoint=str(weights))
    assert floats.dtype == np.float64
    assert np.allclose(floats, reference, atol=1e-5)
    levels = np.rint(reference * 255)
    for result in (
        dehaze_zoo.dehaze(hazy, checkpoint=weights),
        dehaze_zoo.dehaze(file, checkpoint=weights),
        dehaze_zoo.dehaze(str(file), checkpoint=weights),
        dehaze_zoo.dehaze(Image.fromarray(hazy), checkpoint=weights),
    ):
        assert np.asarray(result).dtype == np.uint8
        assert np.abs(np.asarray(result) - levels).max() <= 1
    assert isinstance(dehaze_zoo.dehaze(file, checkpoint=weights), Image.Image)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("mode", "expected"), [("L", "L"), ("LA", "LA"), ("RGBA", "RGBA"), ("P", "RGB"), ("CMYK", "RGB"), ("1", "L"), ("I;16", "I;16")]
)
def test_modes_of_pil_images(hazy: np.ndarray, mode: str, expected: str) -> None:
    image = Image.fromarray(hazy[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(hazy).convert(mode)
    restored = dehaze_zoo.dehaze(image, model="identity")
    assert (restored.mode, restored.size) == (expected, image.size)
    if mode == expected:
        assert np.array_equal(np.asarray(restored), np.asarray(image))


def test_networks_without_weights_need_no_checkpoint(hazy: np.ndarray) -> None:
    assert np.array_equal(dehaze_zoo.dehaze(hazy, model="identity"), hazy)
    restored = dehaze_zoo.dehaze(hazy, model="dcp", checkpoint=None)
    assert np.abs(restored.astype(int) - hazy).mean() > 3


def test_a_network_with_weights_needs_some() -> None:
    with pytest.raises(UsageError, match="aodnet"):
        load_network("aodnet")


def test_subnormal_weights_are_zero_and_show_nowhere(hazy: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = dehaze_zoo.create_model("aodnet")
    with torch.no_grad():
        network.get_parameter("e_conv3.weight")[0] = 1e-40
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    loaded = load_network("aodnet", tmp_path / "weights.safetensors")
    tiny = torch.finfo(torch.float32).tiny
    assert any(bool(((weight != 0) & (weight.abs() < tiny)).any()) for weight in network.parameters())
    for name, weight in network.named_parameters():
        assert torch.equal(loaded.get_parameter(name), torch.where(weight.abs() < tiny, 0, weight)), name
    given = torch.from_numpy(hazy.copy()).permute(2, 0, 1)[None] / 255
    assert torch.equal(restore(loaded, given), restore(network, given))


def test_a_file_written_anew_is_read_anew(hazy: np.ndarray, weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(weights.read_bytes())
    first = dehaze_zoo.dehaze(hazy, checkpoint=file)
    assert np.array_equal(dehaze_zoo.dehaze(hazy, checkpoint=file), first)
    torch.manual_seed(1)
    save_file(dehaze_zoo.create_model("gunet_t").state_dict(), file)
    os.utime(file, ns=(1, 1))
    assert not np.array_equal(dehaze_zoo.dehaze(hazy, checkpoint=file), first)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.int32),
        torch.zeros(1, 5, 5),
        torch.zeros(3, 5, 5).byte(),
        7,
    ],
)
def test_other_kinds_are_refused(image: object) -> None:
    with pytest.raises(UsageError):
        dehaze_zoo.dehaze(image, model="identity")  # type: ignore[call-overload]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.png"):
        dehaze_zoo.dehaze(tmp_path / "none.png", model="identity")


def test_networks_that_break_the_rules_are_named() -> None:
    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[..., ::2]

    class NaN(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / 0 * 0

    with pytest.raises(UsageError, match="size"):
        restore(Half(), torch.zeros(1, 3, 4, 4))
    with pytest.raises(UsageError, match="finite"):
        restore(NaN(), torch.zeros(1, 3, 4, 4))


def test_choosing_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="no GPU"):
        choose_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (choose_device("auto"), choose_device("gpu"), choose_device("cpu")) == ("cuda", "cuda", "cpu")
