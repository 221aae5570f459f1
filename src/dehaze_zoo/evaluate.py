"""python -m dehaze_zoo.evaluate: figures of a network on pairs (model=gunet_b checkpoint=FILE data=reside_indoor protocol=gunet)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dehaze_zoo.cli import Outcome, launch

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(cfg: DictConfig, run_dir: Path) -> Outcome:
    """Judges the network; see inference/evaluate.py."""
    from dehaze_zoo.inference.evaluate import evaluate

    return evaluate(cfg, run_dir)


if __name__ == "__main__":
    launch("evaluate", job)
