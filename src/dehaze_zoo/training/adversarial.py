"""Training against a discriminator: two optimisers, one backward, and codes that are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from dehaze_zoo.errors import UsageError
from dehaze_zoo.training.codes import CodePicture, dead_codes, perplexity
from dehaze_zoo.training.module import DehazingModule


class AdversarialModule(DehazingModule):
    """A generator with a codebook (``network``) and, where ``adversarial`` is above 0, a ``discriminator`` with an optimiser of its own.

    Manual optimisation: every batch's terms, the discriminator's among them, are summed and go backward at once (each reaches its own
    parameters alone), and both optimisers step together after ``trainer.accumulate_grad_batches`` batches or at the epoch's end.
    ``trainer.gradient_clip_val`` holds for each optimiser's gradients apart.
    Codes are counted over the epoch: train/perplexity (exp of their entropy; the codebook's size at best), train/dead_codes (never used).
    The state dict holds ``discriminator.*`` besides ``network.*``.
    """

    def __init__(
        self,
        adversarial: float = 0.1,
        discriminator: nn.Module | None = None,
        discriminator_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.automatic_optimization = False
        self.adversarial = adversarial
        self.discriminator = discriminator if adversarial > 0 else None
        self.discriminator_optimizer = discriminator_optimizer
        if self.discriminator is not None and discriminator_optimizer is None:
            raise UsageError("model.adversarial is above 0: model.discriminator_optimizer is needed, or model.adversarial=0")
        self.code_use: Tensor | None = None
        """How often each code was used in this epoch so far, on this rank: (codes,)."""
        self._accumulate = 1
        self._clip_at: float | int | None = None

    # ------------------------------------------------------------------------------------------------------------- the terms

    def adversarial_terms(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Hinge terms: -weight mean D(fake) for the generator, mean relu(1 - D(real)) + mean relu(1 + D(fake)) for the discriminator."""
        judge = self.discriminator
        if judge is None:
            return {}
        judge.requires_grad_(False)  # what fools it must not teach it
        fooled = -self.adversarial * judge(fake).mean()
        judge.requires_grad_(True)
        judged = F.relu(1 - judge(real)).mean() + F.relu(1 + judge(fake.detach())).mean()
        return {"adversarial": fooled, "discriminator": judged}

    def count(self, codes: Tensor) -> None:
        """Adds a batch's codes to the epoch's."""
        size: int = self.network.quantiser.embedding.num_embeddings  # type: ignore[assignment,union-attr]
        used = torch.bincount(codes.flatten(), minlength=size)
        self.code_use = used if self.code_use is None else self.code_use + used

    # ---------------------------------------------------------------------------------------------------------- optimisation

    def generator_parameters(self) -> list[nn.Parameter]:
        """What the first optimiser trains."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def configure_optimizers(self) -> list[Optimizer]:
        """The generator's, then the discriminator's."""
        optimizers = [self.optimizer(self.generator_parameters())]
        if self.discriminator is not None:
            assert self.discriminator_optimizer is not None
            optimizers.append(self.discriminator_optimizer(self.discriminator.parameters()))
        return optimizers

    def configure_callbacks(self) -> Sequence[Callback]:
        # Lightning refuses both keys with manual optimisation, before on_fit_start; we do what they ask for.
        self._accumulate, self.trainer.accumulate_grad_batches = self.trainer.accumulate_grad_batches, 1
        self._clip_at, self.trainer.gradient_clip_val = self.trainer.gradient_clip_val, None
        return [CodePicture()]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.trainer.accumulate_grad_batches, self.trainer.gradient_clip_val = self._accumulate, self._clip_at

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        total = super().training_step(batch, batch_idx)
        first = batch_idx // self._accumulate * self._accumulate
        together = min(self._accumulate, int(self.trainer.num_training_batches) - first)
        self.manual_backward(total / together)
        if batch_idx - first == together - 1:
            self.step_both()
        return total.detach()

    def step_both(self) -> None:
        """Steps the generator's optimiser, and within it (``on_before_optimizer_step``) the discriminator's; zeroes all gradients."""
        held = self.optimizers()
        generator, *others = held if isinstance(held, list) else [held]
        generator.step()
        for optimizer in (generator, *others):
            optimizer.zero_grad()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Checks and clips both optimisers' gradients, then steps the discriminator's.

        Here both are unscaled by the same scale; after the generator's step an fp16 scaler changes it.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        others = [each for each in self._optimizers() if each is not optimizer]
        for other in others:
            if scaler is not None:
                scaler.unscale_(other)
        super().on_before_optimizer_step(optimizer)
        if self._clip_at:
            clip = nn.utils.clip_grad_value_ if self.trainer.gradient_clip_algorithm == "value" else nn.utils.clip_grad_norm_
            for each in (optimizer, *others):
                clip([p for group in each.param_groups for p in group["params"]], self._clip_at)
        for other in others:
            if scaler is None:
                other.step()
            else:
                scaler.step(other)

    # ----------------------------------------------------------------------------------------------------------------- codes

    def _begin(self, epoch: int) -> None:
        super()._begin(epoch)
        if self.discriminator is not None:
            self.discriminator.train()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.code_use = None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.trainer.is_last_batch and self.code_use is not None:
            self.code_use = self._used_anywhere(self.code_use)
            figures = {"train/perplexity": perplexity(self.code_use), "train/dead_codes": float(dead_codes(self.code_use))}
            self.log_dict(figures, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)  # the same on all ranks

    def _used_anywhere(self, use: Tensor) -> Tensor:
        total: Tensor = self.trainer.strategy.reduce(use.double(), reduce_op="sum")
        return total.round().long()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.code_use is not None:
            checkpoint["code_use"] = self.code_use if self.trainer.is_last_batch else self._used_anywhere(self.code_use)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        use = checkpoint.get("code_use")
        self.code_use = use.to(self.device) if use is not None and self.global_rank == 0 else None
