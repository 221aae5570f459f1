"""Tiles: the whole picture's result where a network allows it, in memory that depends on the tile alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.data.images import from_pil, quantised
from dehaze_zoo.errors import UsageError
from dehaze_zoo.inference import memory, tiling
from dehaze_zoo.inference.memory import bytes_per_pixel
from dehaze_zoo.inference.restore import restore_pixels
from dehaze_zoo.inference.tiling import _cut, restore_picture, restore_tiles, tile_side, tiling_of
from dehaze_zoo.networks.blocks.tiles import GlobalMean, Tiling
from dehaze_zoo.networks.registry import list_models

Floats = npt.NDArray[np.float32]


def smooth(height: int, width: int) -> Floats:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([0.6 + 0.25 * np.sin(x / 90 + y / 140 + c) for c in range(3)], -1).astype(np.float32)


def in_tiles(network: nn.Module, picture: Floats, side: int) -> Floats:
    result = np.zeros_like(picture)

    def write(rows: slice, pixels: Floats) -> None:
        result[rows] += pixels  # added: rows that came twice would show

    restore_tiles(network, lambda rows, columns: picture[rows, columns], write, picture.shape[:2], side)  # type: ignore[arg-type]
    return result


class Blur(nn.Module):
    """Sees 2 pixels far, on a grid of 4, and adds what it measures over the whole."""

    tiling = Tiling(reach=8, step=4)

    def __init__(self) -> None:
        super().__init__()
        self.mean = GlobalMean()

    def forward(self, hazy: Tensor) -> Tensor:
        padded = nn.functional.pad(hazy, (2, 2, 2, 2), mode="reflect")
        local = nn.functional.avg_pool2d(padded, 5, 1)
        grid = nn.functional.avg_pool2d(hazy[..., : hazy.shape[2] // 4 * 4, : hazy.shape[3] // 4 * 4], 4)
        grid = nn.functional.interpolate(grid, size=hazy.shape[2:], mode="nearest")
        mean: Tensor = self.mean(hazy)
        return 0.4 * local + 0.3 * grid + 0.3 * mean


@pytest.mark.parametrize("size", [(400, 600), (128, 700), (700, 40), (136, 132), (1, 1000)])
def test_tiles_equal_the_whole_where_the_network_says_so(size: tuple[int, int]) -> None:
    height, width = (n // 4 * 4 if n > 3 else n for n in size)
    if height < 4:
        network: nn.Module = create_model("identity")
        picture = smooth(height, width)
    else:
        network, picture = Blur(), np.random.default_rng(0).random((height, width, 3)).astype(np.float32)
    assert np.abs(in_tiles(network, picture, 128) - restore_pixels(network, picture)).max() < 2e-4  # the mean's, of the picture shrunk


def test_real_networks_in_tiles_on_smooth_content() -> None:
    torch.manual_seed(0)
    picture = smooth(360, 420)
    for name in ("identity", "aodnet", "gunet_t"):
        network = create_model(name)
        assert tiling_of(network).caveat == ""
        side = max(128, 2 * (2 * tiling_of(network).reach + tiling.FADE))
        assert np.abs(in_tiles(network, picture, side) - restore_pixels(network, picture)).max() <= 1 / 255, name


def test_gunet_in_tiles_needs_the_shared_means(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = create_model("gunet_t", width=8)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.7 if parameter.ndim == 4 else 1.0)
    y, x = np.mgrid[0:360, 0:640]
    picture = np.repeat((0.1 + 0.8 * x / 640 + 0.05 * np.sin(y / 40))[..., None], 3, 2).astype(np.float32)  # dark left, bright right
    whole = restore_pixels(network, picture)
    apart = np.abs(in_tiles(network, picture, 320) - whole).max()
    monkeypatch.setattr(tiling, "OfTheWhole", type("Nothing", (), {}))
    assert apart < 0.5 * np.abs(in_tiles(network, picture, 320) - whole).max()
    assert apart <= 1 / 255


@pytest.mark.parametrize("name", list_models())
def test_every_network_says_how_far_it_sees(name: str) -> None:
    found = getattr(create_model(name), "tiling", None)
    assert isinstance(found, Tiling)
    assert found.reach >= 0 and found.step >= 1  # noqa: PT018


@pytest.mark.parametrize(("length", "side", "reach", "step"), [(1000, 128, 0, 1), (129, 128, 8, 4), (5000, 320, 64, 8), (999, 256, 40, 32)])
def test_weights_add_up_to_one_and_borders_count_nothing(length: int, side: int, reach: int, step: int) -> None:
    starts, lengths, weights = _cut(length, side, Tiling(reach, step))
    total = np.zeros(length)
    for start, span, weight in zip(starts, lengths, weights, strict=True):
        assert start % step == 0
        total[start : start + span] += weight
        assert start == 0 or weight[:reach].max(initial=0) == 0
        assert start + span == length or weight[span - reach :].max(initial=0) == 0
    assert np.abs(total - 1).max() < 1e-6


def test_tiles_by_memory_and_by_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    network = create_model("gunet_t")
    assert tile_side(network, (300, 400)) is None  # small: not even measured
    monkeypatch.setattr(tiling, "pixels_that_fit", lambda *_: 2_000_000)
    assert tile_side(network, (1000, 2000)) is None
    side = tile_side(network, (4000, 6000))
    assert side is not None
    assert side**2 <= 2_000_000
    assert side % 8 == 0
    assert tile_side(network, (4000, 6000), None) is None
    assert tile_side(network, (4000, 6000), 500) == 496
    for wrong in (64, "large"):
        with pytest.raises(UsageError, match="at least 320"):
            tile_side(network, (4000, 6000), wrong)


def test_memory_for_a_pixel_is_measured() -> None:
    class Wide(nn.Module):
        def forward(self, hazy: Tensor) -> Tensor:
            return torch.cat([hazy] * 20, 1)[:, :3] + 0  # 240 bytes a pixel held, then 12 more

    assert 1.4 * 240 < bytes_per_pixel(Wide(), torch.device("cpu")) < 1.6 * 255


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_picture_in_tiles_is_rounded_as_a_whole_one(mode: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 4), dtype=np.uint8)).convert(mode)
    picture, network = from_pil(image), create_model("aodnet")
    whole = quantised(restore_pixels(network, picture.pixels), picture.grey, picture.bits)
    made = restore_picture(network, picture, 128)
    assert (made.shape, made.dtype) == (whole.shape, whole.dtype)
    assert np.abs(made.astype(int) - whole).max() <= 1


def test_pages_of_files_are_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable: 7000000 kB\n")
    cpu = torch.device("cpu")
    assert memory.free_bytes(cpu) == 7_168_000_000  # no container
    for name, text in (("max", "4000000000\n"), ("current", "3900000000\n"), ("stat", "anon 900000000\ninactive_file 2000000000\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory.free_bytes(cpu) == 2_100_000_000
    (tmp_path / "memory.stat").write_text("anon 900000000\ninactive_file 2000000000\nactive_file 1000000000\n")
    assert memory.free_bytes(cpu) == 3_100_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes(cpu) == 7_168_000_000


def test_memory_depends_on_the_tile_not_on_the_picture() -> None:
    """20 megapixels: as floats, in and out alone, they would be 480 MB."""
    code = """
import resource, sys
import numpy as np
import torch
from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.data.images import Picture
from dehaze_zoo.inference.tiling import restore_picture
torch.set_num_threads(1)
net = create_model("aodnet")
def peak(side):
    colours = np.full((side, side, 3), 90, np.uint8)
    made = restore_picture(net, Picture(colours, None, "PNG", ".png", None, None, 0), 512)
    assert made.shape == colours.shape
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
small = peak(1000)
print(peak(4500) - small)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 120 + 130  # MB: the picture and its result as stored, bands of float rows
