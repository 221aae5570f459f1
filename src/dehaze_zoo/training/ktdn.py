"""KTDN's two recipes: a teacher that reconstructs clear images, and a student whose features are pulled to the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.errors import UsageError
from dehaze_zoo.losses.knowledge_transfer import KnowledgeTransferLoss
from dehaze_zoo.training.module import DehazingModule


class TeacherModule(DehazingModule):
    """Clear in, clear out (Wu et al., CVPRW 2020). Validation judges the reconstruction too."""

    def losses_of(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return self.compare(self(batch["clear"]), batch["clear"])

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        return super().validation_step({**batch, "hazy": batch["clear"]}, batch_idx)


class StudentModule(DehazingModule):
    """Hazy in, clear out; a knowledge-transfer term compares features on hazy with the teacher's on clear, the others the images.

    ``teacher``: a checkpoint of the same network. It is frozen, in eval mode, run without gradients up to the feature alone, and stays out
    of the state dict. Raises UsageError for a knowledge-transfer term without a teacher.
    """

    def __init__(self, teacher: str | Path | None = None, teacher_name: str = "ktdn", **shared: Any) -> None:
        super().__init__(**shared)
        self.transferring = [name for name, term in self.terms.items() if isinstance(term.loss, KnowledgeTransferLoss)]
        if self.transferring and teacher is None:
            raise UsageError(
                "the loss knowledge_transfer needs a teacher. Train one with model=ktdn_teacher and give teacher=FILE (its best.ckpt);\n"
                "experiment=ktdn does both in turn, and 'loss=[l1,laplacian]' trains without transfer."
            )
        # In a list: neither a submodule nor in the state dict.
        self._teacher = [create_model(teacher_name, teacher).requires_grad_(False)] if self.transferring else []

    def companions(self) -> list[nn.Module]:
        return [*super().companions(), *self._teacher]

    def losses_of(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        if not self.transferring:
            return super().losses_of(batch)
        with torch.no_grad():  # first: its activations are gone before the student's come
            target = self._teacher[0].features(batch["clear"])  # type: ignore[operator]
        restored, feature = self.run("restored_and_features", batch["hazy"])
        terms = {}
        for name, term in self.terms.items():
            pair = (feature, target) if name in self.transferring else (restored, batch["clear"])
            terms[name] = self.loss_scale * term.weight * term.loss(*pair)
        return terms
