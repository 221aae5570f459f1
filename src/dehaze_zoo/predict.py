"""python -m dehaze_zoo.predict: restore a picture or a folder of them (input=FILE_OR_DIR output=DIR checkpoint=FILE)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dehaze_zoo.cli import Outcome, launch
from dehaze_zoo.errors import UsageError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(cfg: DictConfig, run_dir: Path) -> Outcome:
    """Restores what ``input`` names; see inference/predict.py."""
    if cfg.input is None:
        raise UsageError("input= is needed: a picture or a folder of pictures, as in input=photo.jpg output=clear")
    from dehaze_zoo.inference.predict import predict

    return predict(cfg, run_dir)


if __name__ == "__main__":
    launch("predict", job)
