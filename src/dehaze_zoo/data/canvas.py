"""A small ray caster on numpy and OpenCV: textured quads, boxes, spheres and cylinders with exact depth, lit after all are drawn.

Camera space: x right, y down, z forward, metres; a pixel's ray is (x, y, 1), so that the parameter along it is z, the depth.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Texture = npt.NDArray[np.uint8]
"""(h, w, 3) albedo, or (h, w, 4) with holes where the last channel is below 128."""
Vector = npt.NDArray[np.floating[Any]] | tuple[float, float, float]
Surface = Callable[[], Texture]
"""A texture that is made when a pixel shows it."""
Part = tuple[slice, slice]
_NEAR = 0.05  # metres


def later(rng: np.random.Generator, make: Callable[..., Texture], *arguments: Any, **named: Any) -> Surface:
    """make(generator, ...) as a Surface; its generator is a new one, so that it does not matter whether it is ever made."""
    seed = int(rng.integers(2**62))
    return functools.cache(lambda: make(np.random.default_rng(seed), *arguments, **named))


class Canvas:
    """Colour, depth and normals of a window of height x width pixels, ``finer`` samples a pixel along each axis.

    ``focal`` in pixels; ``centre`` (x, y): where the optical axis meets the picture, in pixels from the window's corner. The world has y
    up; ``eye`` is the camera there, ``yaw`` to the right and ``pitch`` downwards in radians.
    """

    def __init__(
        self, height: int, width: int, focal: float, centre: tuple[float, float], eye: Vector, yaw: float, pitch: float, finer: int = 2
    ) -> None:
        self.size, self.finer = (height, width), finer
        rows, columns = height * finer, width * finer
        self.focal = focal * finer
        self._centre = (centre[0] * finer, centre[1] * finer)
        self.xs = ((np.arange(columns) + 0.5 - self._centre[0]) / self.focal).astype(np.float32)
        self.ys = ((np.arange(rows) + 0.5 - self._centre[1]) / self.focal).astype(np.float32)
        self.eye = np.asarray(eye, dtype=np.float64)
        (sin_y, cos_y), (sin_p, cos_p) = (np.sin(yaw), np.cos(yaw)), (np.sin(pitch), np.cos(pitch))
        right, ahead = np.array([cos_y, 0, -sin_y]), np.array([sin_y * cos_p, -sin_p, cos_y * cos_p])
        self.axes = np.stack([right, _cross(right, ahead), ahead])  # rows: x right, y down, z forward, in world coordinates
        self.nearness = np.zeros((rows, columns), np.float32)  # 1 / z; 0 is the sky
        self.albedo = np.zeros((rows, columns, 3), np.uint8)
        self.normals = np.zeros((3, rows, columns), np.float32)
        self.glow = np.zeros((rows, columns), np.float32)  # 1: shines by itself, is not lit
        self._reduced: dict[
            tuple[int, int], tuple[Texture, Texture]
        ] = {}  # by id and level: a texture, kept so that its id is, and its copy

    def to_camera(self, point: Vector) -> npt.NDArray[np.float64]:
        return np.asarray(self.axes @ (np.asarray(point, dtype=np.float64) - self.eye))

    def quad(self, corner: Vector, along: Vector, down: Vector, texture: Surface, repeat: tuple[float, float] = (1, 1), glow: float = 0,
        shade: Floats | None = None,
    ) -> None:  # fmt: skip
        """A parallelogram from ``corner`` (world), its texture ``repeat`` times along the two edges; seen from both sides.

        ``shade``: factors of the albedo over the whole of it, a map of any size."""
        origin, e1, e2 = (
            self.to_camera(corner),
            self.axes @ np.asarray(along, dtype=np.float64),
            self.axes @ np.asarray(down, dtype=np.float64),
        )
        window = self._window(np.stack([origin, origin + e1, origin + e2, origin + e1 + e2]))
        normal = _cross(e1, e2)
        volume = float(normal @ origin)
        if window is None or abs(volume) < 1e-9:
            return
        inverse = (np.array([_cross(e2, origin), _cross(origin, e1), normal]) / volume).astype(np.float32)  # of the columns e1, e2, origin
        xs, ys = self.xs[window[1]], self.ys[window[0]]
        u, v, near = (row[0] * xs[None, :] + (row[1] * ys + row[2])[:, None] for row in inverse)
        seen = (near > self.nearness[window]) & (near < 1 / _NEAR) & (u >= 0) & (u <= near) & (v >= 0) & (v <= near)
        part = _extent(seen)
        if part is None:
            return
        window, seen, near = _within(window, part), seen[part], near[part]
        far = 1 / np.maximum(near, np.float32(1e-6))
        u, v, sheet = u[part] * far, v[part] * far, texture()
        h, w = sheet.shape[:2]
        step = (np.abs(inverse[0, :2]).max() * w * repeat[0], np.abs(inverse[1, :2]).max() * h * repeat[1])  # texels a unit of x, times z
        texels = max(np.sqrt(step[0] * step[1]), 1e-6) / self.focal * far * (1 + np.abs(inverse[2, :2]).max() * far)
        colour = self._sampled(sheet, u * np.float32(repeat[0] * w), v * np.float32(repeat[1] * h), texels, seen)
        if shade is not None:
            wide, tall = np.float32(shade.shape[1]), np.float32(shade.shape[0])
            factor = cv2.remap(
                shade, u * wide - np.float32(0.5), v * tall - np.float32(0.5), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            colour = np.clip(colour * factor[..., None], 0, 255).astype(np.uint8)
        if sheet.shape[2] == 4:
            seen &= colour[..., 3] >= 128
        facing = normal / np.linalg.norm(normal) * (-1 if volume > 0 else 1)
        self._put(window, seen, near, colour[..., :3], facing.astype(np.float32)[:, None, None], glow)

    def box(
        self, centre: tuple[float, float], base: float, size: tuple[float, float, float], turn: float, texture: Surface,
        front: Surface | None = None, top: Surface | None = None, repeat: float = 1.0,
    ) -> None:  # fmt: skip
        """An upright box on height ``base``: centre (x, z), size (width, height, depth), turned about the vertical; ``front`` faces -z."""
        ahead, aside = np.array([np.sin(turn), 0, np.cos(turn)]), np.array([np.cos(turn), 0, -np.sin(turn)])
        width, height, depth = size
        middle = np.array([centre[0], base + height / 2, centre[1]])
        up = np.array([0.0, 1.0, 0.0])
        sides = [(-ahead, depth, aside, width, up, height, front), (ahead, depth, -aside, width, up, height, None)]
        sides += [(aside, width, ahead, depth, up, height, None), (-aside, width, -ahead, depth, up, height, None)]
        sides += [(up, height, aside, width, ahead, depth, top), (-up, height, aside, width, -ahead, depth, None)]
        for normal, through, right, wide, over, tall, own in sides:
            face = middle + normal * through / 2
            if (self.eye - face) @ normal <= 0:
                continue
            corner = face - right * wide / 2 + over * tall / 2
            scale = (1.0, 1.0) if own is not None else (max(wide * repeat, 0.02), max(tall * repeat, 0.02))
            self.quad(corner, right * wide, -over * tall, texture if own is None else own, scale)

    def sphere(self, centre: Vector, radius: float, texture: Surface, glow: float = 0, repeat: float = 0.5) -> None:
        c = self.to_camera(centre)
        window = self._window(c + radius * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]))
        if window is None or c[2] < radius + _NEAR:
            return
        x, y = self.xs[window[1]][None, :], self.ys[window[0]][:, None]
        squared = x * x + y * y + 1
        along = np.float32(c[0]) * x + np.float32(c[1]) * y + np.float32(c[2])
        under = along * along - squared * np.float32(c @ c - radius * radius)
        z = (along - np.sqrt(np.maximum(under, 0))) / squared
        near = 1 / np.maximum(z, np.float32(1e-6))
        seen = (under > 0) & (near > self.nearness[window])
        if seen.any():
            normal = np.stack([x * z - np.float32(c[0]), y * z - np.float32(c[1]), z - np.float32(c[2])]) / np.float32(radius)
            sheet = texture()
            h, w = sheet.shape[:2]
            colour = self._sampled(sheet, normal[0] * np.float32(w * repeat), normal[1] * np.float32(h * repeat), None, seen)
            self._put(window, seen, near, colour, normal, glow)

    def cylinder(self, foot: Vector, radius: float, height: float, texture: Surface, repeat: tuple[float, float] = (2, 1)) -> None:
        """An upright cylinder on ``foot``, closed at the top."""
        c, up = self.to_camera(foot), self.axes[:, 1]
        ring = np.array([[x, y, z] for x in (-radius, radius) for y in (0, height) for z in (-radius, radius)])
        window = self._window(np.stack([self.to_camera(np.asarray(foot) + corner) for corner in ring]))
        if window is None or c[2] < radius + _NEAR:
            return
        ray = np.broadcast_arrays(self.xs[window[1]][None, :], self.ys[window[0]][:, None], np.float32(1))
        rise, lift = sum(np.float32(a) * r for a, r in zip(up, ray, strict=True)), float(c @ up)
        flat = [r - rise * np.float32(a) for a, r in zip(up, ray, strict=True)]
        c_flat = (c - lift * up).astype(np.float32)
        squared = sum(f * f for f in flat)
        along = sum(f * a for f, a in zip(flat, c_flat, strict=True))
        under = along * along - squared * np.float32(c_flat @ c_flat - radius * radius)
        z = (along - np.sqrt(np.maximum(under, 0))) / squared
        level = z * rise - np.float32(lift)
        near = 1 / np.maximum(z, np.float32(1e-6))
        seen = (under > 0) & (level >= 0) & (level <= height) & (near > self.nearness[window])
        if seen.any():
            normal = np.stack([(f * z - a) / np.float32(radius) for f, a in zip(flat, c_flat, strict=True)])
            sheet = texture()
            h, w = sheet.shape[:2]
            north, east = (np.tensordot(self.axes[:, axis].astype(np.float32), normal, 1) for axis in (2, 0))
            angle = np.arctan2(north, east) / np.float32(2 * np.pi)
            colour = self._sampled(sheet, angle * np.float32(w * repeat[0]), level * np.float32(-h * repeat[1]), None, seen)
            self._put(window, seen, near, colour, normal, 0)
        top = np.asarray(foot) + np.array([-radius, height, -radius])
        self.quad(top, (2 * radius, 0, 0), (0, 0, 2 * radius), lambda: _disc(texture()))

    def backdrop(self, colour: Texture) -> None:
        """Fill what nothing covers, the sky, with a picture of the canvas' own (finer) size."""
        open_ = self.nearness == 0
        self.albedo[open_] = colour[open_]
        self.glow[open_] = 1

    def lit(
        self, ambient: float, sun: tuple[Vector, Vector] | None, lamps: Sequence[tuple[Vector, Vector, float]]
    ) -> tuple[Floats, Floats]:
        """Shade and return (clear (H, W, 3), not clipped, depth (H, W) in metres, infinite for the sky).

        ``sun``: (direction to it in the world, colour); ``lamps``: (place, colour, reach in metres).
        Crevices get less of the ambient light.
        """
        z = 1 / np.maximum(self.nearness, np.float32(1e-6))
        nx, ny, nz = self.normals

        def towards(direction: npt.NDArray[np.float64]) -> Floats:
            x, y, forward = direction.astype(np.float32)
            return np.asarray(nx * x + ny * y + nz * forward)

        around = cv2.blur(self.nearness, (2 * (9 * self.finer) + 1,) * 2)
        open_ = np.clip(np.float32(2.2) - np.float32(1.2) * around * z, np.float32(0.55), np.float32(1))
        sky = np.float32(ambient) * (1 + np.float32(0.25) * towards(self.axes[:, 1])) * open_
        light = [sky, sky.copy(), sky.copy()]
        sources = []
        if sun is not None:
            sources.append((np.maximum(towards(self.axes @ _unit(sun[0])), 0), sun[1]))
        for place, colour, reach in lamps:
            px, py, pz = self.to_camera(place).astype(np.float32)
            dx, dy, dz = px - z * self.xs[None, :], py - z * self.ys[:, None], pz - z
            squared = dx * dx + dy * dy + dz * dz
            facing = (dx * nx + dy * ny + dz * nz) / np.sqrt(squared + np.float32(1e-4))
            sources.append((np.maximum(facing + np.float32(0.15), 0) / (1 + squared * np.float32(1 / (reach * reach))), colour))
        for amount, colour in sources:
            for channel, strength in zip(light, colour, strict=True):
                channel += amount * np.float32(strength)
        shining = self.glow > 0
        for channel in light:
            channel[shining] += (self.glow * (np.float32(1.15) - channel))[shining]
        clear = self.albedo * (cv2.merge(light) * np.float32(1 / 255))
        height, width = self.size
        clear = cv2.resize(clear, (width, height), interpolation=cv2.INTER_AREA)
        near = cv2.resize(self.nearness, (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(clear, dtype=np.float32), np.where(near > 1e-6, 1 / np.maximum(near, np.float32(1e-6)), np.float32(np.inf))

    def _window(self, points: npt.NDArray[np.float64]) -> Part | None:
        """The part of the canvas that camera-space points may cover; all of it where one lies behind the camera."""
        rows, columns = self.nearness.shape
        corners: list[list[float]] = points.tolist()
        behind = [z < _NEAR for _, _, z in corners]
        if any(behind):
            return None if all(behind) else (slice(0, rows), slice(0, columns))
        x, y = [x / z * self.focal + self._centre[0] for x, _, z in corners], [y / z * self.focal + self._centre[1] for _, y, z in corners]
        left, right = max(0, int(min(x)) - 1), min(columns, int(max(x)) + 2)
        top, bottom = max(0, int(min(y)) - 1), min(rows, int(max(y)) + 2)
        return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None

    def _sampled(self, texture: Texture, u: Floats, v: Floats, texels: Floats | None, seen: npt.NDArray[np.bool_]) -> Texture:
        """Texture at (u, v) in texels, from the reduced copy that suits the number of texels a pixel."""
        levels = np.zeros(1, int)
        level: npt.NDArray[Any] | None = None
        if texels is not None:
            level = np.clip(np.rint(np.log2(np.maximum(texels, np.float32(1)))), 0, 5).astype(np.int8)
            levels = np.unique(level[seen])
        out: Texture = np.empty((0,), np.uint8)
        for wanted in map(int, levels):
            scale = np.float32(0.5**wanted)
            small = self._smaller(texture, wanted)
            at = (u * scale - np.float32(0.5)).astype(np.float32), (v * scale - np.float32(0.5)).astype(np.float32)
            got = np.asarray(cv2.remap(small, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.uint8)
            if not out.size or level is None:
                out = got
            else:
                np.copyto(out, got, where=(level == wanted)[..., None])
        return out

    def _smaller(self, texture: Texture, level: int) -> Texture:
        if not level:
            return texture
        key = id(texture), level
        if key not in self._reduced:
            side = (max(1, texture.shape[1] >> level), max(1, texture.shape[0] >> level))
            self._reduced[key] = texture, np.asarray(cv2.resize(texture, side, interpolation=cv2.INTER_AREA), np.uint8)
        return self._reduced[key][1]

    def _put(self, window: Part, seen: npt.NDArray[np.bool_], near: Floats, colour: Texture, normal: Floats, glow: float) -> None:
        where = seen[..., None]
        np.copyto(self.nearness[window], near, where=seen)
        np.copyto(self.albedo[window], colour, where=where)
        np.copyto(self.normals[:, window[0], window[1]], normal, where=seen)
        np.copyto(self.glow[window], np.float32(glow), where=seen)


def _cross(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """numpy's own takes 20 times as long for a single pair."""
    (ax, ay, az), (bx, by, bz) = a.tolist(), b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def _disc(texture: Texture) -> Texture:
    disc = np.zeros((32, 32, 4), np.uint8)
    disc[..., :3] = texture[:32, :32, :3].mean(axis=(0, 1))
    disc[..., 3] = cv2.circle(np.zeros((32, 32), np.uint8), (16, 16), 15, 255, -1)
    return disc


def _extent(seen: npt.NDArray[np.bool_]) -> Part | None:
    """The smallest rows and columns that hold all that is seen; None for nothing."""
    columns = np.flatnonzero(seen.any(axis=0))
    if not columns.size:
        return None
    rows = np.flatnonzero(seen.any(axis=1))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _within(window: Part, part: Part) -> Part:
    return tuple(slice(w.start + p.start, w.start + p.stop) for w, p in zip(window, part, strict=True))  # type: ignore[return-value]


def _unit(vector: Vector) -> npt.NDArray[np.float64]:
    array = np.asarray(vector, dtype=np.float64)
    return np.asarray(array / np.linalg.norm(array))
