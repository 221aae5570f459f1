"""One network on one batch: what dehaze() and the verbs share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.checkpoints.reading import whole_design
from dehaze_zoo.checkpoints.shipped import shipped_weights
from dehaze_zoo.errors import UsageError

Array = npt.NDArray[Any]


def restore(network: nn.Module, hazy: Tensor) -> Tensor:
    """The network's picture of ``hazy``, clamped to [0, 1].

    ``hazy``: float (B, 3, H, W) RGB in [0, 1]; returns the same shape, dtype and device, wherever the network lives. No
    gradients. Raises UsageError where the network returns another size or values that are not finite.
    """
    home = next(network.parameters(), hazy).device
    with torch.no_grad():
        restored: Tensor = network(hazy.to(home, torch.float32))
    if restored.shape != hazy.shape:
        raise UsageError(f"the network made {tuple(restored.shape)} of {tuple(hazy.shape)}; it must keep the size")
    if not bool(torch.isfinite(restored).all()):
        raise UsageError("the network gave values that are not finite. Its weights are damaged or not for pictures in [0, 1].")
    return restored.clamp(0, 1).to(hazy.device, hazy.dtype)


def restore_pixels(network: nn.Module, pixels: Array) -> npt.NDArray[np.float32]:
    """``restore`` for one picture as an array: (H, W, 3) RGB floats in [0, 1], in and out."""
    hazy = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32)).permute(2, 0, 1)[None]
    return np.asarray(restore(network, hazy)[0].permute(1, 2, 0).contiguous().numpy())


def load_network(model: str, checkpoint: str | os.PathLike[str] | None = None, device: str = "cpu", **overrides: Any) -> nn.Module:
    """A network ready to restore, in eval mode on ``device``.

    Without a checkpoint (None or "shipped"): the weights in the package, or none where the network has none to load (identity,
    dcp). Subnormal weights are zero: a CPU takes 40 times as long over them and they are too small to show (the authors' AOD-Net
    has such). Raises UsageError where there are none, for an unknown name and for a file that does not fit.
    """
    if checkpoint is None or checkpoint == "shipped":
        if shipped_weights(model) is None:
            network = create_model(model, **overrides)
            if not any(True for _ in network.parameters()):
                return network.to(device)
        checkpoint = "shipped"  # which says, where there are none, which models have some
    network = create_model(model, Path(checkpoint) if checkpoint != "shipped" else "shipped", **overrides).to(device)
    with torch.no_grad():
        for weight in network.parameters():
            weight[weight.abs() < torch.finfo(weight.dtype).tiny] = 0
    return network


def load_for_others(network: Mapping[str, Any], checkpoint: str | None) -> tuple[nn.Module, str, dict[str, Any], Path | None]:
    """What a network is passed on with: itself, on the CPU, its name, its whole design, and its file of weights (None where it has none).

    ``network`` is the config's ``model.network``: the name, and overrides, which those in the file's own account add to. Raises as
    ``load_network``.
    """
    design = dict(network)
    name = str(design.pop("name"))
    loaded = load_network(name, checkpoint, "cpu", **design)
    weights = Path(checkpoint) if checkpoint not in (None, "shipped") else shipped_weights(name)
    return loaded, name, whole_design(weights, name, design), weights


def choose_device(accelerator: str = "auto") -> str:
    """Where networks run: ``cpu``, the first ``gpu``, or ``auto`` (a GPU when there is one). Raises UsageError without that GPU."""
    gpu = torch.cuda.is_available()
    if accelerator in ("gpu", "cuda") and not gpu:
        raise UsageError("trainer=gpu: torch sees no GPU here. Use trainer=cpu or trainer=auto.")
    return "cpu" if accelerator == "cpu" or not gpu else "cuda"
