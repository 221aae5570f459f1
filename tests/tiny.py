"""Trainings of seconds: a narrow gUNet on a few small synthetic pairs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from dehaze_zoo.cli import compose
from dehaze_zoo.outcome import Outcome

TINY = [
    "trainer=cpu",
    "trainer.max_epochs=2",
    "data.samples_per_epoch=8",
    "data.batch_size=4",
    "data.crop_size=32",
    "data.frame=32",
    "data.picture_size=[32,40]",
    "data.val_pairs=3",
    "data.num_workers=0",
]
NARROW = ["+model.network.width=8", "+model.network.depth=1"]
"""Of gunet_t, the default model."""


def overrides_of(*overrides: str) -> list[str]:
    """TINY with ``overrides``, which win; another model than the default is taken as it is."""
    narrow = [] if any(text.startswith("model=") for text in overrides) else NARROW
    return list({text.partition("=")[0]: text for text in [*TINY, *narrow, *overrides]}.values())


def config(run_dir: Path, *overrides: str) -> Any:
    """The training's config as the verb composes it; later overrides win."""
    return compose("train", [*overrides_of(*overrides), f"run_dir='{run_dir}'"])


def train(run_dir: Path, *overrides: str) -> Outcome:
    """Trains in ``run_dir`` as the verb would."""
    from dehaze_zoo.training.build import train as run

    torch.set_num_threads(1)  # as little as these networks are, and for sums in one order
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        return run(config(run_dir, *overrides), run_dir)
    finally:
        os.environ.pop("DEHAZE_ZOO_RUN_DIR", None)


def module(*overrides: str) -> Any:
    """The LightningModule of a config, seeded as a training's is."""
    from dehaze_zoo.training.build import build_module

    cfg = config(Path("unused"), *overrides)
    torch.manual_seed(cfg.seed)
    return build_module(cfg)


def trainer(run_dir: Path, *overrides: str) -> Any:
    """Lightning's Trainer of a config."""
    from dehaze_zoo.training.build import build_trainer
    from dehaze_zoo.training.placement import place

    cfg = config(run_dir, *overrides)
    return build_trainer(cfg, run_dir, place(cfg.trainer))


def state(run_dir: Path, which: str = "last") -> dict[str, torch.Tensor]:
    """The state dict of a checkpoint, read as data only."""
    loaded: dict[str, torch.Tensor] = torch.load(run_dir / "checkpoints" / f"{which}.ckpt", weights_only=True)["state_dict"]
    return loaded


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts agree to the bit."""
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)
