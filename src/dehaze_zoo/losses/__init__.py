"""Losses, one class a file: ``forward(prediction, target) -> scalar``. A loss from elsewhere needs no line here, its yaml names it."""

from dehaze_zoo.losses.charbonnier import CharbonnierLoss
from dehaze_zoo.losses.l1 import L1Loss
from dehaze_zoo.losses.mse import MSELoss

__all__ = ["CharbonnierLoss", "L1Loss", "MSELoss"]
