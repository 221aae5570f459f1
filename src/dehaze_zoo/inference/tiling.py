"""Pictures of any size: whole where they fit into memory, else in overlapping tiles, a row of tiles at a time.

Neither the picture nor the result exists as floats as a whole: a tile is read from the stored picture, and what is finished is
rounded into the stored result. What a network measures over the whole picture (``OfTheWhole``) it measures on the picture shrunk,
once for all tiles. Each tile's border, as far as the network sees, is dropped; beyond it neighbours fade into each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dehaze_zoo.data.images import Array, Floats, Picture, quantised
from dehaze_zoo.errors import UsageError
from dehaze_zoo.inference.memory import pixels_that_fit
from dehaze_zoo.inference.restore import restore_pixels
from dehaze_zoo.networks.blocks.tiles import UNKNOWN, OfTheWhole, Tiling

FADE = 32
"""Pixels over which neighbouring tiles fade into each other."""
SURELY_FITS = 512 * 512

Read = Callable[[slice, slice], Floats]
Write = Callable[[slice, Floats], None]


def restore_picture(network: nn.Module, picture: Picture, side: int | None) -> Array:
    """The restored picture (H, W, 1 or 3) in the stored form of ``picture``, for ``write_picture``; whole without a ``side``."""
    result = np.empty(picture.colours.shape, picture.colours.dtype)

    def write(rows: slice, pixels: Floats) -> None:
        result[rows] = quantised(pixels, picture.grey, picture.bits)

    if side is None:
        write(slice(None), restore_pixels(network, picture.pixels))
    else:
        restore_tiles(network, picture.part, write, picture.size, side)
    return result


def tiling_of(network: nn.Module) -> Tiling:
    """What the network says of itself."""
    tiling = getattr(network, "tiling", UNKNOWN)
    return tiling if isinstance(tiling, Tiling) else UNKNOWN


def tile_side(network: nn.Module, size: tuple[int, int], tile: int | str | None = "auto") -> int | None:
    """The side of tiles for a picture of ``size`` (height, width), or None where it is restored whole.

    ``tile``: "auto" goes by the memory, None is always whole, a number is the side in pixels. Raises UsageError for another, and for
    a number where the network refuses tiles; by "auto" its pictures are whole.
    """
    tiling, pixels = tiling_of(network), size[0] * size[1]
    if tile is None or (tile == "auto" and tiling.refused):
        return None
    if tiling.refused:
        raise UsageError(
            f"tile={tile}: this network's pictures are restored whole, tiles would be another picture: {tiling.caveat}.\n"
            "Leave tile=auto; where the memory does not suffice, give smaller pictures."
        )
    least = max(2 * _overlap(tiling), 4 * FADE)
    if tile == "auto":
        if pixels <= SURELY_FITS:
            return None
        fits = pixels_that_fit(network, next(network.parameters(), torch.zeros(0)).device, tiling)
        if pixels <= fits:
            return None
        side = max(math.isqrt(fits), least)
    elif isinstance(tile, int) and tile >= least:
        side = tile
    else:
        raise UsageError(f"tile={tile}: give auto, null (whole pictures) or a side in pixels, for this network at least {least}.")
    side = side // tiling.step * tiling.step
    return None if max(size) <= side else side


def restore_tiles(network: nn.Module, read: Read, write: Write, size: tuple[int, int], side: int) -> None:
    """Restores a picture of ``size`` in tiles of ``side`` pixels; ``write`` gets whole rows of it, in order, once each."""
    tiling = tiling_of(network)
    (tops, heights, fade_y), (lefts, widths, fade_x) = (_cut(length, side, tiling) for length in size)
    width = size[1]
    held: Floats = np.zeros((0, width, 3), np.float32)  # rows that tiles below still add to
    with _shared(network, lambda: _shrunk(read, size, side * side)):
        for i, (top, height) in enumerate(zip(tops, heights, strict=True)):
            band = np.zeros((height, width, 3), np.float32)
            band[: len(held)] = held
            for left, across, weight in zip(lefts, widths, fade_x, strict=True):
                columns = slice(left, left + across)
                restored = restore_pixels(network, read(slice(top, top + height), columns))
                restored *= fade_y[i][:, None, None] * weight[None, :, None]
                band[:, columns] += restored
            done = tops[i + 1] - top if i + 1 < len(tops) else height
            write(slice(top, top + done), band[:done])
            held = band[done:].copy()


def _overlap(tiling: Tiling) -> int:
    return 2 * tiling.reach + FADE


def _cut(length: int, side: int, tiling: Tiling) -> tuple[list[int], list[int], list[Floats]]:
    """Starts, lengths and weights of the tiles along one axis; the weights of all tiles add up to 1 at every place."""
    if length <= side:
        return [0], [length], [np.ones(length, np.float32)]
    count = math.ceil((length - side) / max(side - _overlap(tiling) - tiling.step, 1)) + 1
    starts = [int(i * (length - side) / (count - 1)) // tiling.step * tiling.step for i in range(count)]
    ends = [start + side for start in starts[:-1]] + [length]
    weights = [np.ones(end - start, np.float32) for start, end in zip(starts, ends, strict=True)]
    for i in range(count - 1):
        middle = (starts[i + 1] + ends[i]) / 2
        place = np.arange(length, dtype=np.float32) + np.float32(0.5)
        rise = np.clip((place - np.float32(middle)) / FADE + np.float32(0.5), 0, 1)
        weights[i] *= 1 - rise[starts[i] : ends[i]]
        weights[i + 1] *= rise[starts[i + 1] : ends[i + 1]]
    return starts, [end - start for start, end in zip(starts, ends, strict=True)], weights


def _shrunk(read: Read, size: tuple[int, int], pixels: int) -> Tensor:
    """The picture (1, 3, h, w) shrunk by means to about ``pixels``, read a band at a time."""
    factor = math.ceil(math.sqrt(size[0] * size[1] / pixels))
    height, width = (max(length // factor * factor, factor) for length in size)
    bands = []
    for top in range(0, min(height, size[0]), factor * 16):
        band = torch.from_numpy(read(slice(top, min(top + factor * 16, height)), slice(0, width))).permute(2, 0, 1)[None]
        bands.append(interpolate(band, size=(max(band.shape[2] // factor, 1), max(band.shape[3] // factor, 1)), mode="area"))
    return torch.cat(bands, 2)


@contextmanager
def _shared(network: nn.Module, picture: Callable[[], Tensor]) -> Iterator[None]:
    """Within, the network's parts that describe the whole picture give what they found in ``picture`` in one pass."""
    parts = [part for part in network.modules() if isinstance(part, OfTheWhole)]
    found: dict[nn.Module, Tensor] = {}

    def note(part: nn.Module, _: Any, result: Tensor) -> None:
        found[part] = result

    hooks = [part.register_forward_hook(note) for part in parts]
    if parts:
        home = next(network.parameters(), torch.zeros(0)).device
        with torch.no_grad():
            network(picture().to(home))
    for hook in hooks:
        hook.remove()
    hooks = [part.register_forward_hook(lambda part, _, result: found[part]) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
