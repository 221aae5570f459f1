"""Pairs by the hundred thousand: their names in a few arrays, which workers share, instead of an object each, which they would copy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from dehaze_zoo.data.layouts import Pair, scene_of

Array = npt.NDArray[Any]


class PairTable(Sequence[Pair]):
    """A sequence of Pairs, each made when it is asked for.

    ``arrays``: hazy and clear names as bytes (``hazy_text``, ``hazy_ends``, ``clear_text``, ``clear_ends``), relative to the two folders,
    and each pair's clear picture by number (``clear_of``).
    """

    def __init__(self, hazy: Path, clear: Path, arrays: Mapping[str, Array]) -> None:
        self.hazy, self.clear, self.arrays = hazy, clear, arrays

    @classmethod
    def of(cls, hazy: Path, clear: Path, pairs: Sequence[Pair]) -> PairTable:
        """Pairs below two folders as a table; a table as it is."""
        if isinstance(pairs, PairTable):
            return pairs
        clears = sorted({pair.clear for pair in pairs})
        number = {path: i for i, path in enumerate(clears)}
        names = [os.fsencode(pair.name) for pair in pairs], [os.fsencode(os.path.relpath(path, clear)) for path in clears]
        arrays: dict[str, Array] = {}
        for kind, found in zip(("hazy", "clear"), names, strict=True):
            arrays[f"{kind}_text"] = np.frombuffer(b"".join(found), np.uint8)
            arrays[f"{kind}_ends"] = np.cumsum([len(name) for name in found], dtype=np.int64)
        arrays["clear_of"] = np.array([number[pair.clear] for pair in pairs], np.int32)
        return cls(hazy, clear, arrays)

    def __len__(self) -> int:
        return len(self.arrays["clear_of"])

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = index % len(self)
        name, clear = self._name("hazy", row), self._name("clear", int(self.arrays["clear_of"][row]))
        return Pair(self.hazy / name, self.clear / clear, scene_of(clear), name)

    def __iter__(self) -> Iterator[Pair]:
        return (self[i] for i in range(len(self)))

    def files(self) -> list[Path]:
        """Every picture once: the hazy ones in order, then the clear ones."""
        hazy, clear = len(self.arrays["hazy_ends"]), len(self.arrays["clear_ends"])
        return [self.hazy / self._name("hazy", i) for i in range(hazy)] + [self.clear / self._name("clear", i) for i in range(clear)]

    def _name(self, kind: str, row: int) -> str:
        ends = self.arrays[f"{kind}_ends"]
        return os.fsdecode(self.arrays[f"{kind}_text"][int(ends[row - 1]) if row else 0 : int(ends[row])].tobytes())
