"""Kills a short training at random moments (KILLS=50), each time going on with resume=auto; its weights must end as the undisturbed run's.

    python benchmarks/fault_drill.py            # half an hour on two cores
    KILLS=5 python benchmarks/fault_drill.py

A kill hits anywhere: while modules are imported, data is drawn, checkpoints are written. KILLS are SIGKILLs that hit a living
process; every third signal is a SIGTERM, in addition.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

RECIPE = [
    *("model=gunet_t", "+model.network.width=8", "trainer=cpu", "trainer.max_epochs=4", "callbacks.checkpoints.every_steps=5", "seed=7"),
    *("data.samples_per_epoch=64", "data.batch_size=4", "data.crop_size=48", "data.frame=48", "data.num_workers=1"),
    *("data.picture_size=[48,64]", "data.val_pairs=4"),
]


def start(run_dir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dehaze_zoo.train", *RECIPE, f"run_dir={run_dir}", "resume=auto"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


def main(kills: int) -> int:
    """Exit code 0 where no tensor differs."""
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        began = time.monotonic()
        if start(whole).wait():
            return 1
        length = time.monotonic() - began
        chance = random.Random(0)
        hits = {signal.SIGKILL: 0, signal.SIGTERM: 0}
        finished = 0
        # A new run whenever one got through, so that every kill finds something to hit.
        while hits[signal.SIGKILL] < kills:
            process = start(killed)
            number = signal.SIGTERM if sum(hits.values()) % 3 == 2 else signal.SIGKILL
            sent = False
            try:
                process.wait(length * chance.uniform(0.1, 0.6))
            except subprocess.TimeoutExpired:
                process.send_signal(number)
                sent = True
            code = process.wait()
            hits[number] += sent and (number == signal.SIGTERM or code == -signal.SIGKILL)  # it may have ended before the signal came
            if code and not sent:
                print(f"exit code {code} without a signal")
                return 1
            if code == 0:
                finished += 1
                if not same(whole, killed):
                    print(f"after {hits[signal.SIGKILL]} kills: a finished run's weights differ")
                    return 1
                killed = Path(folder, f"killed{finished}")
        if start(killed).wait():
            return 1
        agree = same(whole, killed)
        said = ", ".join(f"{count} {number.name}" for number, count in hits.items())
        print(f"{said}; {finished + 1} runs came to their end; weights {'equal' if agree else 'DIFFER'}")
        return int(not agree)


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


if __name__ == "__main__":
    sys.exit(main(int(os.environ.get("KILLS", "50"))))
