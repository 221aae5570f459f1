"""How much of the benchmark's wall time is the network's forward: reading, decoding, judging and storing should hide behind it.

    python benchmarks/benchmark_share.py [--images 100] [--height 460] [--width 620] [--threads N] [--device cpu] [--bar 0.7]

gunet_t with fresh weights over generated pairs in files (PNG, ten hazes a scene), after start-up, with PSNR and SSIM of protocol gunet;
then with every metric whose parameters are there, for information. Exits with 1 where the first share is below ``--bar``, or where the
memory that the process holds grows by more than 200 MiB from a third of the images to all of them.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import dehaze_zoo
from dehaze_zoo.benchmark.pictures import Album
from dehaze_zoo.benchmark.runner import Report, run_job
from dehaze_zoo.benchmark.scoring import Judge
from dehaze_zoo.benchmark.store import Store
from dehaze_zoo.benchmark.subjects import Member, Network, judged_set
from dehaze_zoo.checkpoints.writing import write_safetensors
from dehaze_zoo.data.haze import Haze
from dehaze_zoo.data.layouts import find_pairs
from dehaze_zoo.data.pairs import JudgedPairs
from dehaze_zoo.data.synthetic import ScenePairs
from dehaze_zoo.errors import UsageError
from dehaze_zoo.metrics.catalogue import METRICS, Metric, choose_metrics, load_metric
from dehaze_zoo.metrics.protocols import PROTOCOLS
from measure import stamp

HAZES = 10


def main() -> int:
    parser = argparse.ArgumentParser(description="the forward's share of the benchmark's wall time")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--height", type=int, default=460)
    parser.add_argument("--width", type=int, default=620)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--bar", type=float, default=0.7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{stamp(args.device, torch.float32)}; {args.images} pairs of {args.width}x{args.height}, gunet_t")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_pairs(folder / "sots", args.images, args.height, args.width)
        write_safetensors(dehaze_zoo.create_model("gunet_t"), folder / "gunet_t.safetensors", "gunet_t")
        network = Network("gunet_t", Member(None, folder / "gunet_t.safetensors"), str(args.device))
        network(torch.zeros(1, 3, args.height, args.width), "warm")
        shares: dict[str, float] = {}
        peaks: list[float] = []
        for name, metrics in (("psnr, ssim", choose_metrics(["psnr", "ssim"])), ("all metrics", available())):
            report = measure(network, folder / "sots", metrics, folder / f"store {len(shares)}", args.images, peaks)
            shares[name] = report.forward / report.wall
            said = f"forward {shares[name]:.1%} of {report.wall:.1f} s, {report.wall / report.judged * 1e3:.0f} ms an image"
            print(f"{name} ({' '.join(metric.name for metric in metrics)}): {said}, {len(report.failed)} failed")
    grown = peaks[1] - peaks[0]
    print(f"most memory held: {peaks[0]:.0f} MiB after a third of the images, {peaks[1]:.0f} MiB after all")
    return int(shares["psnr, ssim"] < args.bar or grown > 200)


def write_pairs(root: Path, count: int, height: int, width: int) -> None:
    """SOTS indoor's layout and names over our synthetic scenes."""
    for kind in ("hazy", "gt"):
        (root / kind).mkdir(parents=True)
    haze, rng = Haze(), np.random.default_rng(0)
    scenes = ScenePairs("test", -(-count // HAZES), height, width, haze, 0.25)
    for number in range(len(scenes)):
        clear = scenes[number]["clear"].permute(1, 2, 0).numpy()
        save(root / "gt" / f"{1400 + number}.png", clear)
        depth = np.tile(np.linspace(1, 0.1, height, dtype=np.float32)[:, None], (1, width))
        for k in range(min(HAZES, count - number * HAZES)):
            save(root / "hazy" / f"{1400 + number}_{k + 1}.png", haze.apply(clear, depth, rng))


def save(path: Path, picture: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    Image.fromarray(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)).save(path)


def available() -> list[Metric]:
    """The metrics whose parameters are on this machine."""

    def found() -> Iterator[Metric]:
        for metric in METRICS.values():
            try:
                if metric.load is not None:
                    load_metric(metric)
                yield metric
            except UsageError as error:
                print(f"without {metric.name}: {str(error).splitlines()[0]}")

    return list(found())


def measure(network: Network, root: Path, metrics: list[Metric], store: Path, images: int, peaks: list[float]) -> Report:
    """One job in a fresh store; notes the process's largest size after a third of the images and at the end, the first time."""
    found = find_pairs("reside_indoor", root, "test")
    judged = judged_set("reside_indoor", JudgedPairs(found.pairs), {}, None)
    judge = Judge([PROTOCOLS["gunet"]], metrics, {metric.name: load_metric(metric) for metric in metrics if metric.load is not None})
    held = Store(store)
    seen, noting = 0, not peaks

    def advance() -> None:
        nonlocal seen
        seen += 1
        if noting and seen in (-(-images // 3), images):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    album = Album(store, judged.manifest, "share", set(list(judged.images)[:: max(1, images // 8)]), 2, {})
    report = run_job(held, held.job("share", {}), "gunet_t", network, judged, judge, album, advance)
    held.close()
    return report


if __name__ == "__main__":
    sys.exit(main())
