"""What changes with the epoch: learning rate, weight decay and batch norm, as functions without state: a resumed run is on course.

The epoch marks of a recipe are meant for its own ``length``. With another ``max_epochs`` they move along, as mark * max_epochs // length;
``scale=False`` keeps them. No torch here: a plan is written without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dehaze_zoo.errors import UsageError

NormMode = Literal["batch", "sync", "frozen"]


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Epoch marks of a recipe of ``length`` epochs, brought to a run of ``max_epochs``. Raises UsageError for less than one epoch."""

    max_epochs: int
    length: int = 1
    scale: bool = True

    def __post_init__(self) -> None:
        if self.max_epochs < 1:
            raise UsageError(f"trainer.max_epochs={self.max_epochs}: a schedule needs at least 1 epoch.")

    def mark(self, epoch: int) -> int:
        """The recipe's ``epoch`` in this run, rounded down."""
        return epoch * self.max_epochs // self.length if self.scale else epoch


@dataclass(frozen=True, kw_only=True)
class ConstantSchedule(Marks):
    """The configured learning rate and weight decay throughout. Base of the others: they override what they change."""

    def lr(self, epoch: int, base: float) -> float:
        """Learning rate of ``epoch`` (from 0) for a configured rate ``base``."""
        return base

    def weight_decay(self, epoch: int, base: float) -> float:
        """Weight decay of ``epoch`` (from 0) for a configured decay ``base``."""
        return base


@dataclass(frozen=True, kw_only=True)
class GUNetSchedule(ConstantSchedule):
    """gUNet (2022): from ``lr_min_share`` of the rate linearly up to it at ``warmup``, by a cosine back at ``end``.

    Weight decay falls to 0 at ``end`` by a cosine of its own, without warm-up; ``decay_weight_decay=False`` holds it.
    """

    length: int = 1001
    warmup: int = 50
    end: int = 1000
    lr_min_share: float = 0.01
    decay_weight_decay: bool = True

    def lr(self, epoch: int, base: float) -> float:
        low, warmup = base * self.lr_min_share, self.mark(self.warmup)
        if epoch < warmup:
            return low + epoch * (base - low) / warmup
        return low + (base - low) * _cosine(epoch - warmup, self.mark(self.end) - warmup)

    def weight_decay(self, epoch: int, base: float) -> float:
        return base * _cosine(epoch, self.mark(self.end)) if self.decay_weight_decay else base


@dataclass(frozen=True, kw_only=True)
class MPRNetSchedule(ConstantSchedule):
    """MPRNet (CVPR 2021): 1/3, 2/3, 3/3 of the rate in the first ``warmup`` = 3 epochs, then by a cosine to ``lr_min`` in the last."""

    length: int = 250
    warmup: int = 3
    lr_min: float = 1e-6

    def lr(self, epoch: int, base: float) -> float:
        warmup = self.mark(self.warmup)
        if epoch < warmup:
            return base * (epoch + 1) / warmup
        peak = max(warmup - 1, 0)  # the cosine leaves from the last epoch of the warm-up
        return self.lr_min + (base - self.lr_min) * _cosine(epoch - peak, self.mark(self.length) - 1 - peak)


@dataclass(frozen=True, kw_only=True)
class NormSchedule(Marks):
    """What batch norms do: synchronised over GPUs below ``sync_below`` samples on each, frozen in epochs after ``freeze_after``.

    Frozen: they normalise by their running statistics, which no longer move; their affine weights go on training. ``whole_network``
    puts all modules into eval mode then, as gUNet's program does, dropout included; else only batch norms are touched.
    """

    sync_below: int = 0
    freeze_after: int | None = None
    whole_network: bool = False

    def synchronised(self, batch_per_device: int, gpus: int) -> bool:
        """Whether batch norms share their statistics over ``gpus`` GPUs (0 on CPUs, which torch's SyncBatchNorm refuses)."""
        return gpus > 1 and batch_per_device < self.sync_below

    def frozen(self, epoch: int) -> bool:
        """Whether ``epoch`` (from 0) runs on frozen statistics."""
        return self.freeze_after is not None and epoch > self.mark(self.freeze_after)

    def mode(self, epoch: int, synchronised: bool) -> NormMode:
        """The word in plan.csv."""
        return "frozen" if self.frozen(epoch) else "sync" if synchronised else "batch"


def _cosine(step: int, steps: int) -> float:
    """From 1 at step 0 by half a cosine to 0 at ``steps``, and 0 after; a fall of no length has not begun."""
    return 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps)) if steps > 0 else 1.0
