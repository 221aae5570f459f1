"""Rooms and open places, drawn at random on a Canvas: the built-in clear pictures with exact depth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dehaze_zoo.data import textures as tx
from dehaze_zoo.data.canvas import Canvas, Surface, later

Floats = npt.NDArray[np.float32]
Rng = np.random.Generator
SKY_DEPTH = 2.0
"""Relative depth of the sky and of what fades into it; 1 is the farthest solid thing."""
_UP = np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True, eq=False)
class Scene:
    clear: Floats
    """(H, W, 3) RGB in [0, 1]."""
    depth: Floats
    """(H, W), distance along the optical axis: 1 is the scene's farthest solid point, the sky lies at SKY_DEPTH."""

    def scaled(self, height: int) -> Scene:
        """The same, averaged over areas down to ``height`` pixels; itself where it is no higher."""
        rows, columns = self.depth.shape
        if height >= rows:
            return self
        size = max(height, round(columns * height / rows)), height
        clear, depth = (cv2.resize(whole, size, interpolation=cv2.INTER_AREA) for whole in (self.clear, self.depth))
        return Scene(np.asarray(clear, np.float32), np.asarray(depth, np.float32))


@dataclass(frozen=True)
class _View:
    """A window of height x width pixels, out of a picture whose height is ``frame``."""

    height: int
    width: int
    frame: int
    top: float
    left: float
    frame_width: int


def draw_scene(rng: Rng, height: int, width: int, frame: int | None = None, outdoor: float = 0.25) -> Scene:
    """One scene: a room, or with probability ``outdoor`` an open place.

    ``frame``: the height in pixels of the whole picture of which a window of height x width is drawn (null: that window is all).
    """
    frame = max(height, frame or height)
    frame_width = max(width, round(frame * max(4 / 3, width / height))) if frame > height else width
    view = _View(height, width, frame, rng.uniform(0, frame - height), rng.uniform(0, frame_width - width), frame_width)
    clear, depth = (_place if rng.random() < outdoor else _room)(rng, view)
    return Scene(_developed(rng, clear, view), depth.astype(np.float32))


def _developed(rng: Rng, clear: Floats, view: _View) -> Floats:
    """Exposure, contrast, white balance, vignetting, blur or sharpening and noise, as a camera leaves them; clipped."""
    luma = clear @ np.array([0.299, 0.587, 0.114], np.float32)
    target = rng.uniform(0.24, 0.55)
    clear = clear * np.float32(np.clip(target / max(float(np.minimum(luma, 1).mean()), 1e-3), 0.5, 2.2))
    pivot = np.float32(target)
    clear = pivot + (clear - pivot) * np.float32(rng.uniform(1.0, 1.75))
    clear = np.clip(clear, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.12)))
    grey = clear.mean(axis=2, keepdims=True)
    clear = grey + (clear - grey) * np.float32(rng.uniform(0.7, 1.35))
    clear = clear * (1 + rng.normal(0, 0.04, 3)).astype(np.float32)
    y = (np.arange(view.height) + view.top) / view.frame * 2 - 1
    x = (np.arange(view.width) + view.left) / view.frame_width * 2 - 1
    clear = clear * (1 - np.float32(rng.uniform(0, 0.2)) * (x[None, :] ** 2 + y[:, None] ** 2) / 2).astype(np.float32)[..., None]
    amount = rng.uniform(-1.0, 0.3)
    clear = clear + np.float32(amount) * (clear - cv2.GaussianBlur(clear, (0, 0), 0.8))
    sigma = max(0.0, rng.normal(0.002, 0.004))
    if sigma:
        clear = clear + np.float32(sigma) * rng.standard_normal(clear.shape, dtype=np.float32)
    return np.clip(clear, 0, 1).astype(np.float32)


# ----------------------------------------------------------------------------------------------------------------------- rooms


def _room(rng: Rng, view: _View) -> tuple[Floats, Floats]:
    wide, deep, high = rng.uniform(3, 8), rng.uniform(3.5, 9.5), rng.uniform(2.4, 3.3)
    eye = np.array([rng.uniform(-0.4, 0.4) * wide, rng.uniform(0.9, 1.8), rng.uniform(0.15, 0.6)])
    yaw, pitch = rng.normal(0, 0.45), rng.uniform(-0.05, 0.35)
    focal = view.frame * rng.uniform(0.95, 1.35)
    surfaces = _surfaces(rng)
    shell = _Shell(wide, deep, high, surfaces)
    canvas = Canvas(view.height, view.width, focal, (view.frame_width / 2 - view.left, view.frame / 2 - view.top), eye, yaw, pitch)
    footprints: list[tuple[float, float, float, float]] = []
    _furnish(rng, canvas, shell, footprints)
    _hang(rng, canvas, shell)
    shell.draw(canvas, _floor_shade(shell, footprints, rng))
    lamps = []
    for _ in range(int(rng.integers(1, 4))):
        place = np.array([rng.uniform(-0.4, 0.4) * wide, high * rng.uniform(0.6, 0.95), rng.uniform(0.1, 0.95) * deep])
        warm = tx.colour(rng, (0.06, 0.14), (0.0, 0.45), (0.5, 1.2))
        lamps.append((place, warm, rng.uniform(1.2, 4.5)))
        if rng.random() < 0.5:
            glass = later(rng, tx.plain, (1.0, 0.97, 0.9), 0.01, 0.0)
            canvas.sphere(place, rng.uniform(0.06, 0.16), glass, glow=1)
            canvas.cylinder(place, 0.01, max(0.05, high - place[1]), later(rng, tx.plain, (0.2, 0.2, 0.2)))
    sun = (np.array([rng.uniform(-1, 1), rng.uniform(0.2, 1), rng.uniform(-1, 0.3)]), tx.colour(rng, (0.08, 0.15), (0, 0.2), (0.1, 0.7)))
    clear, depth = canvas.lit(rng.uniform(0.35, 0.8), sun, lamps)
    return clear, np.minimum(depth / shell.farthest(view, focal, eye, yaw, pitch), 1)


def _surfaces(rng: Rng) -> dict[str, Surface]:
    wall = tx.any_colour(rng) if rng.random() < 0.25 else tx.colour(rng, (0.03, 0.2), (0.02, 0.35), (0.55, 0.98))
    kind = rng.random()
    if kind < 0.72:
        walls = later(rng, tx.plain, wall, 0.05, 0.015)
    elif kind < 0.9:
        walls = later(rng, tx.fabric, wall)  # wallpaper
    else:
        walls = later(rng, tx.tiles, wall, int(rng.integers(3, 8)), 2, brick=bool(rng.integers(2)))
    kind = rng.random()
    if kind < 0.5:
        floor = later(rng, tx.wood)
    elif kind < 0.75:
        floor = later(rng, tx.tiles, tx.colour(rng, (0.0, 0.15), (0.0, 0.3), (0.35, 0.98)), int(rng.integers(2, 5)), 2)
    else:
        floor = later(rng, tx.plain, tx.any_colour(rng), 0.06, 0.1)  # carpet
    ceiling = later(rng, tx.plain, tx.colour(rng, (0.05, 0.18), (0.0, 0.12), (0.8, 1.0)), 0.03, 0.01)
    trim = later(rng, tx.plain, (0.9, 0.9, 0.88), 0.03) if rng.random() < 0.6 else later(rng, tx.wood, planks=0)
    return {"walls": walls, "floor": floor, "ceiling": ceiling, "trim": trim}


class _Shell:
    """Floor (y = 0), walls at x = +-wide/2 and z = deep, a wall behind the camera, ceiling."""

    def __init__(self, wide: float, deep: float, high: float, surfaces: dict[str, Surface]) -> None:
        self.wide, self.deep, self.high, self.surfaces = wide, deep, high, surfaces
        w = wide / 2
        back = np.array([-w, high, -0.1])
        self.walls = [  # corner, edge along, length
            (np.array([-w, high, deep]), np.array([1.0, 0, 0]), wide),
            (back, np.array([0, 0, 1.0]), deep + 0.1),
            (np.array([w, high, -0.1]), np.array([0, 0, 1.0]), deep + 0.1),
            (back, np.array([1.0, 0, 0]), wide),
        ]

    def draw(self, canvas: Canvas, shade: Floats | None) -> None:
        down = np.array([0, -self.high, 0])
        for corner, along, length in self.walls:
            canvas.quad(corner, along * length, down, self.surfaces["walls"], (length / 2, self.high / 2))
        w, size = self.wide / 2, (self.wide, 0, 0)
        canvas.quad((-w, self.high, -0.1), size, (0, 0, self.deep + 0.1), self.surfaces["ceiling"], (self.wide / 2, self.deep / 2))
        floor = self.surfaces["floor"]
        if shade is None:
            canvas.quad((-w, 0, -0.1), size, (0, 0, self.deep + 0.1), floor)
            return
        repeat = (max(1, round(self.wide / 2)), max(1, round(self.deep / 2)))
        canvas.quad((-w, 0, -0.1), size, (0, 0, self.deep + 0.1), floor, repeat, shade=shade)

    def farthest(self, view: _View, focal: float, eye: npt.NDArray[np.float64], yaw: float, pitch: float) -> float:
        """The largest depth of the bare room anywhere in the whole picture, so that a window's haze is the picture's."""
        small = 24 / view.frame
        columns = max(1, round(view.frame_width * small))
        canvas = Canvas(24, columns, focal * small, (columns / 2, 12), eye, yaw, pitch, finer=1)
        self.draw(canvas, None)
        near = canvas.nearness[canvas.nearness > 0]
        return float(1 / near.min()) if near.size else self.deep


def _floor_shade(shell: _Shell, footprints: list[tuple[float, float, float, float]], rng: Rng) -> Floats:
    """Light on the floor, (64, 64): soft shadows under the furniture, darker along the walls, at times a patch of sun."""
    side = 64
    shade = np.ones((side, side), np.float32)
    for x, z, wide, deep in footprints:
        left, right = ((np.array([x - wide / 2, x + wide / 2]) / shell.wide + 0.5) * side).astype(int)
        near, far = (np.array([z - deep / 2, z + deep / 2]) / shell.deep * side).astype(int)
        shade[max(0, near) : max(0, far + 1), max(0, left) : max(0, right + 1)] *= 0.45
    shade[:2] = shade[-2:] = shade[:, :2] = shade[:, -2:] = 0.6
    shade = np.asarray(cv2.GaussianBlur(shade, (0, 0), 2.0), np.float32)
    if rng.random() < 0.3:
        patch = np.zeros((side, side), np.uint8)
        x, y = rng.integers(8, 56, size=2)
        lean, across, down = rng.integers(-14, 15), rng.integers(5, 16), rng.integers(6, 22)
        cv2.fillConvexPoly(patch, np.array([[x, y], [x + across, y], [x + across + lean, y + down], [x + lean, y + down]]), 255)
        shade += cv2.GaussianBlur(patch, (0, 0), 0.7).astype(np.float32) / 255 * np.float32(rng.uniform(0.3, 1.2))
    return shade


def _hang(rng: Rng, canvas: Canvas, shell: _Shell) -> None:
    """What is on the walls: pictures, windows with curtains, doors, shelves, mirrors, and the skirting board."""
    glow_windows = rng.random() < 0.75
    for corner, along, length in shell.walls[:3]:
        inwards = np.array([-along[2], 0, along[0]])  # along x up
        inwards = inwards if (np.array([0.0, 0.0, shell.deep / 2]) - corner) @ inwards > 0 else -inwards
        place = rng.uniform(0.1, 0.6)

        def put(left: float, bottom: float, wide: float, tall: float, texture: Surface, out: float = 0.02, glow: float = 0.0) -> None:
            start = corner + along * left + inwards * out  # noqa: B023
            start[1] = bottom + tall
            canvas.quad(start, along * wide, (0, -tall, 0), texture, glow=glow)  # noqa: B023

        board = rng.uniform(0.08, 0.2)
        put(0, 0, length, board, shell.surfaces["trim"], 0.015)
        if rng.random() < 0.25:
            put(0, shell.high - 0.1, length, 0.1, shell.surfaces["trim"], 0.02)
        while place < length - 0.5:
            kind, wide = rng.random(), rng.uniform(0.3, 1.3)
            wide = min(wide, length - place - 0.1)
            if kind < 0.4:
                tall = wide * rng.uniform(0.6, 1.5)
                put(place, min(rng.uniform(1.1, 1.6), max(0.2, shell.high - tall - 0.1)), wide, tall, later(rng, tx.painting))
            elif kind < 0.62:
                wide, tall, bottom = min(wide * 1.6, length - place - 0.05), rng.uniform(1.0, 1.6), rng.uniform(0.5, 0.95)
                put(place, bottom, wide, tall, later(rng, tx.window), glow=1.0 if glow_windows else 0.4)
                if rng.random() < 0.5:
                    cloth, part = later(rng, tx.curtain), rng.uniform(0.15, 0.5)
                    glow = rng.uniform(0, 0.5)
                    put(place - 0.1, 0.1, wide * part, bottom + tall, cloth, 0.08, glow)
                    put(place + 0.1 + wide * (1 - part), 0.1, wide * part, bottom + tall, cloth, 0.08, glow)
            elif kind < 0.75:
                surface = later(rng, tx.wood, planks=0) if rng.random() < 0.5 else later(rng, tx.plain, (0.92, 0.9, 0.86))
                put(place - 0.06, 0, 0.98, 2.12, shell.surfaces["trim"], 0.015)
                put(place, 0, 0.86, 2.05, later(rng, tx.panels, surface, 3, 2) if rng.random() < 0.8 else surface, 0.03)
                wide = 1.0
            elif kind < 0.85:
                put(place, rng.uniform(1.0, 1.5), wide, rng.uniform(0.4, 0.9), later(rng, tx.books), 0.03)
            elif kind < 0.92:
                put(place, 1.1, 0.08, 0.12, later(rng, tx.plain, (0.95, 0.95, 0.93)), 0.02)  # a switch
            place += wide + rng.uniform(0.1, 0.9)


def _furnish(rng: Rng, canvas: Canvas, shell: _Shell, footprints: list[tuple[float, float, float, float]]) -> None:
    w = shell.wide / 2
    family = later(rng, tx.wood, planks=0) if rng.random() < 0.7 else later(rng, tx.things)
    if rng.random() < 0.8:  # a table with chairs
        x, z = rng.uniform(-0.5, 0.5) * w, rng.uniform(0.3, 0.75) * shell.deep
        wide, deep, turn = rng.uniform(0.8, 2.2), rng.uniform(0.7, 1.2), rng.choice((0.0, np.pi / 2)) + rng.normal(0, 0.12)
        _table(rng, canvas, x, z, wide, deep, rng.uniform(0.68, 0.8), turn, family if rng.random() < 0.7 else later(rng, tx.things))
        footprints.append((x, z, wide, deep))
        seat, back = later(rng, tx.fabric, tx.any_colour(rng)) if rng.random() < 0.5 else family, rng.integers(3)
        sin, cos = np.sin(turn), np.cos(turn)
        for side, across, facing in ((-1, 0, np.pi), (1, 0, 0.0), (0, -1, np.pi / 2), (0, 1, -np.pi / 2)):
            count = int(rng.integers(0, 4)) if across == 0 else int(rng.integers(0, 2))
            for k in range(count):
                spread = (k + 0.5) / count - 0.5
                u = spread * wide if across == 0 else across * (wide / 2 + 0.2)
                v = side * (deep / 2 + 0.2) if across == 0 else 0.0
                u, v = u + rng.normal(0, 0.04), v + rng.normal(0, 0.06)
                cx, cz = x + u * cos + v * sin, z - u * sin + v * cos
                _chair(rng, canvas, cx, cz, turn + facing * (1 if across == 0 else -1), family, seat, int(back))
                footprints.append((cx, cz, 0.45, 0.45))
    if rng.random() < 0.5:
        rug, x, z = later(rng, tx.fabric), rng.uniform(-0.5, 0.5) * w, rng.uniform(0.3, 0.7) * shell.deep
        canvas.quad((x - 1.2, 0.006, z - 0.8), (2.4, 0, 0), (0, 0, 1.6), rug, (1, 1))
    for _ in range(int(rng.integers(3, 9))):  # along the walls
        wall = int(rng.choice((0, 1, 2)))
        _, _, length = shell.walls[wall]
        kind, wide, deep = rng.integers(6), rng.uniform(0.5, 1.8), rng.uniform(0.3, 0.6)
        along = rng.uniform(0.1, 0.9)
        if wall == 0:
            x, z, turn = (along - 0.5) * (length - wide), shell.deep - deep / 2, 0.0
        else:
            x, turn = (w - deep / 2) * (-1 if wall == 1 else 1), np.pi / 2 * (-1 if wall == 1 else 1)
            z = 0.8 + along * max(0.1, length - wide - 1.0)
        if np.hypot(x - canvas.eye[0], z - canvas.eye[2]) < 0.9 + wide / 2:
            continue
        footprints.append((x, z, wide if wall == 0 else deep, deep if wall == 0 else wide))
        surface = family if rng.random() < 0.5 else later(rng, tx.things)
        if kind <= 1:
            tall = rng.uniform(0.5, 1.3)
            front = later(rng, tx.panels, surface, int(rng.integers(1, 5)), int(rng.integers(1, 4)))
            canvas.box((x, z), 0, (wide, tall, deep), turn, surface, front)
            _clutter(rng, canvas, x, z, wide, deep, tall, turn)
        elif kind == 2:
            tall = rng.uniform(1.2, 2.2)
            canvas.box((x, z), 0, (wide, tall, deep), turn, surface, later(rng, tx.books))
        elif kind == 3:
            _sofa(rng, canvas, x, z, max(wide, 1.0), turn)
        elif kind == 4:
            tall = rng.uniform(1.4, 2.1)
            plain = later(rng, tx.plain, tx.any_colour(rng), 0.02)
            canvas.box((x, z), 0, (min(wide, 0.9), tall, deep), turn, plain, later(rng, tx.panels, plain, 2, 1))
        else:
            _plant(rng, canvas, x, z)
    if rng.random() < 0.35:  # a bed, or a low table, in the open
        x, z = rng.uniform(-0.6, 0.6) * w, rng.uniform(0.45, 0.8) * shell.deep
        turn = rng.choice((0.0, np.pi / 2))
        if rng.random() < 0.5 and shell.wide > 3.5:
            canvas.box((x, z), 0, (1.6, 0.3, 2.0), turn, family)
            canvas.box((x, z), 0.3, (1.6, 0.25, 2.0), turn, later(rng, tx.fabric))
            canvas.box((x, z + 0.95), 0.0, (1.6, 1.0, 0.08), 0.0, family)
            footprints.append((x, z, 1.8, 2.1))
        else:
            _table(rng, canvas, x, z, rng.uniform(0.6, 1.2), rng.uniform(0.4, 0.7), rng.uniform(0.3, 0.5), turn, later(rng, tx.things))
            footprints.append((x, z, 1.0, 0.6))
    for _ in range(int(rng.integers(0, 6))):  # things on the floor
        x, z, size = rng.uniform(-0.9, 0.9) * w, rng.uniform(0.35, 0.95) * shell.deep, rng.uniform(0.1, 0.5)
        footprints.append((x, z, size, size))
        kind = rng.integers(3)
        if kind == 0:
            canvas.box((x, z), 0, (size, size * rng.uniform(0.4, 1.5), size), rng.uniform(0, 3), later(rng, tx.things))
        elif kind == 1:
            canvas.sphere((x, size / 2, z), size / 2, later(rng, tx.things))
        else:
            canvas.cylinder((x, 0, z), size / 2, size * rng.uniform(0.6, 2.0), later(rng, tx.things))


def _table(rng: Rng, canvas: Canvas, x: float, z: float, wide: float, deep: float, tall: float, turn: float, texture: Surface) -> None:
    canvas.box((x, z), tall - 0.05, (wide, 0.05, deep), turn, texture)
    sin, cos = np.sin(turn), np.cos(turn)
    leg = rng.uniform(0.04, 0.09)
    if rng.random() < 0.8:
        for sx in (-1, 1):
            for sz in (-1, 1):
                u, v = sx * (wide / 2 - leg), sz * (deep / 2 - leg)
                canvas.box((x + u * cos + v * sin, z - u * sin + v * cos), 0, (leg, tall - 0.05, leg), turn, texture)
    else:
        canvas.cylinder((x, 0, z), leg * 1.5, tall - 0.05, texture)
    _clutter(rng, canvas, x, z, wide, deep, tall, turn)


def _clutter(rng: Rng, canvas: Canvas, x: float, z: float, wide: float, deep: float, base: float, turn: float) -> None:
    sin, cos = np.sin(turn), np.cos(turn)
    for _ in range(int(rng.integers(0, 7))):
        u, v = rng.uniform(-0.45, 0.45) * wide, rng.uniform(-0.4, 0.4) * deep
        cx, cz, size, kind = x + u * cos + v * sin, z - u * sin + v * cos, rng.uniform(0.06, 0.28), rng.integers(6)
        if kind <= 1:
            canvas.box(
                (cx, cz), base, (size, size * rng.uniform(0.1, 1.2), size * rng.uniform(0.4, 1)), rng.uniform(0, 3), later(rng, tx.things)
            )
        elif kind == 2:
            canvas.box(
                (cx, cz), base, (size, 0.01, size * 1.3), rng.uniform(0, 3), later(rng, tx.painting), top=later(rng, tx.painting)
            )  # paper
        elif kind == 3:
            canvas.sphere((cx, base + size / 3, cz), size / 3, later(rng, tx.things))
        elif kind == 4:
            canvas.cylinder((cx, base, cz), size / 4, size, later(rng, tx.things))
        else:
            _plant(rng, canvas, cx, cz, base, 0.5)


def _chair(rng: Rng, canvas: Canvas, x: float, z: float, turn: float, frame: Surface, seat: Surface, back: int) -> None:
    """Its back stands at +z before turning."""
    if np.hypot(x - canvas.eye[0], z - canvas.eye[2]) < 0.45:
        return
    sin, cos = np.sin(turn), np.cos(turn)

    def at(u: float, v: float) -> tuple[float, float]:
        return x + u * cos + v * sin, z - u * sin + v * cos

    canvas.box((x, z), 0.42, (0.44, 0.06, 0.42), turn, seat)
    for u in (-0.19, 0.19):
        canvas.box(at(u, -0.18), 0, (0.04, 0.42, 0.04), turn, frame)
        canvas.box(at(u, 0.19), 0, (0.04, 0.98 if back else 0.42, 0.04), turn, frame)
    if back == 0:
        canvas.box(at(0, 0.2), 0.44, (0.44, rng.uniform(0.45, 0.6), 0.06), turn, seat)
    elif back == 1:
        for y in (0.55, 0.72, 0.88):
            canvas.box(at(0, 0.19), y, (0.38, 0.07, 0.02), turn, frame)
    else:
        canvas.box(at(0, 0.19), 0.9, (0.42, 0.09, 0.03), turn, frame)
        for u in (-0.1, 0.0, 0.1):
            canvas.box(at(u, 0.19), 0.48, (0.03, 0.42, 0.02), turn, frame)


def _sofa(rng: Rng, canvas: Canvas, x: float, z: float, wide: float, turn: float) -> None:
    cloth, sin, cos = later(rng, tx.fabric, tx.any_colour(rng)), np.sin(turn), np.cos(turn)

    def at(u: float, v: float) -> tuple[float, float]:
        return x + u * cos + v * sin, z - u * sin + v * cos

    canvas.box(at(0, -0.2), 0.05, (wide, 0.38, 0.85), turn, cloth)
    canvas.box(at(0, 0.15), 0.05, (wide, 0.82, 0.2), turn, cloth)
    for side in (-1, 1):
        canvas.box(at(side * (wide / 2 - 0.09), -0.2), 0.05, (0.18, 0.58, 0.85), turn, cloth)
    for k in range(int(rng.integers(0, 4))):
        canvas.box(at((k - 1) * wide / 3.6, 0.0), 0.43, (0.4, 0.36, 0.14), turn + rng.normal(0, 0.2), later(rng, tx.fabric))


def _plant(rng: Rng, canvas: Canvas, x: float, z: float, base: float = 0.0, size: float = 1.0) -> None:
    pot, tall = 0.28 * size, rng.uniform(0.5, 1.3) * size
    canvas.cylinder((x, base, z), pot * 0.45, pot, later(rng, tx.things))
    for turn in (0.0, 1.1, 2.2):
        aside = np.array([np.cos(turn), 0, np.sin(turn)]) * tall * 0.8
        canvas.quad(np.array([x, base + pot * 0.8 + tall, z]) - aside / 2, aside, (0, -tall, 0), later(rng, tx.foliage))


# ---------------------------------------------------------------------------------------------------------------- open places


def _place(rng: Rng, view: _View) -> tuple[Floats, Floats]:
    far = rng.uniform(25, 120)  # metres to the farthest solid thing
    eye = np.array([0.0, rng.uniform(1.4, 6), 0.0])
    pitch, focal = rng.normal(0.02, 0.06), view.frame * rng.uniform(0.75, 1.3)
    centre = (view.frame_width / 2 - view.left, view.frame / 2 - view.top)
    canvas = Canvas(view.height, view.width, focal, centre, eye, 0.0, pitch)
    town = rng.random() < 0.6
    _ground(rng, canvas, far, town)
    greens = [later(rng, tx.foliage) for _ in range(4)]
    fronts = [later(rng, tx.facade) for _ in range(3)] if town else []
    for _ in range(int(rng.integers(4, 12))):
        z = far * rng.uniform(0.12, 0.95)
        x = rng.choice((-1, 1)) * rng.uniform(0.12, 0.7) * z + rng.normal(0, 1)
        if town and rng.random() < 0.55:
            size = (rng.uniform(6, 18), rng.uniform(5, 22), rng.uniform(6, 14))
            front = fronts[int(rng.integers(len(fronts)))]
            x = x + np.sign(x) * size[0] / 2
            canvas.box((x, z + size[2] / 2), 0, size, rng.normal(0, 0.15), front, front, later(rng, tx.stone), repeat=0.08)
        else:
            _tree(rng, canvas, x, z, rng.uniform(2.5, 9), greens)
    for _ in range(int(rng.integers(2, 9))):  # near things
        z, x = rng.uniform(2.5, 14), rng.uniform(-5, 5)
        tall, kind = rng.uniform(0.3, 1.6), rng.integers(5)
        if kind == 0:
            canvas.cylinder((x, 0, z), tall * 0.08, tall * 2.2, later(rng, tx.things))
        elif kind == 1:
            canvas.box((x, z), 0, (tall, tall * rng.uniform(0.4, 1.2), tall), rng.uniform(0, 3), later(rng, tx.things))
        elif kind == 2:
            canvas.sphere((x, tall / 2, z), tall / 2, later(rng, tx.stone))
        elif kind == 3:
            aside = np.array([tall * 1.6, 0, rng.normal(0, 0.3)])
            canvas.quad(np.array([x, tall * 1.1, z]), aside, (0, -tall * 1.2, 0), greens[int(rng.integers(4))])
        else:
            _car(rng, canvas, x * 1.5, z + 3)
    _hills(rng, canvas, far)
    sun = np.array([rng.uniform(-1, 1), rng.uniform(0.3, 1.2), rng.uniform(-1, 0.6)])
    canvas.backdrop(_sky(rng, canvas))
    clear, depth = canvas.lit(rng.uniform(0.4, 0.75), (sun, tx.colour(rng, (0.08, 0.16), (0.0, 0.3), (0.2, 0.9))), [])
    return clear, np.minimum(depth / far, SKY_DEPTH)


def _ground(rng: Rng, canvas: Canvas, far: float, town: bool) -> None:
    reach = far * SKY_DEPTH
    canvas.quad((-reach, 0, -1), (2 * reach, 0, 0), (0, 0, reach + 1), later(rng, tx.ground), (2 * reach / 5, reach / 5))
    if town or rng.random() < 0.4:
        wide, x = rng.uniform(3, 9), rng.uniform(-4, 4)
        grey = rng.uniform(0.2, 0.45)
        road = later(rng, tx.road, grey)
        canvas.quad((x - wide / 2, 0.01, -1), (wide, 0, 0), (rng.normal(0, 0.15) * far, 0, far), road, (1, far / 8))


def _tree(rng: Rng, canvas: Canvas, x: float, z: float, tall: float, greens: list[Surface]) -> None:
    bark = later(rng, tx.wood, tx.colour(rng, (0.05, 0.1), (0.15, 0.4), (0.15, 0.45)), 0)
    canvas.cylinder((x, 0, z), tall * 0.03, tall * 0.6, bark)
    for _ in range(int(rng.integers(2, 5))):
        wide = tall * rng.uniform(0.5, 0.8)
        corner = np.array([x - wide / 2 + rng.normal(0, 0.12) * tall, tall * rng.uniform(0.85, 1.1), z + rng.normal(0, 0.12) * tall])
        canvas.quad(
            corner, (wide, 0, rng.normal(0, 0.2) * wide), (0, -tall * rng.uniform(0.5, 0.7), 0), greens[int(rng.integers(len(greens)))]
        )


def _car(rng: Rng, canvas: Canvas, x: float, z: float) -> None:
    paint, glass, tyre = (
        later(rng, tx.plain, tx.any_colour(rng), 0.03, 0.0),
        later(rng, tx.plain, (0.1, 0.12, 0.15)),
        later(rng, tx.plain, (0.06, 0.06, 0.06)),
    )
    canvas.box((x, z), 0.3, (1.7, 0.55, 3.9), 0, paint)
    canvas.box((x, z), 0.85, (1.5, 0.5, 2.0), 0, glass)
    canvas.box((x, z), 1.33, (1.5, 0.05, 2.0), 0, paint)
    for u in (-0.7, 0.7):
        for v in (-1.25, 1.25):
            canvas.box((x + u, z + v), 0, (0.25, 0.6, 0.6), 0, tyre)


def _hills(rng: Rng, canvas: Canvas, far: float) -> None:
    for _ in range(int(rng.integers(0, 4))):
        z, tall = far * rng.uniform(0.97, 1.0), far * rng.uniform(0.06, 0.3)
        cover = later(rng, tx.foliage, solid=True) if rng.random() < 0.7 else later(rng, tx.stone)
        outline = np.cumsum(rng.normal(0, 1, tx.SIDE)) + 6 * np.sin(np.linspace(0, rng.uniform(4, 14), tx.SIDE))
        outline = (outline - outline.min()) / max(float(np.ptp(outline)), 1e-6) * tx.SIDE * 0.8
        alpha = np.where(np.arange(tx.SIDE)[:, None] >= outline[None, :], 255, 0).astype(np.uint8)
        width = far * 3
        canvas.quad((-width / 2, tall, z), (width, 0, 0), (0, -tall - 1, 0), later(rng, tx.cut, cover, alpha))


def _sky(rng: Rng, canvas: Canvas) -> tx.Texture:
    """A gradient from the horizon up, and clouds that flatten towards the horizon; overcast at times."""
    rows, columns = canvas.nearness.shape
    slope = -canvas.ys
    up = np.clip(slope / 0.8 + 0.1, 0, 1)[:, None, None]
    zenith = tx.colour(rng, (0.54, 0.64), (0.2, 0.75), (0.5, 0.95))
    horizon = tx.colour(rng, (0.05, 0.6), (0.0, 0.25), (0.75, 1.0))
    sheet = np.broadcast_to(horizon * (1 - up) + zenith * up, (rows, columns, 3)).astype(np.float32)
    height = 1 / np.maximum(slope[:, None] + 0.25, 0.05)
    u, v = (canvas.xs[None, :] * height * 60 + 99).astype(np.float32), (np.broadcast_to(height, (rows, columns)) * 80).astype(np.float32)
    field = tx.noise(rng, 3) + 0.35 * tx.noise(rng, 2)
    cloud = cv2.remap(field.astype(np.float32), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    mask = np.clip((cloud + rng.uniform(-1.2, 1.2)) * rng.uniform(0.5, 1.4), 0, 1)[..., None] * rng.uniform(0.4, 1)
    white = np.float32(rng.uniform(0.8, 1.05)) - 0.12 * np.clip(cloud, 0, 2)[..., None]
    return tx.to_bytes(sheet * (1 - mask) + white * mask)
