"""Pairs of pictures as tensors: cropped and turned for training, whole or centre-cropped for judging."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from dehaze_zoo.data.cache import Cache
from dehaze_zoo.data.images import read_rgb
from dehaze_zoo.data.layouts import Pair, Problem
from dehaze_zoo.data.samplers import Token, generator
from dehaze_zoo.data.sets import BORDER
from dehaze_zoo.data.table import PairTable
from dehaze_zoo.data.windows import FileWindow, Window
from dehaze_zoo.errors import ImageError, UsageError, near_misses

Array = npt.NDArray[Any]

Turn = tuple[bool, bool, int]
"""Upside down, mirrored, quarter turns."""

_FLIPS = {(True, False): 0, (False, True): 1, (True, True): -1}
_QUARTERS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}

_TURNS: dict[str, list[Turn]] = {  # each as likely as the others
    "none": [(False, False, 0)],
    "flip": [(False, False, 0), (False, True, 0)],
    "gunet": [(False, mirrored, quarters) for mirrored in (False, True) for quarters in range(4)],
    "mprnet": [(False, False, 0)] * 2
    + [(True, False, 0), (False, True, 0), (False, False, 1), (False, False, 2), (False, False, 3), (True, False, 1), (False, True, 1)],
}


class Sample(TypedDict):
    """Float tensors (3, H, W), RGB in [0, 1]."""

    hazy: Tensor
    clear: Tensor
    name: str


class RawSample(TypedDict):
    """As it was read: crops (h, w, 3) of bytes or of floats in [0, 1], still to be turned."""

    hazy: Array
    clear: Array
    name: str
    turn: Turn


class Samples(Dataset[Sample]):
    """A set that knows its length. Training sets are drawn by Tokens, judged ones by number; reading may raise ImageError."""

    @abstractmethod
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Augment:
    """How a training sample is cut from a pair: both pictures alike.

    ``snap``: the crop lies at the top or bottom edge with probability snap * crop / height, at the left or right one with
    snap * crop / width (gUNet: 0.1); else anywhere. ``turns``: gunet (mirrored or not, turned by 0, 90, 180 or 270 degrees), mprnet
    (its nine cases, uniformly), flip (mirrored or not) or none. Raises UsageError for another word.
    """

    snap: float = 0.1
    turns: str = "gunet"

    def __post_init__(self) -> None:
        if self.turns not in _TURNS:
            raise UsageError(f"data.augment.turns={self.turns}: not known. {near_misses(self.turns, _TURNS)}")

    def window(self, height: int, width: int, crop: int, rng: np.random.Generator) -> tuple[int, int]:
        """Top and left of a crop, in a picture of at least its size."""
        return self._offset(height, crop, rng), self._offset(width, crop, rng)

    def _offset(self, side: int, crop: int, rng: np.random.Generator) -> int:
        if rng.random() < self.snap * crop / side:
            return int(rng.integers(2)) * (side - crop)
        return int(rng.integers(side - crop + 1))

    def draw(self, rng: np.random.Generator) -> Turn:
        """How a sample is turned, each case as likely as the others."""
        cases = _TURNS[self.turns]
        return cases[rng.integers(len(cases))]

    def turn(self, pictures: Sequence[Array], rng: np.random.Generator) -> list[Array]:
        """(H, W, ...) arrays, all turned the same way."""
        turn = self.draw(rng)
        return [turned(picture, turn) for picture in pictures]


def turned(picture: Array, turn: Turn) -> Array:
    """An (H, W, ...) array mirrored upside down or not, then left to right or not, then turned by quarters against the clock."""
    upside_down, mirrored, quarters = turn
    return np.rot90(picture[:: -1 if upside_down else 1, :: -1 if mirrored else 1], quarters)


class TrainingPairs(Samples):
    """Random crops of pairs, drawn by Tokens of an EpochSampler; nothing depends on which worker or rank reads them.

    Pictures smaller than the crop are reflected at their right and bottom edge. ``cache``: of a PairTable's pictures, instead of their
    files. ``raw``: samples are left as crops of bytes, (h, w, 3), and their Turn; collate_crops and finished, on the device, make of them
    what they would be otherwise, to the bit, and a quarter of the bytes travels. Reading raises ImageError naming the file.
    """

    def __init__(self, pairs: Sequence[Pair], crop_size: int, augment: Augment, seed: int, cache: Cache | None = None) -> None:
        self.pairs, self.crop_size, self.augment, self.seed, self.cache = pairs, crop_size, augment, seed, cache
        self.raw = False

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, token: Token) -> Sample:
        pair, crop = self.pairs[token.element], self.crop_size
        rng = generator(self.seed, "augment", token.epoch, token.position)
        hazy, clear = self._windows(pair, token.element)
        height, width = hazy.size
        border = border_of(pair, hazy.size, clear.size)
        top, left = self.augment.window(max(height, crop), max(width, crop), crop, rng)
        crops = hazy.cut(top, left, crop, crop), clear.cut(top + border, left + border, min(height, crop), min(width, crop))
        whole = [padded(picture, crop) for picture in crops]
        turn = self.augment.draw(rng)
        if self.raw:
            if self.cache is None:  # a copy lets go of the picture around it
                whole = [picture.copy() for picture in whole]
            return cast(Sample, RawSample(hazy=whole[0], clear=whole[1], name=pair.name, turn=turn))
        return {"hazy": as_tensor(turned(whole[0], turn)), "clear": as_tensor(turned(whole[1], turn)), "name": pair.name}

    def _windows(self, pair: Pair, element: int) -> tuple[Window, Window]:
        if self.cache is None:
            return FileWindow(pair.hazy), FileWindow(pair.clear)
        assert isinstance(self.pairs, PairTable)
        return self.cache.pair(self.pairs, element)


class JudgedPairs(Samples):
    """Pairs at full size, or their centre ``crop`` (less where the picture is smaller), by number.

    ``problems``, pictures without a partner, come after the pairs: reading one raises its ImageError, as a damaged file does.
    """

    def __init__(self, pairs: Sequence[Pair], crop: int | None = None, problems: Sequence[Problem] = ()) -> None:
        self.pairs, self.crop, self.problems = pairs, crop, problems

    def __len__(self) -> int:
        return len(self.pairs) + len(self.problems)

    def __getitem__(self, index: int) -> Sample:
        if index >= len(self.pairs):
            problem = self.problems[index - len(self.pairs)]
            raise ImageError(problem.file, problem.why, "Add the clear picture or move this one away.")
        hazy, clear = (centre(picture, self.crop) for picture in read_pair(self.pairs[index]))
        return {"hazy": as_tensor(hazy), "clear": as_tensor(clear), "name": self.pairs[index].name}


def read_pair(pair: Pair) -> tuple[Array, Array]:
    """Hazy and clear, (H, W, 3) RGB of one size, uint8 in 0..255 or float32 in [0, 1].

    RESIDE's 640x480 clear pictures lose 10 pixels at each edge, as its 620x460 hazy ones did. Raises ImageError for any other difference.
    """
    hazy, clear = read_rgb(pair.hazy), read_rgb(pair.clear)
    border = border_of(pair, hazy.shape[:2], clear.shape[:2])
    return hazy, clear[border : clear.shape[0] - border, border : clear.shape[1] - border]


def border_of(pair: Pair, hazy: Sequence[int], clear: Sequence[int]) -> int:
    """Pixels to cut off each edge of a clear picture, for these heights and widths. Raises ImageError where they do not fit."""
    if (tuple(hazy), tuple(clear)) == BORDER:
        return 10
    if tuple(hazy) != tuple(clear):
        sizes = " and ".join(f"{size[1]}x{size[0]}" for size in (hazy, clear))
        raise ImageError(pair.hazy, f"it and its clear picture {pair.clear} differ in size: {sizes}", "Both must show the same view.")
    return 0


def padded(picture: Array, size: int) -> Array:
    """Reflected at the right and bottom edge (the mirror repeated where it does not reach) until no side is shorter than ``size``."""
    down, right = max(0, size - picture.shape[0]), max(0, size - picture.shape[1])
    return np.pad(picture, ((0, down), (0, right), (0, 0)), mode="reflect") if down or right else picture


def centre(picture: Array, size: int | None) -> Array:
    """The middle of an (H, W, ...) array, at most ``size`` a side; all of it for None."""
    if size is None:
        return picture
    height, width = (min(size, side) for side in picture.shape[:2])
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]


def as_tensor(picture: Array) -> Tensor:
    """(H, W, 3), uint8 or float in [0, 1], as float32 (3, H, W) in [0, 1]."""
    channels = np.ascontiguousarray(picture.transpose(2, 0, 1))
    return torch.from_numpy(channels.astype(np.float32) / np.float32(255) if channels.dtype == np.uint8 else channels)


def collate_crops(samples: Sequence[Any]) -> dict[str, Any]:
    """RawSamples as a batch: ``crops`` (2, B, h, w, 3), all hazy ones, then all clear ones, bytes where all of them are; turns and names
    as lists. Each crop is copied once, in a worker into memory that the training process shares."""
    crops = [sample[key] for key in ("hazy", "clear") for sample in samples]
    kind = torch.uint8 if all(crop.dtype == np.uint8 for crop in crops) else torch.float32  # some of the files hold 16 bits
    batch = _room((2, len(samples), *crops[0].shape), kind)
    for place, crop in zip(batch.flatten(0, 1).numpy(), crops, strict=True):
        np.copyto(place, crop if crop.dtype == place.dtype else crop / np.float32(255))
    return {"crops": batch, **{key: [sample[key] for sample in samples] for key in ("name", "turn")}}


def _room(shape: Sequence[int], kind: torch.dtype) -> Tensor:
    """An empty tensor; in a worker as torch's default_collate has it: what lies in shared memory from the start is not copied there."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=kind)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * kind.itemsize)
    # torch's own types leave out that set_ takes a storage alone; share_memory_() would need none, and copies once more.
    return torch.empty(0, dtype=kind).set_(storage).view(shape)  # type: ignore[call-overload]


def finished(batch: dict[str, Any]) -> dict[str, Any]:
    """A raw batch, on any device, turned and as float32 (B, 3, h, w) in [0, 1]: equal to the bit to samples that are not raw."""
    crops: Tensor = batch["crops"]
    hazy, clear = (_finished_by_opencv if crops.device.type == "cpu" else _finished_by_torch)(crops, batch["turn"])
    return {"hazy": hazy, "clear": clear, "name": batch["name"]}


def _finished_by_opencv(crops: Tensor, turns: Sequence[Turn]) -> Tensor:
    """(2, B, 3, h, w). Picture by picture, each while it is in the processor's cache: a third of the time that torch takes."""
    pictures = torch.empty((*crops.shape[:2], 3, *crops.shape[2:4]))
    planes = torch.empty(pictures.shape[2:], dtype=crops.dtype)
    channels = list(planes.numpy())
    for crop, turn, picture in zip(crops.flatten(0, 1).numpy(), [*turns, *turns], pictures.flatten(0, 1), strict=True):
        upside_down, mirrored, quarters = turn
        if upside_down or mirrored:
            crop = cv2.flip(crop, _FLIPS[upside_down, mirrored])
        if quarters:
            crop = cv2.rotate(crop, _QUARTERS[quarters])
        cv2.split(crop, channels)
        picture.copy_(planes)
        if crops.dtype == torch.uint8:
            picture /= 255
    return pictures


def _finished_by_torch(crops: Tensor, turns: Sequence[Turn]) -> Tensor:
    """The same by as few kernels as there are ways to turn, however large the batch."""
    chosen = crops.permute(0, 1, 4, 2, 3)
    pictures = torch.empty(chosen.shape, dtype=crops.dtype, device=crops.device)
    for turn in {*turns}:
        which = torch.tensor([number for number, other in enumerate(turns) if other == turn], device=crops.device)
        upside_down, mirrored, quarters = turn
        axes = [axis for axis, wanted in ((3, upside_down), (4, mirrored)) if wanted]
        pictures[:, which] = torch.rot90(chosen[:, which].flip(axes), quarters, (3, 4))
    # Bytes divided by 255 as numpy divides them: by a plain number CUDA would multiply with 1/255, which rounds otherwise.
    return pictures if crops.dtype != torch.uint8 else pictures / torch.full((), 255.0, device=crops.device)
