"""plan.csv: what a recipe does in every epoch, without data, a network or torch."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from dehaze_zoo.errors import UsageError
from dehaze_zoo.files import written_aside
from dehaze_zoo.made import made
from dehaze_zoo.training.placement import place

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from dehaze_zoo.training.schedules import ConstantSchedule, NormSchedule


def write_plan(cfg: DictConfig, run_dir: Path) -> Path:
    """Writes run_dir/plan.csv (epoch,lr,weight_decay,batch_norm: batch|sync|frozen), a line an epoch, in full precision.

    Raises UsageError for a model without an optimiser.
    """
    check_trainable(cfg)
    scale_rates(cfg)
    schedule: ConstantSchedule = made(cfg.schedule)
    norm: NormSchedule = made(cfg.norm)
    optimizer, placement = cfg.model.optimizer, place(cfg.trainer, plan=True)
    synchronised = norm.synchronised(placement.batch_per_device(cfg.data.batch_size), placement.gpus)
    target = run_dir / "plan.csv"
    with written_aside(target) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "lr", "weight_decay", "batch_norm"])
        for epoch in range(cfg.trainer.max_epochs):
            lr = schedule.lr(epoch, optimizer.lr)
            decay = schedule.weight_decay(epoch, optimizer.get("weight_decay", 0.0))
            writer.writerow([epoch, repr(lr), repr(decay), norm.mode(epoch, synchronised)])
    return target


def scale_rates(cfg: DictConfig) -> None:
    """Under scale_lr=true, multiplies every configured learning rate by the batch's share of the recipe's (Goyal et al., 2017).

    The batch is that of an optimiser's step: data.batch_size (over all ranks) times trainer.accumulate_grad_batches.
    """
    if cfg.scale_lr:
        share = cfg.data.batch_size * cfg.trainer.accumulate_grad_batches / cfg.model.recipe.batch_size
        for node in cfg.model.values():
            if OmegaConf.is_dict(node) and "lr" in node:
                node.lr *= share


def check_trainable(cfg: DictConfig) -> None:
    """Raises UsageError for a model whose config has no optimiser."""
    if "optimizer" not in cfg.model:
        raise UsageError(f"model={cfg.model.network.name} has nothing to train. Use it with evaluate or predict.")
