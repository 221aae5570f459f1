"""The LightningModule that every recipe shares. A recipe of its own shape subclasses it and overrides ``losses_of``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from dehaze_zoo.errors import UsageError
from dehaze_zoo.metrics.protocols import PROTOCOLS
from dehaze_zoo.training.norm import set_norm_mode, share_statistics
from dehaze_zoo.training.schedules import ConstantSchedule, NormSchedule


@dataclass(frozen=True)
class Term:
    """One loss of a recipe and its factor in the sum."""

    loss: nn.Module
    weight: float


class DehazingModule(LightningModule):
    """Trains ``network`` on batches {"hazy", "clear": (B, 3, H, W) in [0, 1], "name": B file names}.

    The loss is the sum of ``losses`` by their weights, times ``loss_scale``; each weighed term is logged as train/<name>, the sum as
    train/loss, means over the epoch, also over one that was resumed in its midst. Learning rate and weight decay are set at each
    epoch's start. Validation logs val/psnr and val/ssim: of each image by the protocol gunet, then the mean over all images on all
    ranks. The state dict holds ``network.*`` alone.
    ``channels_last``: weights and images in that layout. Raises UsageError for a loss that is not finite.
    """

    def __init__(
        self,
        network: nn.Module,
        losses: Mapping[str, Term],
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: ConstantSchedule,
        norm: NormSchedule,
        loss_scale: float = 1.0,
        channels_last: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.terms = dict(losses)  # a plain dict: weights inside a loss stay out of the state dict
        self.optimizer = optimizer
        self.schedule, self.norm = schedule, norm
        self.loss_scale, self.seed = loss_scale, seed
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self._configured: list[list[tuple[float, float]]] = []
        self._judged: list[Tensor] = []
        self._sums: dict[str, Tensor] = {}  # over this epoch's samples so far on this rank
        self.figures: dict[str, float] = {}
        """The last validation's: psnr (dB) and ssim; checkpoints carry them."""

    def forward(self, hazy: Tensor) -> Tensor:
        """Restored (B, 3, H, W), unclamped."""
        restored: Tensor = self.network(hazy.contiguous(memory_format=self.layout))
        return restored

    # ------------------------------------------------------------------------------------------------------------- training

    def losses_of(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The weighed terms of a batch by name; their sum is the loss. A recipe with several outputs overrides this."""
        return self.compare(self(batch["hazy"]), batch["clear"])

    def compare(self, restored: Tensor, clear: Tensor) -> dict[str, Tensor]:
        """Every configured term between two images, weighed and scaled."""
        return {name: self.loss_scale * term.weight * term.loss(restored, clear) for name, term in self.terms.items()}

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        terms = self.losses_of(batch)
        total = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(total):
            raise UsageError(self._not_finite(terms, batch))
        self.note({**terms, "loss": total}, len(batch["hazy"]))
        return total

    def note(self, figures: Mapping[str, Tensor], samples: int) -> None:
        """Adds a batch's figures (scalars, means over its ``samples``) to the epoch's means, which are logged as train/<name>."""
        for name, value in {**figures, "samples": torch.ones_like(next(iter(figures.values())))}.items():
            self._sums[name] = self._sums.get(name, 0) + samples * value.detach().double()

    def _noted(self) -> dict[str, float]:
        """The sums so far over all ranks."""
        if not self._sums:
            return {}
        total = self.trainer.strategy.reduce(torch.stack(list(self._sums.values())), reduce_op="sum")
        return dict(zip(self._sums, total.tolist(), strict=True))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self.trainer.is_last_batch:
            return
        sums, self._sums = self._noted(), {}
        samples = sums.pop("samples", 1)
        figures = {f"train/{name}": value / samples for name, value in sums.items()}
        figures["lr"] = self.schedule.lr(self.current_epoch, self._configured[0][0][0])
        self.log_dict(figures, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)  # the same on all ranks

    def _not_finite(self, terms: Mapping[str, Tensor], batch: Mapping[str, Any]) -> str:
        values = ", ".join(f"{name} = {term.item()}" for name, term in terms.items())
        files = [str(name) for name in batch["name"]]
        more = f" and {len(files) - 8} more" if len(files) > 8 else ""
        return (
            f"the loss is not finite in epoch {self.current_epoch}, step {self.global_step}: {values}.\n"
            f"Files of the batch: {', '.join(files[:8])}{more}\n"
            "Look at these pictures, lower model.optimizer.lr, or use trainer.precision=32-true. resume=auto goes on from the last epoch."
        )

    def configure_optimizers(self) -> list[Optimizer]:
        """The configured optimiser over the network's trainable parameters."""
        return [self.optimizer([p for p in self.network.parameters() if p.requires_grad])]

    def on_fit_start(self) -> None:
        self.network.to(memory_format=self.layout)  # type: ignore[call-overload]
        for term in self.terms.values():
            term.loss.to(self.device)
        # The configured rates; a resumed optimiser brings those of its epoch in its parameter groups.
        self._configured = [[(o.defaults["lr"], o.defaults.get("weight_decay", 0.0)) for _ in o.param_groups] for o in self._optimizers()]

    def on_train_start(self) -> None:
        self._begin(self.current_epoch)  # Lightning begins an epoch that is resumed in its midst without on_train_epoch_start

    def on_train_epoch_start(self) -> None:
        self._begin(self.current_epoch)

    def _begin(self, epoch: int) -> None:
        for optimizer, configured in zip(self._optimizers(), self._configured, strict=True):
            for group, (lr, decay) in zip(optimizer.param_groups, configured, strict=True):
                group["lr"] = self.schedule.lr(epoch, lr)
                if "weight_decay" in group:
                    group["weight_decay"] = self.schedule.weight_decay(epoch, decay)
        frozen = self.norm.frozen(epoch)
        set_norm_mode(self.network, frozen, self.norm.whole_network)
        if frozen:
            share_statistics(self.network)
        if epoch == (self.trainer.max_epochs or 0) - 1:
            self.trainer.check_val_every_n_epoch = 1  # the last epoch is validated, whatever the interval

    def _optimizers(self) -> list[Optimizer]:
        return list(self.trainer.optimizers)

    def on_train_batch_start(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        # Whatever a network or recipe draws depends on seed, batch and rank alone, so that a resumed run draws the same.
        where = [self.seed % 2**63, self.current_epoch, batch_idx, self.global_rank]
        state = np.random.SeedSequence(where).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))

    # ----------------------------------------------------------------------------------------------------------- validation

    def on_validation_epoch_start(self) -> None:
        share_statistics(self.network)
        self._judged = []

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Judges a batch and returns it restored, clamped to [0, 1]."""
        restored: Tensor = self(batch["hazy"]).float().clamp(0, 1)
        figures = PROTOCOLS["gunet"](restored, batch["clear"])
        self._judged.append(torch.stack([figures["psnr"], figures["ssim"], torch.ones_like(figures["psnr"])]).double().sum(1))
        return restored

    def on_validation_epoch_end(self) -> None:
        zero = torch.zeros(3, dtype=torch.float64, device=self.device)
        psnr, ssim, images = self.trainer.strategy.reduce(torch.stack([zero, *self._judged]).sum(0), reduce_op="sum")
        if images:
            self.figures = {"psnr": float(psnr / images), "ssim": float(ssim / images)}
            self.log_dict({f"val/{name}": value for name, value in self.figures.items()}, sync_dist=True)  # the same on all ranks

    # ---------------------------------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["figures"] = self.figures
        checkpoint["sums"] = self._noted()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        ours, theirs = self.state_dict(), checkpoint["state_dict"]
        strange = [key for key in sorted({*ours, *theirs}) if key not in ours or key not in theirs or ours[key].shape != theirs[key].shape]
        if strange:
            raise UsageError(
                f"resume: the checkpoint is of another network: {len(strange)} entries differ, such as {', '.join(strange[:3])}.\n"
                "Choose the model that it was trained as."
            )
        self.figures = checkpoint.get("figures", {})
        if self.global_rank == 0:
            self._sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in checkpoint.get("sums", {}).items()}
