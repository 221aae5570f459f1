"""KTDN's student step with its teacher against one without, beside the teacher's own forward: the teacher should cost that and no more.

    python benchmarks/ktdn.py [--size 128] [--batch 2] [--rounds 7] [--threads N] [--device cpu]

Both steps have the same student, batch and losses, knowledge transfer aside. Times are medians [quartiles] in ms. Memory: the most that
tensors hold during a step; the teacher's forward comes first and leaves its feature alone, so the peak of the step should not rise.
Exits with 1 where the teacher adds more than a quarter over its own forward (what the transfer's own loss and noise leave room for), the
peak rises by more than 5 %, or a gradient of the teacher is kept.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dehaze_zoo.checkpoints.writing import write_safetensors
from dehaze_zoo.cli import compose
from dehaze_zoo.networks.registry import build_model
from dehaze_zoo.training.build import build_module
from dehaze_zoo.training.ktdn import StudentModule
from measure import Work, peak_bytes, seconds, spread, stamp


def student(settings: list[str], device: torch.device) -> StudentModule:
    torch.manual_seed(0)
    module = build_module(compose("train", ["model=ktdn", "trainer=cpu", *settings])).to(device)
    assert isinstance(module, StudentModule)
    for teacher in module._teacher:
        teacher.to(device)
    return module.train()


def step(module: StudentModule, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> None:
    loss = torch.stack(list(module.losses_of(batch).values())).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "teacher.safetensors")
        write_safetensors(build_model("ktdn"), file, "ktdn")
        taught = student([f"teacher={file}"], args.device)
    alone = student(["loss=[l1,laplacian]"], args.device)
    clear = torch.rand(args.batch, 3, args.size, args.size, device=args.device)
    batch = {"hazy": 0.6 * clear + 0.4, "clear": clear}
    (teacher,) = taught._teacher

    def forward() -> None:
        with torch.no_grad():
            teacher.features(clear)  # type: ignore[operator]

    works: dict[str, Work] = {"teacher's forward": forward}
    for name, module in (("step without", alone), ("step with", taught)):
        works[name] = partial(step, module, torch.optim.Adam(module.parameters(), lr=0.0), batch)
    taken = seconds(works, args.rounds, args.device)
    peaks = {name: peak_bytes(work, args.device) for name, work in works.items()}
    print(f"ktdn, {args.batch} x 3 x {args.size} x {args.size}, {stamp(args.device, clear.dtype)}, {args.rounds} rounds")
    for name, times in taken.items():
        print(f"{name:18} {spread(times)} ms, tensors {peaks[name] / 2**20:.0f} MiB")
    added = [with_ - without for with_, without in zip(taken["step with"], taken["step without"], strict=True)]
    share = statistics.median(added) / statistics.median(taken["teacher's forward"])
    rise = peaks["step with"] / peaks["step without"] - 1
    kept = sum(parameter.grad is not None for parameter in teacher.parameters())
    print(f"the teacher adds {spread(added)} ms, {share:.2f} of its own forward; peak {rise:+.1%}; {kept} gradients of it kept")
    return int(share > 1.25 or rise > 0.05 or kept > 0)


if __name__ == "__main__":
    sys.exit(main())
