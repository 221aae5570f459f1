"""python -m dehaze_zoo.dashboard: the benchmark's workspace and report in W&B (project=dehaze_zoo entity=ME), or their specs as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dehaze_zoo.cli import Outcome, launch

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(cfg: DictConfig, run_dir: Path) -> Outcome:
    """Makes both; see benchmark/dashboard.py."""
    from dehaze_zoo.benchmark.dashboard import dashboard

    return dashboard(cfg, run_dir)


if __name__ == "__main__":
    launch("dashboard", job)
