"""MPRNet's recipe: every stage supervised; MixUp and clamped outputs for the denoising variant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dehaze_zoo.training.module import DehazingModule


class MPRNetModule(DehazingModule):
    """Trains a network with ``stages(hazy)``: each term is summed over the stages' outputs (Zamir et al., CVPR 2021, eq. 1).

    ``clamp``: outputs are cut to [0, 1] before they are judged. ``mixup_after``: from the epoch after this mark of the schedule on,
    hazy and clear are mixed alike with those of another sample, with shares from Beta(``mixup_beta``, ``mixup_beta``); None: never.
    """

    def __init__(self, clamp: bool = False, mixup_after: int | None = None, mixup_beta: float = 0.6, **shared: Any) -> None:
        super().__init__(**shared)
        self.clamp, self.mixup_after, self.mixup_beta = clamp, mixup_after, mixup_beta

    def losses_of(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        hazy, clear = batch["hazy"], batch["clear"]
        # Epochs count from 1 in the published program: "from epoch 6" is our mark 5.
        if self.mixup_after is not None and self.current_epoch >= self.schedule.mark(self.mixup_after):
            hazy, clear = mixed(hazy, clear, self.mixup_beta)
        outputs = self.run("stages", hazy)
        each = [self.compare(output.clamp(0, 1) if self.clamp else output, clear) for output in outputs]
        return {name: torch.stack([terms[name] for terms in each]).sum() for name in self.terms}


def mixed(hazy: Tensor, clear: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Each sample blended with a random one of the batch, hazy and clear by the same share ~ Beta(beta, beta) (MixUp, ICLR 2018)."""
    share = torch.distributions.Beta(beta, beta).sample((len(hazy), 1, 1, 1)).to(hazy)
    partner = torch.randperm(len(hazy), device=hazy.device)
    return share * hazy + (1 - share) * hazy[partner], share * clear + (1 - share) * clear[partner]
