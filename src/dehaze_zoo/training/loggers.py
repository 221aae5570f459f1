"""Where figures go: metrics.csv always; TensorBoard and W&B on request. Each is built with the run's folder as ``save_dir``."""

from __future__ import annotations

import csv
import os
import uuid
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from dehaze_zoo.errors import UsageError
from dehaze_zoo.files import written_aside


class MetricsTable(Logger):
    """save_dir/metrics.csv, a line an epoch, columns as figures turn up; goes on with the lines of a resumed run before its epoch."""

    def __init__(self, save_dir: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self._rows: dict[int, dict[str, str]] = {}
        if self.path.is_file():
            with open(self.path, newline="", encoding="utf-8") as file:
                self._rows = {int(row["epoch"]): {k: v for k, v in row.items() if v} for row in csv.DictReader(file)}

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        figures = dict(metrics)
        epoch = int(figures.pop("epoch"))
        self._rows = {known: row for known, row in self._rows.items() if known <= epoch}
        row = self._rows.setdefault(epoch, {"epoch": str(epoch)})
        row |= {"step": str(step), **{name: repr(float(value)) for name, value in figures.items()}}

    @rank_zero_only
    def save(self) -> None:
        columns = list(dict.fromkeys(["epoch", "step", *(name for row in self._rows.values() for name in row)]))
        with written_aside(self.path) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self._rows.values())


def tensorboard(save_dir: str | os.PathLike[str]) -> Logger:
    """TensorBoard's event files in save_dir/tensorboard. Raises UsageError where the package is missing."""
    if find_spec("tensorboard") is None and find_spec("tensorboardX") is None:
        raise UsageError("logger=tensorboard needs a package that is not installed: pip install 'dehaze-zoo[tensorboard]'")
    return TensorBoardLogger(str(save_dir), name="", version="tensorboard")


class Wandb(WandbLogger):
    """W&B; offline when not logged in (or by WANDB_MODE=offline), and then it ends by saying how to sync.

    The run's id is kept in save_dir/wandb_id: a resumed training goes on in the same run.
    """

    def __init__(self, save_dir: str | os.PathLike[str], project: str, name: str, group: str | None = None) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE")
        offline = mode == "offline" or (mode is None and not wandb.login(prompt=False, verify=False))
        # mode too: wandb has read its environment by now, in which Lightning's offline leaves its word.
        how: dict[str, Any] = {"mode": "offline"} if offline else {}
        kept = Path(save_dir, "wandb_id")
        run_id = kept.read_text(encoding="utf-8") if kept.is_file() else uuid.uuid4().hex[:8]
        if getattr(rank_zero_only, "rank", 0) == 0:
            kept.write_text(run_id, encoding="utf-8")
        super().__init__(save_dir=str(save_dir), project=project, name=name, group=group, offline=offline, id=run_id, resume="allow", **how)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        run = self._experiment  # not the property, which would start a run
        if run is None:
            return
        folder = Path(run.dir).parent
        run.finish(exit_code=0 if status == "success" else 1)
        if self._offline:
            print(f"W&B ran offline; after `wandb login`, upload this run by: wandb sync {folder}")
