"""Grids of labelled pictures: hazy, each method, clear, error maps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from dehaze_zoo.data.images import write_picture

Array = npt.NDArray[Any]


def picture_grid(rows: Sequence[Sequence[tuple[str, Array]]], gap: int = 4, widest: int = 480) -> npt.NDArray[np.uint8]:
    """Rows of (label, picture) as one picture, each under its label.

    Pictures are (H, W, 3) RGB, uint8 or float in [0, 1] (clipped), of any sizes; wider ones than ``widest`` pixels are reduced.
    Returns (H, W, 3) uint8. Raises ValueError without any picture.
    """
    cells = [[(label, _shrunk(_bytes(picture), widest)) for label, picture in row] for row in rows if row]
    if not cells:
        raise ValueError("a grid needs at least one picture")
    band = 18
    widths = [max(row[i][1].width for row in cells if i < len(row)) for i in range(max(len(row) for row in cells))]
    heights = [max(picture.height for _, picture in row) + band for row in cells]
    sheet = Image.new("RGB", (sum(widths) + gap * (len(widths) + 1), sum(heights) + gap * (len(heights) + 1)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    top = gap
    for row, height in zip(cells, heights, strict=True):
        left = gap
        for (label, picture), width in zip(row, widths, strict=False):
            while label and draw.textlength(label, font) > width:
                label = label[:-1]
            draw.text((left, top), label, "black", font)
            sheet.paste(picture, (left, top + band))
            left += width + gap
        top += height + gap
    return np.asarray(sheet)


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
    write_picture(path, picture_grid(rows).astype(np.float32) / 255)


def _bytes(picture: Array) -> npt.NDArray[np.uint8]:
    scale = 1 if picture.dtype == np.uint8 else 255
    levels: npt.NDArray[np.uint8] = np.rint(np.clip(picture, 0, 255 / scale) * scale).astype(np.uint8)
    return levels


def _shrunk(picture: npt.NDArray[np.uint8], widest: int) -> Image.Image:
    image = Image.fromarray(picture)
    if image.width <= widest:
        return image
    return image.resize((widest, max(1, round(image.height * widest / image.width))), Image.Resampling.BOX)
