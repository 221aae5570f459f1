"""A training step: ours as configured and compiled against the plain eager one, their loss curves, and what the loop around it costs.

    python benchmarks/train_step.py [--model gunet_t] [--rounds 15] [--threads N] [--device cpu] [--settings compile=true]

Batches of 4 crops of 128 x 128 pixels. The plain step is the network, its loss and torch's AdamW as they come. Prints the time to the
first step too: compiling pays after so many steps. Exits with 1 where the loss of 50 steps differs by more than 1e-3 of itself, or the
loop takes more than 3 % of a step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from dehaze_zoo.cli import compose
from dehaze_zoo.training.build import build_module, build_trainer
from dehaze_zoo.training.module import DehazingModule
from dehaze_zoo.training.placement import place
from measure import Work, ratio, seconds, spread, stamp

PLAIN = ["model.optimizer.fused=null", "model.channels_last=false", "compile=false"]


def batches(count: int, device: torch.device) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(1)
    made = []
    for i in range(count):
        clear = torch.nn.functional.interpolate(torch.rand(4, 3, 16, 16, generator=draw), size=128, mode="bicubic").clamp(0, 1)
        light = 0.5 + 0.5 * torch.rand(4, 1, 1, 1, generator=draw)
        made.append({"hazy": (0.6 * clear + 0.4 * light).to(device), "clear": clear.to(device), "name": [str(i)] * 4})
    return made


class Stepper:
    """A module and its optimiser, stepped by hand."""

    def __init__(self, model: str, settings: list[str], device: torch.device) -> None:
        torch.manual_seed(0)
        self.cfg = compose("train", [f"model={model}", f"trainer={'gpu' if device.type == 'cuda' else 'cpu'}", *with_plain(settings)])
        self.module: DehazingModule = build_module(self.cfg).to(device)
        self.module.network.to(memory_format=self.module.layout)  # type: ignore[call-overload]
        (self.optimizer,) = self.module.configure_optimizers()
        self.module.train()

    def step(self, batch: dict[str, Any]) -> Tensor:
        loss = torch.stack(list(self.module.losses_of(batch).values())).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def with_plain(settings: list[str]) -> list[str]:
    """The plain step's settings with others, which win."""
    return list({text.partition("=")[0]: text for text in [*PLAIN, *settings]}.values())


class Clock(Callback):
    """When each batch was done."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())


def loop_steps(stepper: Stepper, data: list[dict[str, Any]]) -> list[float]:
    """Seconds from batch to batch in an epoch of Lightning's loop with our callbacks and loggers."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(stepper.cfg, Path(folder), place(stepper.cfg.trainer))
        trainer.callbacks.insert(0, clock)  # type: ignore[attr-defined]
        trainer.fit_loop.max_epochs, trainer.limit_val_batches = 1, 0
        trainer.fit(stepper.module, train_dataloaders=DataLoader(data, batch_size=None))  # type: ignore[arg-type]
    return [b - a for a, b in zip(clock.ends[2:], clock.ends[3:], strict=False)]


def main() -> int:
    parser = argparse.ArgumentParser(description="A training step against the plain eager one")
    parser.add_argument("--model", default="gunet_t")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--curve", type=int, default=50)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--settings", nargs="*", default=["compile=true", "model.optimizer.fused=true"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = batches(args.curve, args.device)
    steppers = {"plain": Stepper(args.model, [], args.device), "ours": Stepper(args.model, args.settings, args.device)}
    start = time.perf_counter()
    steppers["ours"].step(data[0])
    first = time.perf_counter() - start
    steppers["plain"].step(data[0])
    curves = {name: [float(stepper.step(batch)) for batch in data] for name, stepper in steppers.items()}
    apart = max(abs(a - b) / abs(a) for a, b in zip(curves["plain"], curves["ours"], strict=True))
    turns: dict[str, Work] = {name: partial(stepper.step, data[0]) for name, stepper in steppers.items()}
    taken = seconds(turns, args.rounds, args.device)
    print(f"{args.model}, {' '.join(args.settings)}; {stamp(args.device, torch.float32)}; batch 4 x 128 x 128")
    for name, times in taken.items():
        print(f"{name:5}  {spread(times, digits=1)} ms  {4 / statistics.median(times):.1f} images/s")
    saved = statistics.median(taken["plain"]) - statistics.median(taken["ours"])
    pays = f"pays after {(first - statistics.median(taken['plain'])) / saved:.0f} steps" if saved > 0 else "never pays"
    print(f"plain / ours {ratio(taken['plain'], taken['ours'])}; the first step takes {first:.0f} s and {pays}")
    print(f"loss over {args.curve} steps: {curves['plain'][0]:.4f} to {curves['plain'][-1]:.4f}, largest difference {apart:.1e} of itself")
    looped = loop_steps(steppers["plain"], (data * 2)[: args.rounds + 3])
    alone = seconds({"alone": turns["plain"]}, args.rounds, args.device)["alone"]
    cost = statistics.median(looped) / statistics.median([*taken["plain"], *alone]) - 1
    print(f"loop: {spread(looped, digits=1)} ms from batch to batch, {cost:+.1%} of the step alone")
    return int(apart > 1e-3 or cost > 0.03)


if __name__ == "__main__":
    sys.exit(main())
