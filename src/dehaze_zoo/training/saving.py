"""Checkpoints that a kill, a full disk or a power cut cannot spoil, holding plain data only."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from dehaze_zoo.checkpoints.reading import read_object
from dehaze_zoo.errors import UsageError

FOLDER = "checkpoints"


class PlainCheckpointIO(TorchCheckpointIO):
    """Writes aside, to the disk, then renames; reads without executing anything that a file holds."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None) -> None:
        target = Path(path)
        aside = target.with_name(target.name + ".part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(aside, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as RuntimeError
            aside.unlink(missing_ok=True)
            raise UsageError(
                f"{target} cannot be written: {error}\nThe earlier checkpoints are whole; make room and go on with resume=auto."
            ) from error
        os.replace(aside, target)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        loaded = read_object(Path(path))
        if not isinstance(loaded, dict) or "optimizer_states" not in loaded or "loops" not in loaded:
            raise UsageError(f"resume: {path} holds no training to go on with. To start from its weights use init={path}")
        return loaded


class Checkpoints(Checkpoint):
    """run_dir/checkpoints/last.ckpt after every epoch, previous.ckpt the one before it, best.ckpt the one with the highest ``monitor``."""

    def __init__(self, monitor: str = "val/psnr") -> None:
        self.monitor = monitor
        self.best: float | None = None
        self._score: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        score = trainer.callback_metrics.get(self.monitor)
        self._score = None if score is None else float(score)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        score, self._score = self._score, None
        is_best = score is not None and (self.best is None or score > self.best)
        if is_best:
            self.best = score
        folder = Path(trainer.default_root_dir) / FOLDER
        trainer.save_checkpoint(folder / "new.ckpt")  # on all ranks; rank 0 writes
        if trainer.is_global_zero:
            if (folder / "last.ckpt").exists():
                _link(folder / "last.ckpt", folder / "previous.ckpt")
            os.replace(folder / "new.ckpt", folder / "last.ckpt")
            if is_best:
                _link(folder / "last.ckpt", folder / "best.ckpt")


def _link(source: Path, target: Path) -> None:
    """Makes ``target`` another name of ``source``'s file at once, or a copy where the file system has no links."""
    aside = target.with_name(target.name + ".part")
    aside.unlink(missing_ok=True)
    try:
        os.link(source, aside)
    except OSError:
        shutil.copyfile(source, aside)
    os.replace(aside, target)
    aside.unlink(missing_ok=True)  # renaming onto another name of the same file leaves both


def sound_checkpoint(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run that is whole: last, else previous; None where there is neither."""
    for name in ("last.ckpt", "previous.ckpt"):
        path = run_dir / FOLDER / name
        try:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is None:  # the checksum of every part
                    return path
        except (OSError, zipfile.BadZipFile):
            continue
    return None
