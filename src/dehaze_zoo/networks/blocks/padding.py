"""Extending an image to the right and below by mirroring it, to the sizes that the networks take, and cropping back.

Plain index gathers: any side >= 1, differentiable, and in a graph no branch on the size (so that an export with free sizes keeps them
free; slices would tie it to whether the example's size needed padding).
"""

from __future__ import annotations

import torch
from torch import Tensor


def reflect_index(size: int, padded: int, device: torch.device | None = None) -> Tensor:
    """Positions 0 .. padded-1 folded into 0 .. size-1 by reflection (edge pixel not repeated), again and again where one does not reach.

    Returns int64 (padded,): a triangular wave, 0 1 2 1 0 1 2 ... for size 3.
    """
    period = _at_least(2 * (size - 1), 1)
    position = _modulo(torch.arange(padded, device=device), period)
    return torch.minimum(position, period - position)


def mirror_index(size: int, padded: int, device: torch.device | None = None) -> Tensor:
    """As ``reflect_index`` but with the edge pixel repeated: 0 1 2 2 1 0 0 1 ... for size 3."""
    position = _modulo(torch.arange(padded, device=device), 2 * size)
    return torch.minimum(position, 2 * size - 1 - position)


def padded_size(size: int, multiple: int, minimum: int = 1) -> int:
    """The smallest multiple of ``multiple`` that is at least ``size`` and ``minimum``."""
    return (_at_least(size, minimum) + multiple - 1) // multiple * multiple


def pad_reflect(image: Tensor, multiple: int, minimum: int = 1) -> Tensor:
    """Reflect-pads (..., H, W) right and bottom until both sides are multiples of ``multiple`` and at least ``minimum``."""
    h, w = image.shape[-2:]
    height, width = (padded_size(side, multiple, minimum) for side in (h, w))
    if _fits(image, height, width):
        return image
    rows, columns = reflect_index(h, height, image.device), reflect_index(w, width, image.device)
    return image.index_select(-2, rows).index_select(-1, columns)


def extend_mirror(image: Tensor, height: int, width: int) -> Tensor:
    """Extends (..., H, W) right and below to (..., height, width) by flipped copies, edge pixel repeated (RIDCP's way)."""
    h, w = image.shape[-2:]
    rows, columns = mirror_index(h, height, image.device), mirror_index(w, width, image.device)
    return image.index_select(-2, rows).index_select(-1, columns)


def crop_to(padded: Tensor, image: Tensor) -> Tensor:
    """The top left part of ``padded`` (..., H', W') that has the height and width of ``image``."""
    if _fits(padded, *image.shape[-2:]):
        return padded
    rows, columns = (torch.arange(side, device=padded.device) for side in image.shape[-2:])
    return padded.index_select(-2, rows).index_select(-1, columns)


def _fits(image: Tensor, height: int, width: int) -> bool:
    """Whether it has that size already; never while a graph is made, which would be tied to the example's size."""
    return not torch.compiler.is_compiling() and image.shape[-2:] == (height, width)


def _modulo(position: Tensor, period: int) -> Tensor:
    return torch.remainder(position, torch.full((1,), period, device=position.device))  # a tensor: ONNX's writer takes no symbolic number


def _at_least(size: int, minimum: int) -> int:
    return torch.sym_max(size, minimum)  # type: ignore[return-value]  # max(), but an export's symbolic size stays symbolic
