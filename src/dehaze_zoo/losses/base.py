"""What every loss of two images shares: a check of the shapes, and arithmetic in float32 at least."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class ImageLoss(nn.Module, ABC):
    """A distance of two tensors of one shape. A subclass gives ``compare``; half precision and autocast end at its door."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """A scalar, float32 (float64 for float64 inputs). Raises ValueError where the two shapes differ."""
        if prediction.shape != target.shape:
            raise ValueError(f"{type(self).__name__}: shapes differ, prediction {tuple(prediction.shape)}, target {tuple(target.shape)}")
        # Squares of small differences vanish in fp16, and sums over an image overflow.
        wide = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
        with torch.autocast(prediction.device.type, enabled=False):
            return self.compare(prediction.to(wide), target.to(wide))

    @abstractmethod
    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss itself, of two tensors of one shape and one dtype (float32 or float64)."""
