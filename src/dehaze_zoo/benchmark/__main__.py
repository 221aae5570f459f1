"""python -m dehaze_zoo.benchmark: networks side by side (models=[dcp,gunet_t] data=[synthetic,reside_indoor] checkpoints.gunet_t=FILE)."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dehaze_zoo.cli import Outcome, launch

if TYPE_CHECKING:
    from omegaconf import DictConfig

_SET = "+data@sets."
_PHOTOS = "photo_sets="  # a key of our own: cli.py takes photos=DIR for a path


def job(cfg: DictConfig, run_dir: Path) -> Outcome:
    """Compares; see benchmark/compare.py."""
    from dehaze_zoo.benchmark.compare import benchmark

    return benchmark(cfg, run_dir)


def composed_words(words: list[str]) -> list[str]:
    """``data=[a,b]`` as Hydra composes several options of one group side by side: each into a package of its own, sets.a and sets.b.

    Without it, synthetic. ``photos:LABEL`` is a set without a yaml.
    """
    if any(word.startswith((_SET, _PHOTOS)) or word in ("-h", "--help") for word in words):  # composed by the process that started this one
        return words
    given = [word for word in words if word.startswith("data=")]
    rest = [word for word in words if not word.startswith("data=")]
    listed = given[-1].removeprefix("data=") if given else "synthetic"
    names = [name.strip(" '\"") for name in re.sub(r"^\[|\]$", "", listed.strip()).split(",") if name.strip()]
    photos = [name.removeprefix("photos:") for name in names if name.startswith("photos:")]
    sets = dict.fromkeys(name for name in names if not name.startswith("photos:"))
    return [*(f"{_SET}{name}={name}" for name in sets), *([f"{_PHOTOS}[{','.join(photos)}]"] if photos else []), *rest]


if __name__ == "__main__":
    sys.argv[1:] = composed_words(sys.argv[1:])
    launch("benchmark", job)
