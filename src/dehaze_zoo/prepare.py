"""python -m dehaze_zoo.prepare: list a set's files for a quick start; data.cache=true packs them too (data=reside_indoor data.root=DIR)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from dehaze_zoo.cli import Outcome, launch

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.progress import Progress, TaskID


def job(cfg: DictConfig, run_dir: Path) -> Outcome:
    """Writes a manifest for each split that is there and, where asked, the packed cache; checks a cache that is there, wholly."""
    from hydra.utils import instantiate

    from dehaze_zoo.data.layouts import LAYOUTS, NoPairsError, check_on_disk
    from dehaze_zoo.data.manifest import manifest_path, write_manifest
    from dehaze_zoo.inference.reporting import progress_bar

    check_on_disk(cfg.data.set, cfg.data.get("sets", ()))
    data = instantiate(cfg.data)
    home, root = data.home()
    figures: dict[str, float] = {}
    missing: NoPairsError | None = None
    with progress_bar() as bar:
        for split in dict.fromkeys(data.split_on_disk(name) for name in LAYOUTS[cfg.data.set].splits):
            task = bar.add_task(f"hash {split}", total=None)
            try:
                found = data.searched(split)
            except NoPairsError as error:
                missing = error
                bar.remove_task(task)
                continue
            path = manifest_path(home, cfg.data.set, split)
            table = write_manifest(path, root, found, functools.partial(_advance, bar, task))
            figures[split] = len(table)
            bar.console.print(f"{path}: {len(table):,} pairs", highlight=False, soft_wrap=True)
        if not figures and missing is not None:
            raise missing
        if cfg.data.cache:
            task = bar.add_task("pack", total=None)
            _, cache = data.packed(True, functools.partial(_advance, bar, task))
            bar.update(task, completed=1, total=1)
            bar.console.print(f"{cache.path}: {cache.path.stat().st_size / 1e9:.2f} GB", highlight=False, soft_wrap=True)
    return Outcome(figures=figures)


def _advance(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    launch("prepare", job)
