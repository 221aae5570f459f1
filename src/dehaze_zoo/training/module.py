"""The LightningModule that every recipe shares. A recipe of its own shape subclasses it and overrides ``losses_of``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn
from torch.optim import Optimizer

from dehaze_zoo.errors import UsageError
from dehaze_zoo.metrics.protocols import PROTOCOLS
from dehaze_zoo.training.finite import dump, finite, first_offender, replay_command
from dehaze_zoo.training.norm import set_norm_mode, share_statistics
from dehaze_zoo.training.ranks import anywhere, gathered
from dehaze_zoo.training.schedules import ConstantSchedule, NormSchedule

IN_A_ROW = 20
"""Steps without a finite loss or gradient that stop a training even under on_nan=skip."""


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
    ``channels_last``: weights and images in that layout. ``compiled``: training runs through torch.compile; validation does not, its
    pictures differ in size; UsageError where the recipe says ``UNCOMPILED``.
    ``on_nan``: a loss or gradient that is not finite stops (UsageError) with the batch
    dumped, or is skipped, on every rank, and counted; 20 in a row stop all the same. A validation picture whose figures are not
    numbers stops too, or under skip is named and counted (val/not_finite; the means are nan then).
    """

    UNCOMPILED = ""
    """Why this recipe does not go with torch.compile; empty where it does."""

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
        on_nan: Literal["stop", "skip"] = "stop",
        compiled: bool = False,
    ) -> None:
        super().__init__()
        if on_nan not in ("stop", "skip"):
            raise UsageError(f"on_nan={on_nan}: must be stop or skip.")
        if compiled and self.UNCOMPILED:
            raise UsageError(f"compile=true: {self.UNCOMPILED}. Leave compile=false.")
        self.network = network
        self.terms = dict(losses)  # a plain dict: weights inside a loss stay out of the state dict
        self.optimizer = optimizer
        self.schedule, self.norm = schedule, norm
        self.loss_scale, self.seed, self.on_nan = loss_scale, seed, on_nan
        self.compiled = compiled
        self.design: dict[str, Any] = {}
        """What the network was built as, {"model", "overrides"}; checkpoints carry it."""
        self.before: dict[str, str] = {}
        """The files that runs before this one made for it, by key."""
        self._compiled: dict[str, Callable[..., Any]] = {}
        self.counts = {"skipped": 0, "scaling_steps": 0}
        """Of this run: steps left out by on_nan=skip, and by an fp16 scaler on its way to a fitting scale."""
        self._taken: tuple[Mapping[str, Any], int, Mapping[str, Tensor]] = ({}, 0, {})  # the one that is being taken
        self._statistics: list[Tensor] = []
        self._in_a_row = 0
        self._fed = True  # whether a batch of this step had a finite loss
        self._batches_a_step = 1
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self._configured: list[list[tuple[float, float]]] = []
        self._judged: list[Tensor] = []  # of each validation batch on this rank: psnr, ssim and 1 of its pictures (3, B)
        self._names: list[str] = []  # of these pictures
        self._sums: dict[str, Tensor] = {}  # over this epoch's samples so far on this rank
        self.figures: dict[str, float] = {}
        """The last validation's: psnr (dB) and ssim; checkpoints carry them."""

    @classmethod
    def settled(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """The config's ``model``, before anything of it is built, with what a recipe takes from elsewhere filled in."""
        return settings

    def forward(self, hazy: Tensor) -> Tensor:
        """Restored (B, 3, H, W), unclamped."""
        restored: Tensor = self.run("forward", hazy)
        return restored

    def run(self, method: str, images: Tensor) -> Any:
        """The network's ``method``; in training compiled, where asked for. A recipe that calls another method than forward calls this."""
        images = images.contiguous(memory_format=self.layout)
        if not (self.compiled and self.training):
            return self.network(images) if method == "forward" else getattr(self.network, method)(images)
        if method not in self._compiled:
            self._compiled[method] = torch.compile(getattr(self.network, method))
        return self._compiled[method](images)

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
        self._taken = (batch, batch_idx, terms)
        if batch_idx % self._batches_a_step == 0:
            self._fed = False
        if self._refused("loss", not torch.isfinite(total)):
            # A gradient of zeros: under DDP every step must go backward, and batches accumulated before it keep theirs.
            return torch.stack([0 * p.sum() for p in self.parameters() if p.requires_grad]).sum()
        self._fed = True
        self.note({**terms, "loss": total}, len(batch["hazy"]))
        return total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leaves the step out, of every optimiser, where a gradient is not finite. A recipe that steps by itself calls this before it does.

        An fp16 scaler leaves such steps out too while it looks for its scale: no fault of the run, and counted apart.
        """
        if not self._fed:  # every batch of this step was refused
            self._leave_out(optimizer)
            return
        groups = [group for each in self._optimizers() for group in each.param_groups]
        is_finite = finite([p.grad for group in groups for p in group["params"] if p.grad is not None])
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if not is_finite and scaler is not None and scaler.get_scale() > 1:
            self.counts["scaling_steps"] += 1
        elif self._refused("gradient", not is_finite):
            self._leave_out(optimizer)
        else:
            self._in_a_row = 0

    def _leave_out(self, optimizer: Optimizer) -> None:
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # a fused one does it in its step; without a gradient the scaler would have seen nothing
        for each in self._optimizers():
            each.zero_grad()  # parameters without a gradient stay as they are

    def _refused(self, what: str, not_finite: bool) -> bool:
        """Whether the step must be left out on every rank (on_nan=skip). Raises UsageError on rank 0 where it must not (on_nan=stop)."""
        if not any(anywhere(self.device, not_finite)):
            return False
        batch, batch_idx, terms = self._taken
        self._in_a_row += 1
        stop = self.on_nan == "stop" or self._in_a_row == IN_A_ROW
        message = ""
        values = ", ".join(f"{name} = {term.item():.4g}" for name, term in terms.items())
        files = [str(name) for name in batch["name"]]
        more = f" and {len(files) - 8} more" if len(files) > 8 else ""
        if not_finite:
            message = (
                f"the {what} is not finite in epoch {self.current_epoch}, batch {batch_idx}, step {self.global_step}, rank "
                f"{self.global_rank}: {values}. Files: {', '.join(files[:8])}{more}"
            )
        if stop:
            self._restore()
            self.draw_as(batch_idx, self.global_rank)
            offender = first_offender(self, batch)
            if not_finite:
                message += f"\nFirst: {offender}.\nSee it again: {replay_command(dump(self, batch, batch_idx), self.before)}\n"
                message += "Look at these files, lower model.optimizer.lr, use trainer.precision=32-true, or on_nan=skip; then resume=auto."
        said = next(text for text in gathered(message) if text)
        if stop and self.global_rank > 0:
            sys.exit(0)  # rank 0 speaks; a child's failure would have Lightning kill it first
        if stop:
            raise UsageError(said)
        self._restore()
        self.counts["skipped"] += 1
        rank_zero_only(print)(f"skipped: {said}", flush=True)
        return True

    def _restore(self) -> None:
        """The running statistics as they were before the batch."""
        for buffer, before in zip(self.network.buffers(), self._statistics, strict=False):
            buffer.copy_(before)

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
        figures |= {name: float(count) for name, count in self.counts.items() if count}
        figures["lr"] = self.schedule.lr(self.current_epoch, self._configured[0][0][0])
        self.log_dict(figures, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)  # the same on all ranks

    def configure_optimizers(self) -> list[Optimizer]:
        """The configured optimiser over the network's trainable parameters."""
        return [self.optimizer([p for p in self.network.parameters() if p.requires_grad])]

    def setup(self, stage: str) -> None:
        self.network.to(memory_format=self.layout)  # type: ignore[call-overload]  # before DDP lays out its buckets

    def companions(self) -> list[nn.Module]:
        """What works beside the network and is no submodule: the losses, and in recipes frozen networks."""
        return [term.loss for term in self.terms.values()]

    def place(self) -> None:
        """Moves ``companions`` to the module's device."""
        for each in self.companions():
            each.to(self.device)

    def on_fit_start(self) -> None:
        self.place()
        # The configured rates; a resumed optimiser brings those of its epoch in its parameter groups.
        self._configured = [[(o.defaults["lr"], o.defaults.get("weight_decay", 0.0)) for _ in o.param_groups] for o in self._optimizers()]

    def on_train_start(self) -> None:
        self._batches_a_step = self.trainer.accumulate_grad_batches
        self._begin(self.current_epoch)  # Lightning begins an epoch that is resumed in its midst without on_train_epoch_start

    def on_train_epoch_start(self) -> None:
        self._begin(self.current_epoch)

    def _begin(self, epoch: int) -> None:
        for optimizer, configured in zip(self._optimizers(), self._configured, strict=True):
            for group, (lr, decay) in zip(optimizer.param_groups, configured, strict=True):
                group["lr"] = self.schedule.lr(epoch, lr)
                if "weight_decay" in group:
                    group["weight_decay"] = self.schedule.weight_decay(epoch, decay)
        if self.set_norms(epoch):
            share_statistics(self.network)
        if epoch == (self.trainer.max_epochs or 0) - 1:
            self.trainer.check_val_every_n_epoch = 1  # the last epoch is validated, whatever the interval

    def set_norms(self, epoch: int) -> bool:
        """Puts the network into training mode and its norms into that of an epoch; whether they are frozen."""
        frozen = self.norm.frozen(epoch)
        set_norm_mode(self.network, frozen, self.norm.whole_network)
        return frozen

    def _optimizers(self) -> list[Optimizer]:
        return list(self.trainer.optimizers)

    def on_train_batch_start(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        self.draw_as(batch_idx, self.global_rank)
        if self.on_nan == "skip":
            self._statistics = [buffer.clone() for buffer in self.network.buffers()]

    def draw_as(self, batch_idx: int, rank: int) -> None:
        """Seeds torch: what is drawn depends on seed, epoch, batch and rank alone, so that a resumed run draws the same."""
        where = [self.seed % 2**63, self.current_epoch, batch_idx, rank]
        state = np.random.SeedSequence(where).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))

    # ----------------------------------------------------------------------------------------------------------- validation

    def on_validation_epoch_start(self) -> None:
        share_statistics(self.network)
        self._judged, self._names = [], []

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Judges a batch and returns it restored, clamped to [0, 1]."""
        restored: Tensor = self(batch["hazy"]).float().clamp(0, 1)
        figures = PROTOCOLS["gunet"](restored, batch["clear"])
        self._judged.append(torch.stack([figures["psnr"], figures["ssim"], torch.ones_like(figures["psnr"])]).double())
        self._names += [str(name) for name in batch["name"]]
        return restored

    def on_validation_epoch_end(self) -> None:
        zero = torch.zeros(3, dtype=torch.float64, device=self.device)
        sums = torch.stack([zero, *(figures.sum(1) for figures in self._judged)]).sum(0)
        psnr, ssim, images = self.trainer.strategy.reduce(sums, reduce_op="sum")
        if images:
            self.figures = {"psnr": float(psnr / images), "ssim": float(ssim / images)}
            logged = {f"val/{name}": value for name, value in self.figures.items()}
            if psnr.isnan() or ssim.isnan():  # infinite is the psnr of a picture that was restored to the bit
                logged["val/not_finite"] = float(self._not_numbers())
            self.log_dict(logged, sync_dist=True)  # the same on all ranks

    def _not_numbers(self) -> int:
        """How many pictures of the validation have figures that are not numbers, over all ranks; on_nan=stop: raises UsageError."""
        wrong = torch.cat(self._judged, 1).isnan().any(0).tolist() if self._judged else []
        names = [name for name, is_wrong in zip(self._names, wrong, strict=True) if is_wrong]
        said = [text for text in gathered("\n".join(names)) if text]
        names = [name for text in said for name in text.split("\n")]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        message = f"psnr or ssim is not a number in the validation of epoch {self.current_epoch}: {', '.join(names[:8])}{more}"
        if self.on_nan == "skip":
            rank_zero_only(print)(f"warning: {message}", flush=True)
            return len(names)
        if self.global_rank > 0:
            sys.exit(0)  # rank 0 speaks
        raise UsageError(
            f"{message}\nLook at these pictures, lower model.optimizer.lr, use trainer.precision=32-true, or on_nan=skip; then resume=auto."
        )

    # ---------------------------------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["figures"], checkpoint["optimizers"], checkpoint["design"] = self.figures, self._kinds(), self.design
        checkpoint["sums"], checkpoint["counts"] = self._noted(), dict(self.counts)

    def _kinds(self) -> list[str]:
        return [type(optimizer).__name__ for optimizer in self._optimizers() or self.configure_optimizers()]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        mine, given = self.state_dict(), checkpoint["state_dict"]
        strange = [key for key in sorted({*mine, *given}) if key not in mine or key not in given or mine[key].shape != given[key].shape]
        if strange:
            raise UsageError(
                f"resume: the checkpoint is of another network: {len(strange)} entries differ, such as {', '.join(strange[:3])}.\n"
                "Choose the model that it was trained as."
            )
        theirs, ours = checkpoint.get("optimizers", self._kinds()), self._kinds()
        if theirs != ours:
            raise UsageError(
                f"resume: the checkpoint's optimisers are {', '.join(theirs)}, this recipe's {', '.join(ours)}.\n"
                "Repeat its settings, or start from its weights alone by init=FILE."
            )
        self.figures = checkpoint.get("figures", {})
        self.counts |= checkpoint.get("counts", {})
        if self.global_rank == 0:
            self._sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in checkpoint.get("sums", {}).items()}
