"""What each picture file of a set holds: decoded, measured and hashed, on all cores."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dehaze_zoo.data.images import read_bytes
from dehaze_zoo.errors import ImageError, UsageError

SKETCH = (16, 17)
"""Rows and columns of the grey sketch by which scenes are told apart."""
NEAR = 12
"""Of the 256 differences between its neighbours, so many may point the other way in copies of one scene."""
_FEW = 64  # pictures for which starting processes does not pay


@dataclass(frozen=True)
class Facts:
    length: int
    """Bytes of the file."""
    digest: bytes
    """BLAKE2b of the file, 16 bytes."""
    size: tuple[int, int] | None
    """Height and width, upright; None where it cannot be read."""
    sketch: bytes
    """SKETCH grey levels; empty where not asked for or not readable."""
    why: str = ""
    """Why it cannot be read."""


def examine(path: Path, sketched: bool = False) -> Facts:
    """Decode one file whole. Raises nothing for a bad picture: Facts.why says what is wrong with it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return Facts(0, b"", None, b"", error.strerror or str(error))
    digest = hashlib.blake2b(data, digest_size=16).digest()
    try:
        pixels = read_bytes(data, path)
    except ImageError as error:
        return Facts(len(data), digest, None, b"", error.why)
    levels = pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)
    grey = Image.fromarray(levels).convert("L").resize(SKETCH[::-1], Image.Resampling.BOX) if sketched else None
    return Facts(len(data), digest, pixels.shape[:2], grey.tobytes() if grey else b"")


def examine_all(paths: Sequence[Path], sketched: Sequence[bool], processes: int | None = None) -> Iterator[Facts]:
    """The Facts of each file, in order, on ``processes`` (null: one a core)."""
    workers = processes or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if workers == 1 or len(paths) < _FEW:
        yield from map(examine, paths, sketched)
        return
    try:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:  # not fork: threads of the progress bar are running
            yield from pool.map(examine, paths, sketched, chunksize=max(1, min(32, len(paths) // workers)))
    except BrokenProcessPool as error:
        raise UsageError(
            "a process that reads pictures was ended from outside, most likely for memory.\nFree memory and try again."
        ) from error


def alike(some: Sequence[bytes], others: Sequence[bytes]) -> list[tuple[int, int]]:
    """Pairs (i, j) of sketches of the same scene: some[i] and others[j] differ in at most NEAR directions and little in grey level.

    A difference hash: whether each of the 256 cells is lighter than its right neighbour. Flat pictures, whose directions say nothing, are
    told apart by the levels themselves.
    """
    if not some or not others:
        return []
    first, second = (np.frombuffer(b"".join(part), np.uint8).reshape(-1, *SKETCH) for part in (some, others))
    signs, against = _signs(first), _signs(second)
    found = []
    for start in range(0, len(signs), 2048):
        apart = (256 - signs[start : start + 2048] @ against.T) / 2
        for i, j in zip(*np.nonzero(apart <= NEAR), strict=True):
            if np.abs(first[start + i].astype(int) - second[j]).mean() < 8:
                found.append((start + int(i), int(j)))
    return found


def _signs(sketches: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    lighter = sketches[:, :, 1:] > sketches[:, :, :-1]
    signs: npt.NDArray[np.float32] = np.where(lighter, np.float32(1), np.float32(-1)).reshape(len(sketches), -1)
    return signs
