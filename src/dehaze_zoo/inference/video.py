"""Videos, frame by frame through PyAV (FFmpeg's libraries; the extra ``video``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from dehaze_zoo.errors import ImageError


def restore_video(network: nn.Module, source: Path, target: Path, bar: Any, tile: Any) -> Iterator[str]:
    raise ImageError(source, "is a video")
    yield ""
