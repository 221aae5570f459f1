"""Deploy forms against the plain networks, and predict's own cost, in one run.

    python benchmarks/deploy.py [--models gunet_t gunet_b mprnet_40 ktdn ridcp] [--sides 512 1024] [--rounds 5] [--forms fold compile bf16]

``eager`` is the network as PyTorch runs it when nothing is chosen: float32, contiguous, no compilation; ``plain`` is ours
(optimize=none: channels_last inside where that pays). Ratios are eager / form, round by round. The largest difference from plain is
beside them, and the seconds until a form first answered. ``--folder N`` instead times predict on N made photos of 12 megapixels: the
share in the network (bar: 85 %) and the peak of memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.cli import compose
from dehaze_zoo.inference.deploy import InBf16, compiled, fold
from dehaze_zoo.inference.predict import predict
from dehaze_zoo.networks.ridcp import RIDCP
from measure import Work, ratio, seconds, spread, stamp

BARS = {"gunet_t": 2.2, "gunet_b": 2.7, "mprnet_40": 1.25, "ktdn": 1.25, "ridcp": 1.5}
MAKERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "fold": fold,
    "compile": lambda network: compiled(fold(network)),
    "bf16": lambda network: InBf16(fold(network)),
}


class Contiguous(nn.Module):
    """A network whose own choice of channels_last is not followed."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, hazy: Tensor) -> Tensor:
        plain = Tensor.contiguous
        with mock.patch.object(Tensor, "contiguous", lambda self, memory_format=None: plain(self)):
            return self.network(hazy)  # type: ignore[no-any-return]


@torch.no_grad()
def compare(name: str, side: int, forms: list[str], rounds: int) -> bool:
    """Prints a line a form; whether the best of the exact ones meets the network's bar."""
    torch.manual_seed(0)
    network = create_model(name)
    if isinstance(network, RIDCP):
        network.residual_conv.weight.mul_(0.02)  # untrained, its pictures reach from -30 to 30: differences are to be those of pictures
    hazy = torch.rand(1, 3, side, side)
    made: dict[str, nn.Module] = {"eager": Contiguous(network), "plain": network}
    for form in forms:
        made[form] = MAKERS[form](network)
    work: dict[str, Work] = {form: partial(net, hazy) for form, net in made.items()}
    warm, pictures = {}, {}
    for form, net in made.items():
        start = time.perf_counter()
        pictures[form] = net(hazy).clamp(0, 1)
        warm[form] = time.perf_counter() - start
    taken = seconds(work, rounds, hazy.device)
    best = 0.0
    for form in made:
        apart = float((pictures[form] - pictures["plain"]).abs().max())
        middle = float(np.median([a / b for a, b in zip(taken["eager"], taken[form], strict=True)]))
        best = max(best, middle if apart <= 1e-4 else 0)
        figures = f"{spread(taken[form])} ms, eager / it {ratio(taken['eager'], taken[form])}"
        print(f"{name:10} {side:5} {form:8} {figures}, differs by {apart:.1e}, first answer {warm[form]:.1f} s", flush=True)
    bar = BARS.get(name, 1.0)
    print(f"{name:10} {side:5} best of the equal forms {best:.2f}, bar {bar}: {'met' if best >= bar else 'MISSED'}", flush=True)
    return best >= bar


def folder(name: str, count: int) -> bool:
    """predict on made photos of 4000 x 3000: the network's share of the time, and the peak of memory."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "in").mkdir()
        ramp = np.linspace(90, 220, 4000)[None, :, None] + np.random.default_rng(0).normal(0, 8, (3000, 4000, 3))
        for i in range(count):
            Image.fromarray(np.uint8(np.clip(ramp - i, 0, 255))).save(Path(place, "in", f"{i}.jpg"), quality=92)
        weights = Path(place, "weights.safetensors")
        from dehaze_zoo.checkpoints.writing import write_safetensors

        write_safetensors(create_model(name), weights, name)
        cfg = compose("predict", [f"model={name}"])
        cfg.input, cfg.output, cfg.checkpoint = str(Path(place, "in")), str(Path(place, "out")), str(weights)
        code = predict(cfg, Path(place, "run")).code
        report = json.loads(Path(place, "out", "report.json").read_text())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name}: {count} photos of 12 MP in {report['seconds']:.1f} s, {report['in_network']:.0%} in the network, peak {peak:.2f} GB")
    return code == 0 and report["in_network"] >= 0.85


def main() -> int:
    parser = argparse.ArgumentParser(description="Deploy forms against plain networks; predict's own cost")
    parser.add_argument("--models", nargs="+", default=list(BARS))
    parser.add_argument("--sides", nargs="+", type=int, default=[512, 1024])
    parser.add_argument("--forms", nargs="+", default=list(MAKERS), choices=list(MAKERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(stamp(torch.device("cpu"), torch.float32))
    if args.folder:
        return int(not folder(args.models[0], args.folder))
    met = [compare(name, side, args.forms, args.rounds) for name in args.models for side in args.sides]
    return int(not all(met))


if __name__ == "__main__":
    sys.exit(main())
