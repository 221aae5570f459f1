"""RIDCP's quantiser against the plain formulation (all distances, one-hot matrix), as ratios of one run.

    python benchmarks/ridcp_quantiser.py [--side 1024] [--repeats 7]

Time: both in turn in this process, medians and quartiles. Memory: what each adds to the peak of a process of its own. Exits with 1
where ours takes more than half the memory or longer than the plain one.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from dehaze_zoo.networks.blocks.quantiser import VectorQuantiser


def plain(quantiser: VectorQuantiser, features: Tensor) -> tuple[Tensor, Tensor]:
    """The formulation of the papers' programs: distances of all features to all codes, one-hot rows times the codebook."""
    b, c, h, w = features.shape
    book = quantiser.embedding.weight
    flat = features.permute(0, 2, 3, 1).reshape(-1, c)
    distance = flat.square().sum(1, keepdim=True) + book.square().sum(1) - 2 * flat @ book.t()
    codes = distance.argmin(1)
    vectors = (F.one_hot(codes, len(book)).to(book) @ book).view(b, h, w, c).permute(0, 3, 1, 2).contiguous()
    return features + (vectors - features).detach(), codes.view(b, h, w)


def ours(quantiser: VectorQuantiser, features: Tensor) -> tuple[Tensor, Tensor]:
    vectors, codes = quantiser(features)
    return vectors, codes


FORMS = {"plain": plain, "ours": ours}


def setting(side: int) -> tuple[VectorQuantiser, Tensor]:
    """The published codebook's size, and the features of a side x side image, which RIDCP extends to 32 (side // 32 + 1)."""
    torch.manual_seed(0)
    grid = (side // 32 + 1) * 8
    return VectorQuantiser(1024, 512), torch.randn(1, 512, grid, grid)


def peak_megabytes() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)


@torch.no_grad()
def memory(form: str, side: int) -> float:
    quantiser, features = setting(side)
    FORMS[form](quantiser, features[..., :4, :4])  # the libraries' own work space
    before = peak_megabytes()
    FORMS[form](quantiser, features)
    return peak_megabytes() - before


@torch.no_grad()
def times(side: int, repeats: int) -> dict[str, list[float]]:
    quantiser, features = setting(side)
    found: dict[str, list[float]] = {form: [] for form in FORMS}
    for turn in range(repeats + 1):
        for form, run in FORMS.items():
            start = time.perf_counter()
            run(quantiser, features)
            if turn:  # the first is warm-up
                found[form].append(time.perf_counter() - start)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--side", type=int, default=1024, help="of the input image, in pixels")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", choices=FORMS, help="print this form's peak in MiB and stop (used by this program itself)")
    args = parser.parse_args()
    if args.memory:
        print(memory(args.memory, args.side))
        return 0
    command = [sys.executable, __file__, "--side", str(args.side), "--memory"]
    megabytes = {form: float(subprocess.run([*command, form], check=True, capture_output=True, text=True).stdout) for form in FORMS}
    seconds = times(args.side, args.repeats)
    print(
        f"{args.side} x {args.side}, torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, n = {args.repeats}"
    )
    for form in FORMS:
        low, median, high = statistics.quantiles(seconds[form], n=4)
        print(f"{form:5}  {median:6.3f} s ({low:.3f} to {high:.3f})  {megabytes[form]:7.0f} MiB")
    time_ratio = statistics.median(seconds["ours"]) / statistics.median(seconds["plain"])
    memory_ratio = megabytes["ours"] / megabytes["plain"]
    print(f"ours / plain: time {time_ratio:.2f}, memory {memory_ratio:.2f}")
    return int(memory_ratio > 0.5 or time_ratio > 1)


if __name__ == "__main__":
    sys.exit(main())
