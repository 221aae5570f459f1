"""Knowledge transfer between two networks of one design."""

from __future__ import annotations

from torch import Tensor

from dehaze_zoo.losses.base import ImageLoss


class KnowledgeTransferLoss(ImageLoss):
    """mean |s - sg(t)|: the student's features pulled to the teacher's, which gets no gradient (KTDN, CVPRW 2020); any one shape.

    On two images it is L1, so that it composes like the others.
    """

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target.detach()).abs().mean()
