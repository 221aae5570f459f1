"""Padding against numpy's, at sizes where one reflection does not reach."""

import numpy as np
import pytest
import torch

from dehaze_zoo.networks.blocks.padding import crop_to, extend_mirror, pad_reflect, padded_size, reflect_index

SIZES = [(1, 1), (1, 7), (2, 3), (5, 64), (17, 23), (24, 24), (25, 8)]


@pytest.mark.parametrize("size", SIZES)
def test_reflection_is_numpys(size: tuple[int, int]) -> None:
    image = torch.randn(2, 3, *size)
    padded = pad_reflect(image, 8, minimum=24)
    h, w = padded.shape[-2:]
    assert h % 8 == w % 8 == 0
    assert min(h, w) >= 24
    assert h - max(size[0], 24) < 8
    assert w - max(size[1], 24) < 8
    expected = np.pad(image.numpy(), ((0, 0), (0, 0), (0, h - size[0]), (0, w - size[1])), mode="reflect")
    np.testing.assert_array_equal(padded.numpy(), expected)
    assert torch.equal(crop_to(padded, image), image)


@pytest.mark.parametrize("size", SIZES)
def test_mirror_is_numpys(size: tuple[int, int]) -> None:
    image = torch.randn(1, 3, *size)
    h, w = ((side // 32 + 1) * 32 for side in size)
    expected = np.pad(image.numpy(), ((0, 0), (0, 0), (0, h - size[0]), (0, w - size[1])), mode="symmetric")
    np.testing.assert_array_equal(extend_mirror(image, h, w).numpy(), expected)


def test_sizes_and_wave() -> None:
    assert [padded_size(s, 8, 24) for s in (1, 24, 25, 32)] == [24, 24, 32, 32]
    assert reflect_index(3, 8).tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert reflect_index(1, 3).tolist() == [0, 0, 0]


def test_gradients_add_up_over_the_copies() -> None:
    image = torch.ones(1, 1, 2, 2, requires_grad=True)
    pad_reflect(image, 8).sum().backward()
    assert image.grad is not None
    assert float(image.grad.sum()) == 64


def test_export_keeps_sizes_free() -> None:
    class Pad(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return crop_to(pad_reflect(image, 8, minimum=24) * 2, image)

    free = torch.export.Dim.AUTO
    program = torch.export.export(Pad(), (torch.rand(1, 3, 33, 40),), dynamic_shapes=({2: free, 3: free},))
    for size in [(50, 31), (48, 48), (5, 64)]:
        image = torch.rand(1, 3, *size)
        assert torch.equal(program.module()(image), image * 2)
