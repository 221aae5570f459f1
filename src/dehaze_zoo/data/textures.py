"""Procedural surfaces: (256, 256, 3) uint8, most of them tileable. Each draws all its choices from the generator it is given."""

from __future__ import annotations

import colorsys
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Texture = npt.NDArray[np.uint8]
Colour = Sequence[float] | Floats
Rng = np.random.Generator
SIDE = 256


@functools.cache
def _library() -> tuple[Floats, ...]:
    """Tileable noise fields of zero mean and unit deviation with spectra 1/f^p; the same in every process."""
    rng = np.random.default_rng(20220923)
    fy, fx = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :]
    radius = np.sqrt(fx * fx + fy * fy)
    radius[0, 0] = np.inf
    fields = []
    for power in (0.5, 1.0, 1.4, 1.8, 2.2) * 3:
        field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) / radius**power, s=(SIDE, SIDE))
        fields.append(((field - field.mean()) / field.std()).astype(np.float32))
    return tuple(fields)


def noise(rng: Rng, rough: int, stretch: tuple[int, int] = (1, 1)) -> Floats:
    """A (256, 256) tileable field, zero mean, unit deviation; ``rough`` 0 (fine grain) to 4 (clouds); stretched by whole factors (x, y)."""
    field = _library()[rough + 5 * int(rng.integers(3))]
    field = np.roll(field, tuple(rng.integers(SIDE, size=2)), (0, 1))[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    field = np.ascontiguousarray(field)
    if stretch != (1, 1):
        part = np.ascontiguousarray(field[: SIDE // stretch[1], : SIDE // stretch[0]])
        part = np.concatenate([part, part[::-1]]) if stretch[1] > 1 else part  # mirrored, so that it still tiles
        part = np.concatenate([part, part[:, ::-1]], axis=1) if stretch[0] > 1 else part
        field = cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    return field


def dyed(base: Colour, field: Floats) -> Floats:
    """(H, W, 3): a colour times a field (H, W). numpy's own product of so short rows takes ten times as long; so does mixed's."""
    return np.asarray(cv2.merge([field * np.float32(channel) for channel in base]))


def mixed(first: Colour, second: Colour, share: Floats) -> Floats:
    """(H, W, 3) from one colour to another by the second's ``share`` (H, W)."""
    return np.asarray(cv2.merge([np.float32(a) + share * np.float32(b - a) for a, b in zip(first, second, strict=True)]))


def colour(rng: Rng, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]) -> Floats:
    """An RGB colour in [0, 1], drawn from ranges of hue (turns, may exceed 1), saturation and value."""
    return np.array(colorsys.hsv_to_rgb(rng.uniform(*hue) % 1, rng.uniform(*saturation), rng.uniform(*value)), np.float32)


def any_colour(rng: Rng) -> Floats:
    """What paints, fabrics and things are coloured in: often pale, grey or dark, at times vivid."""
    kind = rng.random()
    if kind < 0.35:
        return colour(rng, (0.05, 0.16), (0.05, 0.35), (0.45, 0.98))  # cream, beige, off-white
    if kind < 0.55:
        return colour(rng, (0, 1), (0.0, 0.15), (0.04, 0.35))  # near black
    if kind < 0.75:
        return colour(rng, (0, 1), (0.1, 0.45), (0.3, 0.9))
    return colour(rng, (0, 1), (0.5, 0.95), (0.3, 0.95))


def wood_colour(rng: Rng) -> Floats:
    return colour(rng, (0.02, 0.11), (0.3, 0.8), (0.16, 0.8))


def plain(rng: Rng, base: Colour, uneven: float = 0.04, grain: float = 0.02) -> Texture:
    """Paint, plaster, plastic: broad unevenness and a fine grain, relative to the base."""
    field = 1 + uneven * noise(rng, 3) + grain * noise(rng, 0)
    return to_bytes(dyed(base, field))


def wood(rng: Rng, base: Colour | None = None, planks: int | None = None) -> Texture:
    """Boards along x (``planks`` of them; 0: one piece), each of its own shade and shift of grain."""
    base = wood_colour(rng) if base is None else np.asarray(base, np.float32)
    planks = int(rng.integers(4, 11)) if planks is None else planks
    grain = 0.10 * noise(rng, 1, (8, 1)) + 0.10 * noise(rng, 2, (4, 1)) + 0.03 * noise(rng, 0)
    shade = np.ones((SIDE, SIDE), np.float32)
    if planks:
        edges = np.linspace(0, SIDE, planks + 1).astype(int)
        for top, bottom in itertools.pairwise(edges):
            grain[top:bottom] = np.roll(grain[top:bottom], int(rng.integers(SIDE)), 1)
            cut = int(rng.integers(SIDE))
            shade[top:bottom, :cut] *= rng.uniform(0.75, 1.2)
            shade[top:bottom, cut:] *= rng.uniform(0.75, 1.2)
            shade[top : top + 1] *= 0.5
            shade[top:bottom, cut : cut + 1] *= 0.6
    tint = (0.6, 0.66, 0.75)  # grain is darker and redder
    return to_bytes(cv2.merge([np.float32(channel) * (shade * (1 + grain * each)) for channel, each in zip(base, tint, strict=True)]))


def tiles(rng: Rng, base: Colour, count: int = 4, joint: int = 3, brick: bool = False) -> Texture:
    """Square tiles, or bricks (twice as long as high, every other row shifted), with joints."""
    rows, columns = (2 * count, count) if brick else (count, count)
    high, wide = SIDE // rows, SIDE // columns
    y, x = np.mgrid[:SIDE, :SIDE]
    row = y // high % rows
    x = (x + (row % 2) * (wide // 2) * brick) % SIDE
    each = rng.normal(0, 0.09 if brick else 0.035, (rows, columns, 1)) + rng.normal(0, 0.03 if brick else 0.008, (rows, columns, 3))
    uneven = 0.05 * noise(rng, 2) + 0.04 * noise(rng, 0)
    place = row * columns + x // wide % columns
    planes = [
        np.float32(channel) * (1 + np.take(own, place) + uneven)
        for channel, own in zip(base, each.astype(np.float32).transpose(2, 0, 1), strict=True)
    ]
    surface = cv2.merge(planes)
    gap = (y % high < joint) | (x % wide < joint)
    surface[gap] = rng.uniform(0.35, 0.8) * (0.5 + 0.5 * np.asarray(base, np.float32).mean()) + 0.03 * noise(rng, 0)[gap][:, None]
    return to_bytes(surface)


def fabric(rng: Rng, base: Colour | None = None) -> Texture:
    """Weave, stripes, checks or ornaments in two or three colours."""
    first = any_colour(rng) if base is None else np.asarray(base, np.float32)
    second, third = any_colour(rng), any_colour(rng)
    x = np.arange(SIDE, dtype=np.float32) * np.float32(2 * np.pi / SIDE)
    y = x[:, None]
    n, m = rng.integers(2, 14, size=2)
    kind = rng.integers(6)
    mask: Floats = np.full((SIDE, SIDE), -1, np.float32)
    if kind == 0:
        mask = np.broadcast_to(np.sin(n * x), (SIDE, SIDE))
    elif kind == 1:
        mask = np.sin(n * x) * np.sin(n * y)
    elif kind == 2:  # a wavy grid: sin(n x + 2 sin m y) + sin(n y + 2 sin m x), by the addition theorem
        wave = np.sin(n * x) * np.cos(2 * np.sin(m * y)) + np.cos(n * x) * np.sin(2 * np.sin(m * y))
        mask = wave + wave.T
    elif kind == 3:
        mask = noise(rng, 3)
    sharp = np.clip(mask * 6 + np.float32(0.5), 0, 1)
    sharp2 = np.clip(np.roll(mask, 9, (0, 1)) * 6 - 3, 0, 1)
    weave = 1 + np.float32(0.06) * np.sin(64 * x) * np.sin(64 * y) + 0.07 * noise(rng, 1) + 0.05 * noise(rng, 0)
    planes = []
    for a, b, c in zip(first, second, third, strict=True):
        ground_colour = a + sharp * (b - a)
        planes.append((ground_colour + sharp2 * (c - ground_colour)) * weave)
    return to_bytes(cv2.merge(planes))


def stone(rng: Rng, base: Colour | None = None) -> Texture:
    """Marble, granite, concrete: veins where a cloud field crosses zero, and specks."""
    base = colour(rng, (0.0, 0.2), (0.0, 0.3), (0.25, 0.95)) if base is None else np.asarray(base, np.float32)
    veins = np.exp(-np.abs(noise(rng, 3)) * rng.uniform(4, 12)) * rng.uniform(-0.5, 0.3)
    return to_bytes(dyed(base, 1 + veins + rng.uniform(0.02, 0.12) * noise(rng, 1) + 0.06 * noise(rng, 2)))


def books(rng: Rng) -> Texture:
    """Shelves full of books and things, with dark gaps."""
    sheet = np.empty((SIDE, SIDE, 3), np.float32)
    board, back = wood_colour(rng), wood_colour(rng) * 0.4
    sheet[:] = back
    shelves = int(rng.integers(3, 6))
    high = SIDE // shelves
    for shelf in range(shelves):
        floor, x = (shelf + 1) * high, 2
        while x < SIDE - 3:
            wide, tall = int(rng.integers(3, 16)), int(high * rng.uniform(0.5, 0.88))
            if rng.random() < 0.85:
                shade = any_colour(rng)
                sheet[floor - tall : floor, x : x + wide] = shade
                band = int(rng.integers(2, max(3, tall // 2)))
                sheet[floor - tall + band : floor - tall + band + 4, x : x + wide] = any_colour(rng)
                sheet[floor - tall : floor, x : x + 1] *= 0.5
            else:
                x += int(rng.integers(4, 24))
            x += wide
        sheet[floor - 5 : floor] = board
        sheet[floor - high : floor - high + 8] *= np.linspace(0.3, 0.9, 8, dtype=np.float32)[:, None, None]
    sheet[:, :5] = sheet[:, -5:] = board
    return to_bytes(cv2.multiply(sheet, cv2.merge([1 + 0.04 * noise(rng, 1)] * 3)))


def panels(rng: Rng, surface: Callable[[], Texture], rows: int, columns: int) -> Texture:
    """Doors or drawers on a surface: bevelled frames and knobs."""
    sheet = surface().astype(np.float32)
    high, wide = SIDE // rows, SIDE // columns
    metal = any_colour(rng) * 255
    for row in range(rows):
        for column in range(columns):
            top, left = row * high, column * wide
            cv2.rectangle(sheet, (left, top), (left + wide - 1, top + high - 1), [0.25 * channel for channel in cv2.mean(sheet)[:3]], 3)
            inset = max(6, min(high, wide) // 7)
            part = sheet[top + inset : top + high - inset, left + inset : left + wide - inset]
            if part.size:
                part[:3] *= 0.55
                part[:, :3] *= 0.6
                part[-3:] *= 1.35
                part[:, -3:] *= 1.25
            side = left + wide // 2 if rows > columns else left + (wide - inset if column % 2 == 0 else inset)
            cv2.circle(sheet, (side, top + high // 2), 5, metal.tolist(), -1)
    return to_bytes(sheet / 255)


def painting(rng: Rng) -> Texture:
    """A picture in a frame: a landscape, forms on a ground, or colour fields; some under a pale mount."""
    first, second, third = (any_colour(rng) for _ in range(3))
    if rng.random() < 0.5:
        horizon = rng.uniform(-1, 1) + 0.6 * noise(rng, 3)
        height = np.linspace(-2, 2, SIDE, dtype=np.float32)[:, None]
        mix = np.clip((height - horizon) * 4 + 0.5, 0, 1).astype(np.float32)
        sheet = mixed(first, second, mix) + dyed(third, 0.12 * noise(rng, 2))
    else:
        mix = np.clip(noise(rng, 4) * 2 + np.float32(0.5), 0, 1)
        sheet = mixed(first, second, mix) + dyed((1, 1, 1), 0.08 * noise(rng, 1))
        for _ in range(int(rng.integers(1, 7))):
            centre, axes = rng.integers(30, 226, size=2).tolist(), rng.integers(8, 70, size=2).tolist()
            cv2.ellipse(sheet, centre, axes, float(rng.uniform(0, 180)), 0, 360, any_colour(rng).tolist(), -1)
    frame = int(rng.integers(6, 24))
    if rng.random() < 0.5:
        mount = frame + int(rng.integers(10, 40))
        cv2.rectangle(sheet, (0, 0), (SIDE - 1, SIDE - 1), (0.9, 0.88, 0.84), 2 * mount)
    cv2.rectangle(sheet, (0, 0), (SIDE - 1, SIDE - 1), (wood_colour(rng) * rng.choice((0.4, 1.0))).tolist(), 2 * frame)
    return to_bytes(sheet)


def window(rng: Rng) -> Texture:
    """A window: overexposed, or a view, or the night; sashes; blinds or not."""
    kind = rng.random()
    height = np.linspace(0, 1, SIDE, dtype=np.float32)[:, None]
    if kind < 0.6:
        glare = 1.1 + 0.1 * noise(rng, 4)
        fall = height * rng.uniform(0, 0.4)
        sheet = np.asarray(cv2.merge([glare - fall * each for each in (0.3, 0.15, 0.3)]))
    elif kind < 0.8:
        green = foliage(rng)[..., :3].astype(np.float32) / 255
        mix = np.clip((height - rng.uniform(0.2, 0.7)) * 6 + 0.5 * noise(rng, 3), 0, 1)
        sheet = mixed((0.9, 0.97, 1.1), (0, 0, 0), mix) + green * dyed((1.3, 1.3, 1.3), mix)
    else:
        sheet = dyed(colour(rng, (0.5, 0.8), (0.2, 0.6), (0.02, 0.14)), 1 + 0.4 * noise(rng, 3))
    if rng.random() < 0.3:
        sheet = sheet * np.where(np.arange(SIDE) % 12 < rng.integers(3, 9), 0.95, 0.55).astype(np.float32)[:, None, None]
    sash = (any_colour(rng) if rng.random() < 0.4 else np.array([0.9, 0.9, 0.88], np.float32)).tolist()
    for k in range(1, int(rng.integers(2, 5))):
        cv2.line(sheet, (SIDE * k // 4, 0), (SIDE * k // 4, SIDE), sash, 5)
    cv2.line(sheet, (0, SIDE // 2), (SIDE, SIDE // 2), sash, 5)
    cv2.rectangle(sheet, (0, 0), (SIDE - 1, SIDE - 1), sash, 18)
    return to_bytes(sheet)


def curtain(rng: Rng) -> Texture:
    """Hanging folds: a fabric or thin white, shaded along x."""
    x = np.linspace(0, 2 * np.pi, SIDE, endpoint=False, dtype=np.float32)
    folds = np.sin(int(rng.integers(4, 10)) * x + 1.5 * np.sin(2 * x + rng.uniform(0, 6))) + 0.4 * np.sin(int(rng.integers(14, 24)) * x)
    cloth = fabric(rng).astype(np.float32) if rng.random() < 0.5 else np.full((SIDE, SIDE, 3), 235, np.float32)
    return to_bytes(cloth / 255 * (0.85 + 0.18 * folds)[None, :, None])


def foliage(rng: Rng, solid: bool = False) -> Texture:
    """Leaves, with holes and a ragged outline in a fourth channel unless ``solid``."""
    base = colour(rng, (0.17, 0.4), (0.35, 0.8), (0.2, 0.55))
    if rng.random() < 0.12:
        base = colour(rng, (0.92, 1.13), (0.4, 0.85), (0.3, 0.8))  # autumn, blossom
    fine, coarse = noise(rng, 1), noise(rng, 2)
    shade, glint = np.clip(0.75 + 0.4 * fine + 0.35 * coarse, 0.05, 2.2), np.clip(fine - 1.6, 0, 1) * 0.3
    sheet = to_bytes(cv2.merge([channel * shade + glint for channel in base]))
    if solid:
        return sheet
    along = np.linspace(-1, 1, SIDE, dtype=np.float32)
    outline = 0.85 - np.sqrt(along * along + (along * along)[:, None]) + 0.16 * noise(rng, 3) + 0.1 * coarse
    alpha = ((outline > 0) & (fine + 3.5 * outline > -0.3)).astype(np.uint8)
    return np.asarray(cv2.merge([sheet, alpha * np.uint8(255)]))


def facade(rng: Rng) -> Texture:
    """A house front: plaster, brick or concrete, rows of windows, some lit, ledges between the floors."""
    ground = tiles(rng, colour(rng, (0.0, 0.08), (0.3, 0.6), (0.35, 0.7)), 10, 1, brick=True)
    wall = ground if rng.random() < 0.4 else plain(rng, colour(rng, (0.0, 0.2), (0.0, 0.4), (0.35, 0.95)), 0.06, 0.03)
    sheet = wall.astype(np.float32) / 255
    floors, bays = int(rng.integers(3, 8)), int(rng.integers(3, 8))
    high, wide = SIDE // floors, SIDE // bays
    trim, glass = any_colour(rng), colour(rng, (0.5, 0.65), (0.1, 0.5), (0.08, 0.5))
    for floor in range(floors):
        sheet[floor * high : floor * high + 3] = trim
        for bay in range(bays):
            top, left = floor * high + high // 4, bay * wide + wide // 4
            pane = glass * rng.uniform(0.5, 1.6) if rng.random() < 0.9 else np.array([0.95, 0.85, 0.55], np.float32)
            sheet[top : top + high // 2, left : left + wide // 2] = pane
            cv2.rectangle(sheet, (left, top), (left + wide // 2, top + high // 2), trim.tolist(), 2)
            cv2.line(sheet, (left + wide // 4, top), (left + wide // 4, top + high // 2), trim.tolist(), 1)
    return to_bytes(sheet)


def ground(rng: Rng) -> Texture:
    """Grass, earth, sand, paving or asphalt."""
    kind = rng.integers(5)
    if kind == 0:
        base = colour(rng, (0.18, 0.32), (0.35, 0.7), (0.25, 0.55))
        return to_bytes(dyed(base, np.clip(1 + 0.25 * noise(rng, 0) + 0.22 * noise(rng, 1) + 0.15 * noise(rng, 3), 0.1, 2)))
    if kind == 1:
        return stone(rng, colour(rng, (0.05, 0.12), (0.2, 0.5), (0.35, 0.85)))
    if kind == 2:
        return tiles(rng, colour(rng, (0.0, 0.15), (0.0, 0.25), (0.4, 0.8)), int(rng.choice((4, 8))), 2, brick=bool(rng.integers(2)))
    grey = rng.uniform(0.2, 0.5)
    return plain(rng, (grey, grey, grey * 1.03), 0.08, 0.13)


def road(rng: Rng, grey: float) -> Texture:
    """Asphalt along y with a broken middle line and edges."""
    sheet = plain(rng, (grey, grey, grey), 0.06, 0.1)
    sheet[:128, 124:132] = 225
    sheet[:, :4] = sheet[:, -4:] = 150
    return sheet


def cut(rng: Rng, surface: Callable[[], Texture], alpha: Texture) -> Texture:
    """A surface with holes where ``alpha`` (256, 256) is below 128."""
    return np.asarray(cv2.merge([surface(), alpha]))


def things(rng: Rng) -> Texture:
    """Whatever small objects are covered with."""
    kind = rng.integers(5)
    if kind == 0:
        return wood(rng, planks=0)
    if kind == 1:
        return fabric(rng)
    if kind == 2:
        return stone(rng, any_colour(rng))
    return plain(rng, any_colour(rng), 0.06, 0.02)


def to_bytes(sheet: npt.NDArray[Any]) -> Texture:
    """Values of the range 1, clipped."""
    levels: Texture = np.clip(np.asarray(sheet, np.float32) * np.float32(255), 0, 255).astype(np.uint8)
    return levels
