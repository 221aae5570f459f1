"""One picture of a data set: what its pairs look like, and the files that are not as they should be."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from dehaze_zoo.data.diagnosis import Diagnosis
from dehaze_zoo.data.grid import write_grid
from dehaze_zoo.data.images import read_rgb
from dehaze_zoo.errors import ImageError

T = TypeVar("T")
_SIDE = 200  # pixels, of the longer side


def write_contact_sheet(path: Path, diagnosis: Diagnosis, pairs: int = 6, problems: int = 12) -> None:
    """Rows of hazy and clear of up to ``pairs`` scenes a split, spread evenly; then up to ``problems`` files with a problem, by kind."""
    cells: list[tuple[str, Path]] = []
    for part in diagnosis.parts:
        scenes = {pair.scene: pair for pair in part.found.pairs}
        for scene in _spread(part.scenes, pairs):
            cells += [(f"{part.split} {file.name}", file) for file in (scenes[scene].hazy, scenes[scene].clear)]
    if not diagnosis.parts:
        cells = [(file.name, file) for file in _spread(list(diagnosis.facts), pairs)]
    bad = [p for p in diagnosis.problems if p.kind not in ("incomplete", "stranger")][:problems]
    marked = [(f"{problem.kind}: {Path(problem.file).name}", Path(problem.file)) for problem in bad]
    rows = [[(label, _small(file)) for label, file in part[k : k + 6]] for part in (cells, marked) for k in range(0, len(part), 6)]
    write_grid(path, rows or [[("no picture can be read", np.zeros((60, 200, 3), np.uint8))]])


def _spread(items: Sequence[T], count: int) -> list[T]:
    return [items[i] for i in sorted({round(i) for i in np.linspace(0, len(items) - 1, count)})] if items else []


def _small(file: Path) -> npt.NDArray[np.uint8]:
    """The picture reduced; a red field where it cannot be read."""
    with contextlib.suppress(ImageError):
        pixels = read_rgb(file)
        image = Image.fromarray(pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8))
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
        return np.asarray(image)
    return np.full((_SIDE * 3 // 4, _SIDE, 3), (190, 40, 40), np.uint8)
