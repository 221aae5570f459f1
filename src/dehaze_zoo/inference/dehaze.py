"""The package's ``dehaze``: one picture, whatever holds it."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor, nn

from dehaze_zoo.data.images import from_pil, read_picture, to_pil
from dehaze_zoo.errors import UsageError
from dehaze_zoo.inference.restore import choose_device, load_network, restore, restore_pixels
from dehaze_zoo.inference.tiling import restore_picture, tile_side

Array = npt.NDArray[Any]


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
    weights in the package; networks without weights (dcp, identity) need none. The last few networks stay loaded. Files and PIL images
    that do not fit into memory go in tiles.
    Raises UsageError for another kind of image, an unknown model or a checkpoint that does not fit, ImageError for a file that
    cannot be read.
    """
    if isinstance(image, Tensor):
        if image.ndim not in (3, 4) or image.shape[-3] != 3 or not image.is_floating_point():
            raise UsageError(f"a tensor must be float (3, H, W) or (B, 3, H, W) in [0, 1], not {image.dtype} {tuple(image.shape)}")
        network = loaded(model, checkpoint, str(image.device))
        return restore(network, image) if image.ndim == 4 else restore(network, image[None])[0]
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or not (image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating)):
            raise UsageError(f"an array must be (H, W, 3), uint8 or float in [0, 1], not {image.dtype} {image.shape}")
        network = loaded(model, checkpoint, choose_device())
        if image.dtype == np.uint8:
            return np.rint(restore_pixels(network, image / np.float32(255)) * 255).astype(np.uint8)
        return restore_pixels(network, image).astype(image.dtype)
    if not isinstance(image, (str, os.PathLike, Image.Image)):
        raise UsageError(f"dehaze() takes a path, a PIL image, an array or a tensor, not {type(image).__name__}")
    picture = from_pil(image) if isinstance(image, Image.Image) else read_picture(image)
    network = loaded(model, checkpoint, choose_device())
    return to_pil(restore_picture(network, picture, tile_side(network, picture.size)), like=picture)


def loaded(model: str, checkpoint: str | os.PathLike[str] | None, device: str) -> nn.Module:
    """``load_network``, the last few of them kept; a file that was written anew is read anew. Raises UsageError as it does."""
    file = None if checkpoint is None or checkpoint == "shipped" else os.path.abspath(checkpoint)
    stamp = os.stat(file).st_mtime_ns if file is not None and os.path.exists(file) else 0  # in the key
    return _load_once(model, file, stamp, device)


@lru_cache(maxsize=4)
def _load_once(model: str, file: str | None, stamp: int, device: str) -> nn.Module:
    return load_network(model, file, device)
