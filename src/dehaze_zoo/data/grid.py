"""Grids of labelled pictures: hazy, each method, clear, error maps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from dehaze_zoo.data.images import in_bits, quantised, write_picture

Array = npt.NDArray[Any]


def picture_grid(rows: Sequence[Sequence[tuple[str, Array]]], gap: int = 4, widest: int = 480) -> npt.NDArray[np.uint8]:
    """Rows of (label, picture) as one picture, each under its label.

    Pictures are (H, W, 3) RGB or (H, W, 1) grey, uint8, uint16 or float in [0, 1] (clipped), of any sizes; wider ones than ``widest``
    pixels are reduced.
    Returns (H, W, 3) uint8. Raises ValueError without any picture.
    """
    cells = [[(label, shrunk(picture, widest)) for label, picture in row] for row in rows if row]
    if not cells:
        raise ValueError("a grid needs at least one picture")
    band = 18
    widths = [max(row[i][1].shape[1] for row in cells if i < len(row)) for i in range(max(len(row) for row in cells))]
    heights = [max(picture.shape[0] for _, picture in row) + band for row in cells]
    sheet = np.full((sum(heights) + gap * (len(heights) + 1), sum(widths) + gap * (len(widths) + 1), 3), 255, np.uint8)
    font = ImageFont.load_default(12)
    top = gap
    for row, height in zip(cells, heights, strict=True):
        left = gap
        for (label, picture), width in zip(row, widths, strict=False):
            while label and font.getlength(label) > width:
                label = label[:-1]
            strip = Image.new("RGB", (width, band), "white")
            ImageDraw.Draw(strip).text((0, 0), label, "black", font)
            sheet[top : top + band, left : left + width] = strip
            sheet[top + band : top + band + picture.shape[0], left : left + picture.shape[1]] = picture
            left += width + gap
        top += height + gap
    return sheet


def shrunk(picture: Array, widest: int) -> npt.NDArray[np.uint8]:
    """A picture, as ``picture_grid`` takes it, as it shows it: (h, w, 3), at most ``widest`` pixels wide."""
    levels = _bytes(picture)
    height, width = levels.shape[:2]
    if width <= widest:
        return levels
    return np.asarray(Image.fromarray(levels).resize((widest, max(1, round(height * widest / width))), Image.Resampling.BOX))


def error_map(restored: Array, clear: Array, full: float = 0.25) -> npt.NDArray[np.uint8]:
    """Absolute difference, mean over the channels, in colours from black (0) to light yellow (``full`` or more, of the range 1).

    Both (H, W, 3) RGB, uint8 or float in [0, 1]; returns (H, W, 3) uint8.
    """
    import cv2

    apart = np.abs(_bytes(restored).astype(np.float32) - _bytes(clear).astype(np.float32)).mean(axis=2) / (255 * full)
    grey = np.rint(np.clip(apart, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), dtype=np.uint8)[..., ::-1])


def write_grid(path: str | os.PathLike[str], rows: Sequence[Sequence[tuple[str, Array]]]) -> None:
    """picture_grid of ``rows`` as a file (PNG by its suffix), written aside and renamed."""
    write_picture(path, picture_grid(rows))


def _bytes(picture: Array) -> npt.NDArray[np.uint8]:
    whole = picture.dtype in (np.uint8, np.uint16)
    levels: npt.NDArray[np.uint8] = in_bits(picture, 8) if whole else quantised(picture, grey=False, bits=8)
    return levels if levels.shape[2] == 3 else np.repeat(levels, 3, axis=2)
