"""What is seen of a training: a line an epoch with its PSNR, a bar within it, and grids of restored pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from dehaze_zoo.data.grid import error_map, write_grid


class EpochProgress(ProgressBar):
    """A bar over the epoch's batches on a terminal; a line for each finished epoch everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._console = Console()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._validated = False
        self._began = 0.0

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False  # Lightning's call on all ranks but 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.monotonic()  # of an epoch that is resumed in its midst

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began, self._validated = time.monotonic(), False
        if self._enabled and self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(_epoch(trainer), total=int(trainer.num_training_batches))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._bar is not None:
            loss = (outputs or {}).get("loss")  # none where on_nan=skip left the step out
            self._bar.update(self._task, advance=1, description=_epoch(trainer) + ("" if loss is None else f"  loss {float(loss):.4f}"))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True
        if self._bar is not None:
            self._bar.update(self._task, description=f"{_epoch(trainer)}  validating")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()
        figures = trainer.callback_metrics  # on every rank: reading them is what reduces them over the ranks
        if not self._enabled:
            return
        words = [_epoch(trainer)]
        if "train/loss" in figures:
            words.append(f"loss {float(figures['train/loss']):.4f}")
        if self._validated and "val/psnr" in figures:
            words.append(f"PSNR {float(figures['val/psnr']):.2f} dB  SSIM {float(figures['val/ssim']):.4f}")
        words.append(f"{time.monotonic() - self._began:.0f} s")
        self._console.print("  ".join(words), highlight=False, soft_wrap=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _epoch(trainer: Trainer) -> str:
    return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"


class PictureGrid(Callback):
    """run_dir/images/epoch_NNNN.png at each validation: hazy, restored, clear and error of its first ``pictures`` images.

    Loggers that take pictures get them too.
    """

    def __init__(self, pictures: int = 4) -> None:
        self.pictures = pictures
        self._rows: list[list[tuple[str, npt.NDArray[Any]]]] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Mapping[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.is_global_zero:
            return
        for hazy, restored, clear, name in zip(batch["hazy"], outputs, batch["clear"], batch["name"], strict=True):
            if len(self._rows) < self.pictures:
                h, r, c = _array(hazy), _array(restored), _array(clear)
                row = [(f"hazy {_psnr(h, c)}  {name}", h), (f"restored {_psnr(r, c)}", r), ("clear", c), ("error", error_map(r, c))]
                self._rows.append(row)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._rows:
            return
        path = Path(trainer.default_root_dir) / "images" / f"epoch_{trainer.current_epoch:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_grid(path, self._rows)
        for logger in trainer.loggers:
            log_image = getattr(logger, "log_image", None)  # W&B's
            if log_image is not None:
                log_image(key="val/pictures", images=[str(path)])
        self._rows = []


def _array(picture: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = picture.detach().float().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    return array


def _psnr(picture: npt.NDArray[Any], clear: npt.NDArray[Any]) -> str:
    error = float(np.mean((picture - clear) ** 2))
    return f"{-10 * np.log10(error):.2f} dB" if error else "equal"
