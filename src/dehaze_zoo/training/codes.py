"""How a codebook is used: figures, and a picture of the codes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from dehaze_zoo.data.images import write_picture


def perplexity(use: Tensor) -> float:
    """exp of the entropy of how often each code was used (codes,): as many codes as there would be, were all used alike."""
    share = use.double() / use.sum().clamp_min(1)
    return math.exp(-float(torch.special.xlogy(share, share).sum()))


def dead_codes(use: Tensor) -> int:
    """Codes that were never used."""
    return int((use == 0).sum())


@torch.no_grad()
def code_sheet(network: nn.Module, use: Tensor | None = None, grid: int = 4) -> npt.NDArray[np.float32]:
    """All codes as a square of patches (H, W, 3) in [0, 1]: what the decoder makes of a grid of ``grid`` x ``grid`` times one code.

    With ``use`` (codes,), the most used come first and those never used are dimmed. ``network`` is a VQGAN.
    """
    size: int = network.quantiser.embedding.num_embeddings  # type: ignore[assignment,union-attr]
    device = next(network.parameters()).device
    order = torch.arange(size) if use is None else use.cpu().argsort(descending=True, stable=True)
    patches = []
    for codes in order.split(64):
        image = network.decode_codes(codes.to(device)[:, None, None].expand(-1, grid, grid))  # type: ignore[operator]
        inner = image[..., 4:-4, 4:-4] if grid > 2 else image  # without the border, where padding shows
        patches.append(inner.float().clamp(0, 1).cpu())
    all_patches = torch.cat(patches)
    if use is not None:
        all_patches[use.cpu()[order] == 0] *= 0.15
    side = math.ceil(math.sqrt(size))
    height, width = all_patches.shape[-2:]
    sheet = torch.ones(side * side, 3, height + 1, width + 1)
    sheet[:size, :, :height, :width] = all_patches
    sheet = sheet.view(side, side, 3, height + 1, width + 1).permute(0, 3, 1, 4, 2).reshape(side * (height + 1), side * (width + 1), 3)
    return np.asarray(sheet.numpy(), np.float32)


class CodePicture(Callback):
    """run_dir/images/codes_NNNN.png at each validation of a stage 1: its ``code_sheet``, by the use of the epoch."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network: Any = pl_module.network
        if trainer.is_global_zero and hasattr(network, "decode_codes"):
            path = Path(trainer.default_root_dir) / "images" / f"codes_{trainer.current_epoch:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_picture(path, code_sheet(network, pl_module.code_use))  # type: ignore[arg-type]
