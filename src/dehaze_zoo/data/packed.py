"""A file of named arrays that are memory-mapped, with a checksum each: what `prepare` writes and start-up reads.

    magic | bytes of the arrays, each at a multiple of 64 | index (JSON) | its place, length and checksum | magic

It is written aside and renamed; the end bears the magic too, so that a file that was cut off is known at once.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dehaze_zoo.errors import UsageError
from dehaze_zoo.files import written_aside

Array = npt.NDArray[Any]
_MAGIC = b"dhzpack1"
_END = struct.Struct("<QQ16s8s")


class TornError(Exception):
    """The file is cut off, changed or of another kind: it must be made anew."""


def write_packed(path: Path, about: Mapping[str, Any], arrays: Mapping[str, Array], stream: Iterable[Array] = ()) -> None:
    """Write ``about`` (plain JSON) and ``arrays``; those of ``stream`` go one after another into one array of bytes called "stream".

    ``arrays`` may be filled while the stream is written. Raises UsageError where the disk is full or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside, open(aside, "wb") as file:
            file.write(_MAGIC.ljust(64, b"\0"))
            index: dict[str, Any] = {"stream": [64, "|u1", [0], 0]}
            length = sum(file.write(np.ascontiguousarray(part).data) for part in stream)
            index["stream"][2] = [length]
            for name, array in arrays.items():
                file.write(b"\0" * (-file.tell() % 64))
                plain = np.ascontiguousarray(array)
                index[name] = [file.tell(), plain.dtype.str, list(plain.shape), zlib.crc32(plain.data)]
                file.write(plain.data)
            text = json.dumps({"about": about, "arrays": index}).encode()
            place = file.tell()
            file.write(text)
            file.write(_END.pack(place, len(text), hashlib.blake2b(text, digest_size=16).digest(), _MAGIC))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(
            f"{path} could not be written: {error.strerror or error}.\n"
            "Nothing of it was kept. Free space, or give data.prepared=DIR, a folder on another disk."
        ) from error


def read_packed(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """What write_packed was given; the arrays lie in the file, not in memory. Their checksums are compared, that of "stream" is not.

    Raises FileNotFoundError where there is no such file, TornError where it is not as it was written.
    """
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        if length < 64 + _END.size:
            raise TornError(f"{path} is cut off")
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    place, size, digest, magic = _END.unpack(view[-_END.size :])
    if magic != _MAGIC or view[: len(_MAGIC)] != _MAGIC or place + size + _END.size != length:
        raise TornError(f"{path} is cut off or of another kind")
    text = view[place : place + size]
    if hashlib.blake2b(text, digest_size=16).digest() != digest:
        raise TornError(f"{path} was changed")
    index = json.loads(text)
    arrays: dict[str, Array] = {}
    for name, (start, kind, shape, checksum) in index["arrays"].items():
        array = np.frombuffer(view, np.dtype(kind), int(np.prod(shape)), start).reshape(shape)
        if name != "stream" and zlib.crc32(array.data) != checksum:
            raise TornError(f"{path} was changed")
        arrays[name] = array
    return index["about"], arrays
