"""python -m dehaze_zoo.ridcp_matching: matching weights and alpha of RIDCP (checkpoint=FILE clear=DIR hazy=DIR)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dehaze_zoo.cli import Outcome, launch

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(cfg: DictConfig, run_dir: Path) -> Outcome:
    """Counts codes and searches alpha; see inference/matching.py."""
    from dehaze_zoo.inference.matching import acquire

    return acquire(cfg, run_dir)


if __name__ == "__main__":
    launch("ridcp_matching", job)
