"""A network by name, with its weights: the package's ``create_model``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from dehaze_zoo.checkpoints.reading import load_into, whole_design
from dehaze_zoo.checkpoints.shipped import models_with_shipped_weights, shipped_weights
from dehaze_zoo.errors import UsageError
from dehaze_zoo.networks.registry import build_model, list_models


def create_model(name: str, checkpoint: str | Path | None = None, **overrides: Any) -> nn.Module:
    """The network ``name`` in eval mode, on the CPU, in float32: (B, 3, H, W) RGB in [0, 1] to restored, unclamped.

    ``checkpoint`` is a weights file (an authors' file, our .ckpt or .safetensors), "shipped" for the weights in the package, or None
    for a fresh initialisation from torch's seed. ``overrides`` change the design; those that a file of ours names for
    this model hold where none (or None) are given. Raises UsageError for an unknown name or override, or a checkpoint that does not fit.
    """
    if checkpoint == "shipped":
        checkpoint = shipped_weights(name)
        if checkpoint is None and name in list_models():
            have = ", ".join(models_with_shipped_weights()) or "none"
            raise UsageError(f"no weights for model {name!r} come with the package (with weights: {have}).\nGive checkpoint=FILE.")
    net = build_model(name, **whole_design(checkpoint, name, overrides))
    if checkpoint is not None:
        load_into(net, checkpoint)
    return net.float().eval()
