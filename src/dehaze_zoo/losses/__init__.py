"""Losses, one class a file: ``forward(prediction, target) -> scalar``. A loss from elsewhere needs no line here: its yaml names it."""

from dehaze_zoo.losses.charbonnier import CharbonnierLoss
from dehaze_zoo.losses.edge import EdgeLoss
from dehaze_zoo.losses.edge_laplacian import EdgeLaplacianLoss
from dehaze_zoo.losses.knowledge_transfer import KnowledgeTransferLoss
from dehaze_zoo.losses.l1 import L1Loss
from dehaze_zoo.losses.laplacian import LaplacianLoss
from dehaze_zoo.losses.mse import MSELoss
from dehaze_zoo.losses.perceptual import PerceptualLoss
from dehaze_zoo.losses.ssim import SSIMLoss

__all__ = [
    "CharbonnierLoss",
    "EdgeLaplacianLoss",
    "EdgeLoss",
    "KnowledgeTransferLoss",
    "L1Loss",
    "LaplacianLoss",
    "MSELoss",
    "PerceptualLoss",
    "SSIMLoss",
]
