"""python -m dehaze_zoo.train: trains a network (model=gunet_b data=reside_indoor; plan=true only writes plan.csv)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dehaze_zoo.cli import launch
from dehaze_zoo.outcome import Outcome

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(cfg: DictConfig, run_dir: Path) -> Outcome:
    """Trains, see training/build.py; or writes the plan alone, which needs no torch."""
    if cfg.plan:
        from dehaze_zoo.training.plan import write_plan

        print(f"plan of {cfg.trainer.max_epochs} epochs: {write_plan(cfg, run_dir)}")
        return Outcome()
    from dehaze_zoo.training.build import replayed, train

    return replayed(cfg, run_dir) if cfg.replay else train(cfg, run_dir)


if __name__ == "__main__":
    launch("train", job)
