"""The manifest of a set: names, sizes and hashes of its files, written once by `prepare` and memory-mapped at every start."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dehaze_zoo.data.layouts import PairList, circular, subfolders
from dehaze_zoo.data.packed import TornError, read_packed, write_packed
from dehaze_zoo.data.table import PairTable
from dehaze_zoo.errors import ImageError, UsageError

Watch = Callable[[int, int], None]
"""Told how many of how many files are done."""
_FORM = 1


class StaleError(Exception):
    """The folders or pictures have changed since: it must be made anew."""


def manifest_path(home: Path, set_name: str, split: str) -> Path:
    return home / f"{set_name}-{split}.manifest"


def write_manifest(path: Path, root: Path, found: PairList, watch: Watch = lambda done, total: None) -> PairTable:
    """Read every file of the pairs for its hash, on all cores, and write the manifest; gives the table that it holds.

    Folders are kept relative to ``root``, so that the set may be moved. Raises ImageError for a file that cannot be read, UsageError for
    pictures without a partner, a place among the pictures, or a disk that cannot be written.
    """
    for folder in (found.hazy, found.clear):
        inside = os.path.relpath(os.path.realpath(path.parent), os.path.realpath(folder)).split(os.sep)
        if inside[0] != ".." and not any(name.startswith(".") for name in inside if name != "."):
            raise UsageError(
                f"data.prepared={path.parent} lies among the pictures in {folder}: writing there would make the manifest older than them.\n"
                "Give another folder, or none: then it is .dehaze_zoo in the set's root."
            )
    table = PairTable.of(found.hazy, found.clear, found.strict())
    with suppress(OSError):  # write_packed says why
        path.parent.mkdir(parents=True, exist_ok=True)  # before looking: in the pictures' own folder it is a change
    places = {key: os.path.relpath(folder, root) for key, folder in (("hazy", found.hazy), ("clear", found.clear))}
    about = {"form": _FORM, **places, "folders": _changed(found.hazy, found.clear)}  # before the hours of reading, as the pairs are
    files = table.files()
    lengths, digests = np.empty(len(files), np.int64), np.empty((len(files), 16), np.uint8)
    with ThreadPoolExecutor() as threads:
        for i, (length, digest) in enumerate(threads.map(_hashed, files)):
            lengths[i], digests[i] = length, np.frombuffer(digest, np.uint8)
            watch(i + 1, len(files))
    write_packed(path, about, {**table.arrays, "lengths": lengths, "digests": digests})
    return table


def read_manifest(path: Path, root: Path) -> PairTable:
    """The pairs that it lists. Raises FileNotFoundError, TornError, or StaleError where a file was added, removed or renamed since."""
    about, arrays = read_packed(path)
    if about.get("form") != _FORM:
        raise TornError(f"{path} is of another version")
    hazy, clear = (Path(os.path.normpath(root / about[key])) for key in ("hazy", "clear"))
    if about["folders"] != _changed(hazy, clear):
        raise StaleError(f"{path} is older than the folders of the set")
    return PairTable(hazy, clear, arrays)


def _hashed(path: Path) -> tuple[int, bytes]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(path, f"could not be read: {error.strerror or error}") from error
    return len(data), hashlib.blake2b(data, digest_size=16).digest()


def _changed(*folders: Path) -> list[list[Any]]:
    """When anything was last added to, removed from or renamed in each folder and those below it."""
    return [[os.path.relpath(path, top), path.stat().st_mtime_ns] for top in folders for path in _tree(top, (os.path.realpath(top),))]


def _tree(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    if folder.is_dir():
        yield folder
        for below in subfolders(folder):
            real = os.path.realpath(below)
            if not circular(real, above):
                yield from _tree(below, (*above, real))
