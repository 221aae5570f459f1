"""The memory that RIDCP takes for a whole picture: its tiles would be another picture, so that large ones must fit.

    python benchmarks/ridcp_whole.py [--model ridcp] [--side 1500] [--limit 8]

Restores one made picture in a process of its own, on the CPU, and prints the most memory that the process held (ru_maxrss; the network
and torch itself included). Exits with 1 above ``--limit`` GB.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import torch

from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.inference.restore import restore
from measure import stamp


def restore_one(model: str, side: int) -> None:
    """Prints this process's peak in KiB and the seconds that the restoring took."""
    torch.manual_seed(0)
    network, hazy = create_model(model), torch.rand(1, 3, side, side)
    start = time.perf_counter()
    restore(network, hazy)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description="RIDCP's memory for a whole picture")
    parser.add_argument("--model", default="ridcp")
    parser.add_argument("--side", type=int, default=1500)
    parser.add_argument("--limit", type=float, default=8.0)
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)  # the process that is measured
    args = parser.parse_args()
    if args.within:
        restore_one(args.model, args.side)
        return 0
    own = [sys.executable, __file__, "--within", f"--model={args.model}", f"--side={args.side}"]
    peak, seconds = subprocess.run(own, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    held = int(peak) * 1024 / 1e9
    print(f"{stamp(torch.device('cpu'), torch.float32)}; {args.model}, {args.side} x {args.side} whole")
    print(f"peak {held:.2f} GB (bar: {args.limit:g}), {float(seconds):.1f} s")
    return int(held > args.limit)


if __name__ == "__main__":
    sys.exit(main())
