"""The packed cache: every picture of a set decoded, 8 bits a channel, in one memory-mapped file of which crops are read."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dehaze_zoo.data.decoder import decoder_stamp
from dehaze_zoo.data.manifest import StaleError, Watch
from dehaze_zoo.data.packed import TornError, read_packed, write_packed
from dehaze_zoo.data.table import PairTable
from dehaze_zoo.data.windows import FileWindow
from dehaze_zoo.errors import ImageError, UsageError
from dehaze_zoo.files import passing_name
from dehaze_zoo.lock import alone

_SAMPLE = 256 * 2**20  # bytes whose checksums are compared at every start, spread over the file; `prepare` compares all


class CachedWindow:
    """A picture that lies decoded in the cache; see windows.Window."""

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        self.pixels, self.size = pixels, pixels.shape[:2]

    def cut(self, top: int, left: int, height: int, width: int) -> npt.NDArray[np.uint8]:
        return self.pixels[top : top + height, left : left + width]


class Cache:
    """The pictures of a PairTable by its numbers, out of the file at ``path``. Raises FileNotFoundError or TornError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.about, self.arrays = read_packed(path)
        self._pixels, self._shapes = self.arrays["stream"], self.arrays["shapes"]
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._shapes.astype(np.int64).prod(axis=1) * 3)])
        if self._starts[-1] != len(self._pixels):
            raise TornError(f"{path} is cut off")

    def __reduce__(self) -> tuple[type[Cache], tuple[Path]]:
        return Cache, (self.path,)  # a worker opens the file, gigabytes are not sent

    def pair(self, table: PairTable, index: int) -> tuple[CachedWindow, CachedWindow]:
        """The hazy and the clear picture of a pair."""
        return self.picture(index), self.picture(len(table) + int(table.arrays["clear_of"][index]))

    def picture(self, number: int) -> CachedWindow:
        height, width = self._shapes[number]
        return CachedWindow(self._pixels[self._starts[number] : self._starts[number + 1]].reshape(height, width, 3))

    def check(self, table: PairTable, whole: bool = False) -> None:
        """Raises StaleError where it is not of these pictures as they are now, TornError where a checksum of its pixels is wrong.

        ``whole``: compare all checksums, not those of 256 MB spread over the file.
        """
        if self.about["of"] != _identity(table):
            raise StaleError(f"{self.path} holds other pictures or another decoder's")
        if not np.array_equal(self.arrays["stats"], _stats(table.files())):
            raise StaleError(f"{self.path} is older than its pictures")
        count = len(self._shapes)
        step = 1 if whole else max(1, -(-len(self._pixels) // _SAMPLE))
        for number in {*range(0, count, step), count - 1}:
            if zlib.crc32(self.picture(number).pixels.data) != self.arrays["checks"][number]:
                raise TornError(f"{self.path}: the checksum of its picture {number} is wrong")


def open_cache(path: Path, table: PairTable, whole: bool = False, watch: Watch = lambda done, total: None) -> tuple[Cache, str]:
    """The cache of these pairs, packed first where there is none, it is stale or torn; and why it was packed ("" where it was not).

    Of several processes that find none, one packs and the others wait for it. Raises ImageError for a picture that cannot be read or
    holds 16 bits a channel, UsageError where the disk is full or read-only.
    """
    cache, why = _sound(path, table, whole)
    if cache is not None:
        return cache, ""
    with suppress(OSError):  # write_packed says why
        path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.parent, lambda: print(f"{path}: another process packs it; waiting until it has.", flush=True)) as locked:
        cache, why = _sound(path, table, whole)  # packed by another meanwhile
        if cache is not None:
            return cache, ""
        if locked:
            _sweep(path)
        _pack(path, table, watch)
    return Cache(path), why


def _sound(path: Path, table: PairTable, whole: bool) -> tuple[Cache | None, str]:
    try:
        cache = Cache(path)
        cache.check(table, whole)
        return cache, ""
    except FileNotFoundError:
        return None, "there was none"
    except (TornError, StaleError) as error:
        return None, str(error)


def _sweep(path: Path) -> None:
    """Delete what killed packers left, gigabytes: all that is there, for whoever packs holds the folder's lock."""
    begun = re.compile(re.escape(passing_name(path).name.rsplit(".", 2)[0]) + r"\.\d+\.part")
    for left in path.parent.iterdir():
        if begun.fullmatch(left.name):
            with suppress(OSError):
                left.unlink()


def _pack(path: Path, table: PairTable, watch: Watch) -> None:
    files = table.files()
    stats = _stats(files)  # before the pixels: what changes meanwhile is found stale
    _room(path, files)
    arrays: dict[str, npt.NDArray[Any]] = {"stats": stats}
    shapes, checks = np.empty((len(files), 2), np.int32), np.empty(len(files), np.uint32)

    def stream() -> Iterator[npt.NDArray[Any]]:
        for number, pixels in enumerate(_read(files)):
            shapes[number], checks[number] = pixels.shape[:2], zlib.crc32(pixels.data)
            yield pixels
            watch(number + 1, len(files))
        arrays["shapes"], arrays["checks"] = shapes, checks

    write_packed(path, {"of": _identity(table)}, arrays, stream())


def _read(files: Sequence[Path]) -> Iterator[npt.NDArray[np.uint8]]:
    """The pictures in order, decoded by threads a few ahead."""
    waiting: deque[Future[npt.NDArray[np.uint8]]] = deque()
    with ThreadPoolExecutor() as threads:
        try:
            for path in files:
                waiting.append(threads.submit(_whole, path))
                if len(waiting) > 16:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)


def _whole(path: Path) -> npt.NDArray[np.uint8]:
    window = FileWindow(path)
    pixels = window.cut(0, 0, *window.size)
    if pixels.dtype != np.uint8:
        raise ImageError(path, "holds 16 bits a channel, which the cache of 8 would cut", "Train on this set with data.cache=false.")
    return np.ascontiguousarray(pixels)


def _room(path: Path, files: Sequence[Path]) -> None:
    """Raises UsageError where the disk has no room, by the sizes of up to 64 pictures."""
    some = files[:: max(1, len(files) // 64)]
    needed = sum(3 * height * width for height, width in (FileWindow(file).size for file in some)) / len(some) * len(files)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UsageError(
            f"{path}: the packed set takes about {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free.\n"
            "Free space, give data.prepared=DIR, a folder on another disk, or train with data.cache=false."
        )


def _identity(table: PairTable) -> str:
    """Of the names, their order, and the decoder whose pixels are kept."""
    digest = hashlib.blake2b(decoder_stamp()["probe"].encode(), digest_size=16)
    for kind in ("hazy", "clear"):
        digest.update(table.arrays[f"{kind}_text"].tobytes())
        digest.update(table.arrays[f"{kind}_ends"].tobytes())
    return digest.hexdigest()


def _stats(files: Sequence[Path]) -> npt.NDArray[np.int64]:
    """Length and time of change of each file; -1 where it is gone."""
    found = np.full((len(files), 2), -1, np.int64)
    for number, path in enumerate(files):
        try:
            stat = os.stat(path)
        except OSError:
            continue
        found[number] = stat.st_size, stat.st_mtime_ns
    return found
