"""Synthetic pairs made a second, against what gunet_t's training consumes on the same machine in the same run.

    python benchmarks/synthetic.py            # 256x256, batch 4: about 2 minutes on 2 cores
    python benchmarks/synthetic.py --quick    # a few small ones, to see that it runs

One process on one thread makes pairs (a loader has num_workers of them); training has all threads. Making and training take turns, so
that what else runs on the machine weighs on both. The claim is a ratio of at least 5.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch

from dehaze_zoo.data.haze import Haze
from dehaze_zoo.data.samplers import Token
from dehaze_zoo.data.synthetic import Framing, SceneTraining
from dehaze_zoo.networks.registry import build_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few, small samples")
    parser.add_argument("--size", type=int, default=256, help="pixels, height and width (256)")
    parser.add_argument("--batch", type=int, default=4, help="samples a training step (4)")
    parser.add_argument("--rounds", type=int, default=8, help="training steps, with 8 pairs made after each (8)")
    given = parser.parse_args()
    size, batch, rounds, each = (48, 2, 2, 2) if given.quick else (given.size, given.batch, given.rounds, 8)

    cv2.setNumThreads(1)
    pairs = SceneTraining(1, {0: Framing(size, size, 480)}, Haze(), 0.25, seed=0)
    step = training_step(size, batch)
    step()
    pairs[Token(0, 0, 0)]
    steps, makings = [], []
    for position in range(rounds):
        steps.append(seconds(step))
        for k in range(each):
            token = Token(1, position * each + k, 0)
            makings.append(seconds(lambda token=token: pairs[token]))  # type: ignore[misc]
    made, used = [1 / s for s in makings], [batch / s for s in steps]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {size}x{size} pixels, float32")
    print(f"pairs: numpy {np.__version__}, OpenCV {cv2.__version__}, 1 thread, 1 process")
    print(f"training: gunet_t, batch {batch}, AdamW, CPU, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"pairs made a second, one process:   {spread(made)}   ({len(made)} pairs)")
    print(f"pairs trained a second, gunet_t:    {spread(used)}   ({len(used)} steps)")
    print(f"ratio of the medians:               {np.median(made) / np.median(used):.1f}")


def training_step(size: int, batch: int) -> Callable[[], object]:
    network = build_model("gunet_t").train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    hazy, clear = torch.rand(2, batch, 3, size, size)

    def step() -> None:
        optimizer.zero_grad()
        (network(hazy) - clear).abs().mean().backward()
        optimizer.step()

    return step


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(values: list[float]) -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"median {middle:.2f} (IQR {low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
