"""python -m dehaze_zoo.export: a network as one file for other programs (format=onnx|torch|safetensors output=FILE checkpoint=FILE)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dehaze_zoo.cli import Outcome, launch
from dehaze_zoo.errors import UsageError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(cfg: DictConfig, run_dir: Path) -> Outcome:
    """Writes ``output`` and checks it; see inference/export.py."""
    if cfg.output is None:
        raise UsageError("output= is needed: the file to write, as in format=onnx output=gunet_t.onnx")
    from dehaze_zoo.inference.export import export

    return export(cfg, run_dir)


if __name__ == "__main__":
    launch("export", job)
