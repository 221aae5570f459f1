"""The pictures that reports show, kept in the store as JPEGs of at most 480 pixels a row: hazy, clear, restored, and the error."""

from __future__ import annotations

import heapq
import io
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image
from torch import Tensor

from dehaze_zoo.data.grid import error_map
from dehaze_zoo.data.images import write_aside

WIDEST = 480


def picture_file(folder: Path, key: str, image: str, kind: str) -> Path:
    """Where a picture lies; ``kind``: hazy, clear, restored or error. ``key`` is the set's for the first two, else the job's."""
    return folder / "pictures" / key[:16] / f"{quote(image, safe='')}.{kind}.jpg"


class Album:
    """Keeps the examples of one job, and the pictures that are its worst so far.

    ``worst``: how many of these; ``before``: scores of images judged earlier, which compete too.
    """

    def __init__(self, folder: Path, set_key: str, job_key: str, examples: set[str], worst: int, before: Mapping[str, float]) -> None:
        self.folder, self.set_key, self.job_key, self.examples, self.worst = folder, set_key, job_key, examples, worst
        self._lowest = heapq.nlargest(worst, [-score for score in before.values()])[::-1]  # negated, the best of the worst first
        heapq.heapify(self._lowest)

    def missing(self) -> set[str]:
        """Examples without their restored picture."""
        return {image for image in self.examples if not picture_file(self.folder, self.job_key, image, "restored").exists()}

    def offer(self, image: str, score: float | None, hazy: Tensor, restored: Tensor, clear: Tensor | None) -> None:
        """Keeps the pictures, (1, 3, H, W) in [0, 1], where it is an example or among the worst by ``score`` (higher is better)."""
        among_worst = score is not None and self._is_low(score)
        if image not in self.examples and not among_worst:
            return
        shown = {("hazy", self.set_key): hazy, ("restored", self.job_key): restored}
        arrays = {place: np.asarray(picture[0].permute(1, 2, 0).cpu().numpy()) for place, picture in shown.items()}
        if clear is not None:
            arrays["clear", self.set_key] = np.asarray(clear[0].permute(1, 2, 0).cpu().numpy())
            arrays["error", self.job_key] = error_map(arrays["restored", self.job_key], arrays["clear", self.set_key])
        for (kind, key), picture in arrays.items():
            file = picture_file(self.folder, key, image, kind)
            if key == self.job_key or not file.exists():
                levels = picture if picture.dtype == np.uint8 else np.rint(picture * 255).astype(np.uint8)
                write_aside(file, _jpeg(levels))

    def _is_low(self, score: float) -> bool:
        if len(self._lowest) < self.worst:
            heapq.heappush(self._lowest, -score)
            return True
        return self.worst > 0 and -score > heapq.heappushpop(self._lowest, -score)


def _jpeg(levels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    image = Image.fromarray(levels)
    if image.width > WIDEST:
        image = image.resize((WIDEST, max(1, round(image.height * WIDEST / image.width))), Image.Resampling.BOX)
    held = io.BytesIO()
    image.save(held, "JPEG", quality=85)
    return held.getvalue()
