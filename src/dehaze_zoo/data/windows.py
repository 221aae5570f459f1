"""Windows of pictures on disk: what a training crop needs is decoded, and nothing below its last row.

The pixels are those of data/images.py, which reads everything that is not a plain 8-bit RGB PNG or baseline JPEG. Measured in
benchmarks/loading.py; the tests compare every row.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from isal import igzip_lib, isal_zlib

from dehaze_zoo.data.decoder import PROBE
from dehaze_zoo.data.images import bytes_of, read_bytes

Array = npt.NDArray[Any]
Rows = Callable[[int], Array]
"""The picture's first rows, at least so many of them, (H, W, 3) RGB."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PLAIN_CHUNKS = frozenset((b"IHDR", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"pHYs", b"tIME", b"bKGD"))


class Window(Protocol):
    """A picture of which parts can be read."""

    size: tuple[int, int]
    """Height and width, upright."""

    def cut(self, top: int, left: int, height: int, width: int) -> Array:
        """These rows and columns, fewer at the picture's edge: uint8 in 0..255 or float32 in [0, 1], (h, w, 3) RGB."""


class FileWindow:
    """A picture file, read but not decoded. Raises ImageError where it cannot be read, at once or when it is cut."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path, data = Path(path), bytes_of(Path(path))
        plain = _png(data) or _jpeg(data)
        if plain is not None:
            (height, width), self._rows = plain
            self.size = (height, width)
        else:
            whole = read_bytes(data, path)
            self._rows, self.size = lambda bottom: whole, whole.shape[:2]
        self._again = lambda: read_bytes(data, path)

    def cut(self, top: int, left: int, height: int, width: int) -> Array:
        bottom = min(top + height, self.size[0])
        try:
            rows = self._rows(bottom)
        except ValueError:  # damaged: the careful reader says how
            rows = self._again()
        return rows[top:bottom, left : left + width]


def _png(data: bytes) -> tuple[tuple[int, int], Rows] | None:
    """Size and rows of a PNG of 8-bit RGB without interlacing, orientation or transparency; None for any other file."""
    if not data.startswith(_PNG):
        return None
    parts, place, kind, header = [], 8, b"", b""
    while kind != b"IEND":
        if place + 12 > len(data):
            return None
        (length,), kind = struct.unpack_from(">I", data, place), data[place + 4 : place + 8]
        body = data[place + 8 : place + 8 + length]
        if kind not in _PLAIN_CHUNKS and not (kind == b"tEXt" and b"xif" not in body):
            return None
        if kind == b"IHDR":
            header = body
        elif kind == b"IDAT":
            if data[place + 8 + length : place + 12 + length] != struct.pack(">I", isal_zlib.crc32(body, isal_zlib.crc32(kind))):
                return None
            parts.append(body)
        place += 12 + length
    width, height, bits, colours, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if (bits, colours, interlaced) != (8, 2, 0) or not parts:
        return None
    return (height, width), functools.partial(_png_rows, header, parts, width)


def _png_rows(header: bytes, parts: list[bytes], width: int, bottom: int) -> Array:
    """The first rows alone are inflated, and handed to OpenCV's PNG reader as a lower picture without compression, for its filters."""
    wanted = bottom * (3 * width + 1)
    try:
        raw = memoryview(isal_zlib.decompressobj().decompress(b"".join(parts), wanted))
    except igzip_lib.IsalError as error:  # type: ignore[misc]  # declared as an instance
        raise ValueError("its compressed rows are damaged") from error
    if len(raw) != wanted:
        raise ValueError("rows are missing")
    stored: list[bytes | memoryview] = [b"\x78\x01"]  # a zlib stream of stored blocks (RFC 1950, 1951)
    for start in range(0, wanted, 65535):
        block = raw[start : start + 65535]
        stored += [struct.pack("<BHH", start + 65535 >= wanted, len(block), len(block) ^ 0xFFFF), block]
    stored.append(struct.pack(">I", isal_zlib.adler32(raw)))
    head = header[:4] + struct.pack(">I", bottom) + header[8:]
    picture = b"".join((_PNG, *_chunk(b"IHDR", head), *_chunk(b"IDAT", *stored), *_chunk(b"IEND", b"")))  # copied once: it is large
    return _opened(cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR_RGB))


def _chunk(name: bytes, *parts: bytes | memoryview) -> Iterator[bytes | memoryview]:
    yield struct.pack(">I", sum(map(len, parts)))
    yield name
    yield from parts
    yield struct.pack(">I", functools.reduce(lambda checksum, part: isal_zlib.crc32(part, checksum), parts, isal_zlib.crc32(name)))


def _opened(rows: Array | None) -> Array:
    if rows is None:
        raise ValueError("it cannot be decoded")
    return rows


def _jpeg(data: bytes) -> tuple[tuple[int, int], Rows] | None:
    """Size and rows of a baseline JPEG of three colours without orientation, whole to its end; None for any other file."""
    if not data.startswith(b"\xff\xd8") or not data.endswith(b"\xff\xd9") or not _turbo_is_exact():
        return None
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, (length,) = data[place + 1], struct.unpack_from(">H", data, place + 2)
        body = data[place + 4 : place + 2 + length]
        if marker == 0xE1 and body.startswith(b"Exif"):
            return None
        if marker in (0xC0, 0xC1) and len(body) >= 15:
            bits, height, width, colours = struct.unpack_from(">BHHB", body)
            if (bits, colours) != (8, 3) or not height:
                return None
            unit = 8 * max(sampling & 15 for sampling in body[7:14:3])
            return (height, width), functools.partial(_jpeg_rows, data, place + 5, height, unit)
        if marker in (0xC2, 0xDA) or (0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return None  # progressive and rarer processes
        place += 2 + length
    return None


def _jpeg_rows(data: bytes, place: int, height: int, unit: int, bottom: int) -> Array:
    """Decoded as a lower picture, one row of blocks more than wanted: chroma is interpolated from the rows around."""
    lower = min(height, -(-bottom // unit) * unit + unit)
    shorter = data[:place] + struct.pack(">H", lower) + data[place + 2 :] if lower < height else data
    return _opened(simplejpeg.decode_jpeg(shorter, "RGB", fastdct=False, fastupsample=False, strict=False))


@functools.cache
def _turbo_is_exact() -> bool:
    """Whether the fast JPEG decoder gives the pixels of the one that judges; other versions of one library may not."""
    return np.array_equal(simplejpeg.decode_jpeg(PROBE, "RGB", fastdct=False, fastupsample=False), read_bytes(PROBE, "the probe"))
