"""LPIPS: torchmetrics' network, with its backbone's ImageNet weights from a local file or downloaded by torchvision."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from dehaze_zoo.errors import UsageError, near_misses

BACKBONES = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}
"""LPIPS' names of its backbones, and torchvision's."""

GIVE_IT = "it by weights=FILE (loss.perceptual.weights=FILE, or lpips.weights=FILE in the benchmark)."

SMALLEST_SIDE = 32
"""Pixels; below, the backbones' poolings leave nothing."""


class LPIPS(nn.Module):
    """Learned perceptual distance of each image pair (Zhang et al., CVPR 2018, version 0.1), always in eval mode and frozen.

    ``backbone``: vgg, alex or squeeze. ``weights``: torchvision's file of that network (.pth or .safetensors; the ``features.*`` part is
    enough); without it torchvision's cache or a download. The linear heads come with torchmetrics. Raises UsageError for a file that is
    not that network's and where the weights cannot be had.
    """

    def __init__(self, backbone: str = "vgg", weights: str | Path | None = None) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise UsageError(f"LPIPS has no backbone {backbone!r}. {near_misses(backbone, BACKBONES)}")
        state = downloaded(BACKBONES[backbone], "LPIPS", GIVE_IT) if weights is None else _read(Path(weights))
        from torchmetrics.functional.image.lpips import _NoTrainLpips  # the public class always downloads and refuses unclamped images

        self.network = _NoTrainLpips(net=backbone, pnet_rand=True)  # type: ignore[arg-type]
        # torchmetrics files layer i of torchvision's ``features`` under the slice that holds it, by the same number.
        wanted = {f"net.{key}": re.sub(r"^slices?\.?\d+\.", "features.", key) for key in self.network.net.state_dict()}
        missing = [name for name in wanted.values() if name not in state]
        if missing:
            raise UsageError(
                f"{weights}: not weights of torchvision's {BACKBONES[backbone]}: {missing[0]} and {len(missing) - 1} more missing."
            )
        try:
            self.network.load_state_dict({ours: state[theirs] for ours, theirs in wanted.items()}, strict=False)
        except RuntimeError as error:  # shapes
            raise UsageError(f"{weights}: not weights of torchvision's {BACKBONES[backbone]}: shapes differ.") from error

    def forward(self, restored: Tensor, clear: Tensor) -> Tensor:
        """(B, 3, H, W) each, [0, 1], not clamped; returns (B,). Raises UsageError for sides below 32 pixels."""
        if min(restored.shape[-2:]) < SMALLEST_SIDE:
            raise UsageError(
                f"LPIPS needs {SMALLEST_SIDE} pixels a side, these images have {tuple(restored.shape[-2:])}: use larger crops."
            )
        distances: Tensor = self.network(restored, clear, normalize=True)
        return distances.flatten()


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: dict[str, Tensor] = dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever the reader stumbles over, the file is the matter
        raise UsageError(f"{path}: cannot be read as a file of weights ({type(error).__name__}).") from error
    return state


def downloaded(network: str, what_for: str, give: str) -> dict[str, Tensor]:
    """torchvision's ImageNet weights of ``network``, from its cache or fetched.

    Raises UsageError where neither is to be had: ``what_for`` needs them, and ``give`` says how to do without.
    """
    from torchvision.models import get_model_weights

    entry = get_model_weights(network).DEFAULT
    try:
        state: dict[str, Tensor] = entry.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network; a broken download
        raise UsageError(
            f"{what_for} needs the ImageNet weights of {network}, and {entry.url} cannot be fetched.\n"
            f"Fetch that file elsewhere and give {give}"
        ) from error
    return state
