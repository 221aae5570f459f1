"""The benchmark on a few small generated pairs, in this process."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

import data_minis
from dehaze_zoo.benchmark.__main__ import composed_words
from dehaze_zoo.benchmark.compare import benchmark
from dehaze_zoo.cli import compose


def pairs(root: Path, scenes: int = 6, hazes: int = 2, size: tuple[int, int] = (48, 64)) -> Path:
    """SOTS indoor's layout with ``hazes`` pictures of each scene."""
    names = [(f"{1400 + scene}_{k}.png", f"{1400 + scene}.png") for scene in range(scenes) for k in range(1, hazes + 1)]
    data_minis.folders(root / "hazy", root / "gt", names, size)
    return root


def config(*words: str) -> Any:
    """The verb's config; costs are measured only where a word is about them."""
    cheap = [] if any(word.startswith("cost.") for word in words) else ["cost=null"]
    return compose("benchmark", composed_words(["trainer=cpu", *cheap, *words]))


def run(run_dir: Path, *words: str) -> tuple[int, list[dict[str, str]]]:
    """Exit code and the leaderboard's rows. The store lies beside the run, so that runs of one test share it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    outcome = benchmark(config(f"run_dir='{run_dir}'", f"store='{run_dir.parent / 'store'}'", *words), run_dir)
    with open(run_dir / "leaderboard.csv", newline="", encoding="utf-8") as file:
        return outcome.code, list(csv.DictReader(file))
