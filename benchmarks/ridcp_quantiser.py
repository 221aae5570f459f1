"""RIDCP's quantiser against the plain formulation: the whole matrix of distances, one-hot rows times the codebook.

    python benchmarks/ridcp_quantiser.py [--side 1024] [--rounds 9] [--threads N] [--device cpu]

``--side`` is of the input image in pixels; the codebook has the published 1024 x 512. Their codes are compared first. Exits with 1
where ours takes more than half the memory, or longer.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial

import torch
from torch import Tensor

from dehaze_zoo.networks.blocks.quantiser import VectorQuantiser
from measure import Work, peak_bytes, ratio, seconds, spread, stamp


def plain(quantiser: VectorQuantiser, features: Tensor) -> tuple[Tensor, Tensor]:
    b, c, h, w = features.shape
    book = quantiser.embedding.weight
    flat = features.permute(0, 2, 3, 1).reshape(-1, c)
    distance = flat.square().sum(1, keepdim=True) + book.square().sum(1) - 2 * (flat @ book.t())
    codes = distance.argmin(1, keepdim=True)
    one_hot = torch.zeros(len(flat), len(book), device=flat.device).scatter_(1, codes, 1)
    vectors = (one_hot @ book).view(b, h, w, c).permute(0, 3, 1, 2).contiguous()
    return features + (vectors - features).detach(), codes.view(b, h, w)


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description="RIDCP's quantiser: time and memory against the plain formulation")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    grid = (args.side // 32 + 1) * 8  # RIDCP extends the image, then halves it twice
    quantiser = VectorQuantiser(1024, 512).to(args.device)
    torch.nn.init.normal_(quantiser.embedding.weight)  # apart as a trained one, so that rounding decides nothing
    features = torch.randn(1, 512, grid, grid, device=args.device)
    forms: dict[str, Work] = {"plain": partial(plain, quantiser, features), "ours": partial(quantiser, features)}
    same = (plain(quantiser, features)[1] == quantiser(features)[1]).double().mean()
    taken = seconds(forms, args.rounds, args.device)
    peak = {name: peak_bytes(work, args.device) for name, work in forms.items()}
    print(f"{stamp(args.device, features.dtype)}; image {args.side} x {args.side}, features {grid} x {grid}, {same:.4%} of the codes equal")
    for name in forms:
        print(f"{name:5}  {spread(taken[name])} ms  {peak[name] / 2**20:.0f} MiB")
    print(f"plain / ours: time {ratio(taken['plain'], taken['ours'])}, memory {peak['plain'] / peak['ours']:.2f}")
    return int(peak["ours"] > 0.5 * peak["plain"] or statistics.median(taken["ours"]) > statistics.median(taken["plain"]))


if __name__ == "__main__":
    sys.exit(main())
