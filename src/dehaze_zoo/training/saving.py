"""Checkpoints that a kill, a full disk or a power cut cannot spoil, holding plain data only."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from dehaze_zoo.checkpoints.reading import read_object
from dehaze_zoo.errors import UsageError
from dehaze_zoo.training.ranks import anywhere

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
    """run_dir/checkpoints/last.ckpt, previous.ckpt the one saved before it, best.ckpt the one with the highest finite ``monitor``.

    Saved after every epoch, and within one after ``every_minutes`` (null: never) and every ``every_steps`` batches (null: never), where
    no gradients are being accumulated. SIGTERM, SIGUSR1 and SIGUSR2 (what SLURM and other schedulers send before they kill) save after
    the running batch, or after the running validation, and leave with 128 + the signal's number.
    """

    def __init__(self, monitor: str = "val/psnr", every_minutes: float | None = 15, every_steps: int | None = None) -> None:
        self.monitor, self.every_minutes, self.every_steps = monitor, every_minutes, every_steps
        self.best: float | None = None
        self._score: float | None = None
        self._saved_at = 0.0
        self._signal: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()
        if threading.current_thread() is threading.main_thread():  # the only one that Python lets handle signals
            # In Lightning's place, whose own handlers talk to the other ranks in the midst of a step; it puts back what was before.
            for name in ("SIGTERM", "SIGUSR1", "SIGUSR2"):
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), self._asked)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # the epoch's end saves; gradients half summed are in no checkpoint
        late = self.every_minutes is not None and time.monotonic() - self._saved_at >= 60 * self.every_minutes
        due = self.every_steps is not None and (batch_idx + 1) % self.every_steps == 0
        save, leave = anywhere(trainer.strategy.root_device, late or due, self._signal is not None)
        if save or leave:
            self._save(trainer, is_best=False)
        if leave:
            self._leave(trainer, f"epoch {trainer.current_epoch}, after batch {batch_idx}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        score = trainer.callback_metrics.get(self.monitor)
        self._score = None if score is None else float(score)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        score, self._score = self._score, None
        is_best = score is not None and math.isfinite(score) and (self.best is None or score > self.best)
        if is_best:
            self.best = score
        self._save(trainer, is_best)
        (leave,) = anywhere(trainer.strategy.root_device, self._signal is not None)
        if leave and trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            self._leave(trainer, f"the end of epoch {trainer.current_epoch}")

    def _save(self, trainer: Trainer, is_best: bool) -> None:
        folder = Path(trainer.default_root_dir) / FOLDER
        failure = None
        try:
            trainer.save_checkpoint(folder / "new.ckpt")  # on all ranks; rank 0 writes
        except UsageError as error:
            failure = error
            trainer.strategy.barrier("save")  # where the others wait for the end of the writing
        if any(anywhere(trainer.strategy.root_device, failure is not None)):
            raise failure or SystemExit(0)  # rank 0 speaks
        if trainer.is_global_zero:
            if (folder / "last.ckpt").exists():
                _link(folder / "last.ckpt", folder / "previous.ckpt")
            if is_best:  # first: a kill in between has the epoch repeated from the earlier last.ckpt, and found the best again
                _link(folder / "new.ckpt", folder / "best.ckpt")
            os.replace(folder / "new.ckpt", folder / "last.ckpt")
        self._saved_at = time.monotonic()

    def _leave(self, trainer: Trainer, where: str) -> None:
        trainer.strategy.barrier("leave")  # rank 0 has renamed: when another process ends, Lightning ends all
        if not trainer.is_global_zero:
            sys.exit(0)
        number = self._signal or signal.SIGTERM  # None where another rank was asked
        name = signal.Signals(number).name
        last = Path(trainer.default_root_dir) / FOLDER / "last.ckpt"
        print(f"{name}: saved at {where}, in {last}. The same command with resume=auto goes on from there.", flush=True)
        sys.exit(128 + number)


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
