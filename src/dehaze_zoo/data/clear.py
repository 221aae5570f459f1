"""Clear pictures alone, for trainings that reconstruct: each is its own hazy partner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dehaze_zoo.data.images import read_rgb
from dehaze_zoo.data.pairs import Augment, Sample, Samples, as_tensor, centre, padded
from dehaze_zoo.data.samplers import Token, generator


class ClearTraining(Samples):
    """Random crops, drawn by Tokens; smaller pictures are reflected at their right and bottom edge. Reading raises ImageError."""

    def __init__(self, files: Sequence[Path], crop_size: int, augment: Augment, seed: int) -> None:
        self.files, self.crop_size, self.augment, self.seed = files, crop_size, augment, seed

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, token: Token) -> Sample:
        path, crop = self.files[token.element], self.crop_size
        rng = generator(self.seed, "train clear", token.epoch, token.position)
        picture = padded(read_rgb(path), crop)
        top, left = self.augment.window(picture.shape[0], picture.shape[1], crop, rng)
        clear = as_tensor(self.augment.turn([picture[top : top + crop, left : left + crop]], rng)[0])
        return {"hazy": clear, "clear": clear, "name": path.name}


class ClearPictures(Samples):
    """Whole pictures or their centre, by number. Reading raises ImageError."""

    def __init__(self, files: Sequence[Path], crop: int | None = None) -> None:
        self.files, self.crop = files, crop

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        clear = as_tensor(centre(read_rgb(self.files[index]), self.crop))
        return {"hazy": clear, "clear": clear, "name": self.files[index].name}
