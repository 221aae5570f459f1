"""One network on one picture: what dehaze() and the verbs share."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.checkpoints.shipped import shipped_weights
from dehaze_zoo.data.images import from_pil, read_picture, to_pil
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
    dcp). Raises UsageError where there are none, for an unknown name and for a file that does not fit.
    """
    if checkpoint is None or checkpoint == "shipped":
        if shipped_weights(model) is None:
            network = create_model(model, **overrides)
            if not any(True for _ in network.parameters()):
                return network.to(device)
        checkpoint = "shipped"  # which says, where there are none, which models have some
    return create_model(model, Path(checkpoint) if checkpoint != "shipped" else "shipped", **overrides).to(device)


def choose_device(accelerator: str = "auto") -> str:
    """Where networks run: ``cpu``, the first ``gpu``, or ``auto`` (a GPU when there is one). Raises UsageError without that GPU."""
    gpu = torch.cuda.is_available()
    if accelerator in ("gpu", "cuda") and not gpu:
        raise UsageError("trainer=gpu: torch sees no GPU here. Use trainer=cpu or trainer=auto.")
    return "cpu" if accelerator == "cpu" or not gpu else "cuda"


@overload
def dehaze(
    image: str | os.PathLike[str] | Image.Image, model: str = ..., checkpoint: str | os.PathLike[str] | None = ...
) -> Image.Image: ...
@overload
def dehaze(image: Array, model: str = ..., checkpoint: str | os.PathLike[str] | None = ...) -> Array: ...
@overload
def dehaze(image: Tensor, model: str = ..., checkpoint: str | os.PathLike[str] | None = ...) -> Tensor: ...


def dehaze(image: Any, model: str = "gunet_t", checkpoint: str | os.PathLike[str] | None = "shipped") -> Any:
    """The clear picture of a hazy one; the same kind out as in, clamped, same size. Nothing is written.

    ``image``: a path or PIL image (gives a PIL image; grey, alpha and 16-bit grey kept, 16-bit colour becomes 8-bit), an array
    (H, W, 3) uint8 or float in [0, 1], or a float tensor (3, H, W) or (B, 3, H, W) in [0, 1] on any device (kept; no gradients).
    Tensors are restored where they are, all else on the GPU when there is one. ``checkpoint``: a file, or "shipped" for the
    weights in the package; networks without weights (dcp, identity) need none. The last few networks stay loaded.
    Raises UsageError for another kind of image, an unknown model or a checkpoint that does not fit, ImageError for a file that
    cannot be read.
    """
    if isinstance(image, Tensor):
        if image.ndim not in (3, 4) or image.shape[-3] != 3 or not image.is_floating_point():
            raise UsageError(f"a tensor must be float (3, H, W) or (B, 3, H, W) in [0, 1], not {image.dtype} {tuple(image.shape)}")
        network = _loaded(model, checkpoint, str(image.device))
        return restore(network, image) if image.ndim == 4 else restore(network, image[None])[0]
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or not (image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating)):
            raise UsageError(f"an array must be (H, W, 3), uint8 or float in [0, 1], not {image.dtype} {image.shape}")
        network = _loaded(model, checkpoint, choose_device())
        if image.dtype == np.uint8:
            return np.rint(restore_pixels(network, image / np.float32(255)) * 255).astype(np.uint8)
        return restore_pixels(network, image).astype(image.dtype)
    if not isinstance(image, (str, os.PathLike, Image.Image)):
        raise UsageError(f"dehaze() takes a path, a PIL image, an array or a tensor, not {type(image).__name__}")
    picture = from_pil(image) if isinstance(image, Image.Image) else read_picture(image)
    return to_pil(restore_pixels(_loaded(model, checkpoint, choose_device()), picture.pixels), like=picture)


def _loaded(model: str, checkpoint: str | os.PathLike[str] | None, device: str) -> nn.Module:
    file = None if checkpoint is None or checkpoint == "shipped" else os.path.abspath(checkpoint)
    stamp = os.stat(file).st_mtime_ns if file is not None and os.path.exists(file) else 0  # a file written anew is read anew
    return _load_once(model, file, stamp, device)


@lru_cache(maxsize=4)
def _load_once(model: str, file: str | None, stamp: int, device: str) -> nn.Module:
    return load_network(model, file, device)
