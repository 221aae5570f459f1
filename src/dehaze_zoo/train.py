"""python -m dehaze_zoo.train: trains a network (model=gunet_b data=reside_indoor; plan=true only writes plan.csv)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def hold(cfg: DictConfig, run_dir: Path) -> Iterator[None]:
    """Keeps other trainings out of the folder, and this one where it would spoil what is there."""
    if cfg.plan or cfg.replay:
        yield
        return
    from dehaze_zoo.lock import held
    from dehaze_zoo.training.runs import check_folder

    with held(run_dir):
        check_folder(cfg, run_dir)
        yield


if __name__ == "__main__":
    launch("train", job, hold)
