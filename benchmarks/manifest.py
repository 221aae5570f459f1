"""Start-up and memory on the manifest of a set as large as RESIDE's OTS: 313,950 pairs, with names as it has them.

    python benchmarks/manifest.py                 # 313,950 pairs, 2 workers
    python benchmarks/manifest.py --pairs 1000    # a small one

Start-up: from the imports' end to a loader over all pairs whose sampler has drawn its first order. Memory: what a loader's worker holds
for itself (Linux's Private_Clean + Private_Dirty) after asking for every name once in its share of the pairs, less the same of a worker
over an empty set. Claims: under 3 seconds, under 100 MB.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dehaze_zoo.data.manifest import read_manifest
from dehaze_zoo.data.packed import write_packed
from dehaze_zoo.data.samplers import EpochSampler, Token
from dehaze_zoo.data.table import PairTable

VARIANTS = 35  # hazy pictures a scene, in OTS: 7 betas by 5 airlights


class Names(Dataset[int]):
    """Asks for a pair and, at the end, tells the worker's own memory in bytes."""

    def __init__(self, pairs: PairTable | None, count: int) -> None:
        self.pairs, self.count = pairs, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, token: Token) -> int:
        assert get_worker_info() is not None
        if self.pairs is not None:
            assert self.pairs[token.element].name
        return private() if token.position >= self.count - 8 else 0


def private() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def write(path: Path, root: Path, count: int) -> None:
    """A manifest as `prepare` writes it, without the pictures themselves."""
    names = [
        f"part{1 + i * 4 // count}/{i // VARIANTS:04d}_{0.8 + 0.05 * (i % 5):.2g}_{0.04 + 0.02 * (i % 7):.2g}.jpg" for i in range(count)
    ]
    clears = [f"{i:04d}.jpg" for i in range(-(-count // VARIANTS))]
    arrays: dict[str, Any] = {"clear_of": (np.arange(count) // VARIANTS).astype(np.int32)}
    for kind, found in (("hazy", names), ("clear", clears)):
        arrays[f"{kind}_text"] = np.frombuffer("".join(found).encode(), np.uint8)
        arrays[f"{kind}_ends"] = np.cumsum([len(name) for name in found], dtype=np.int64)
    files = count + len(clears)
    rng = np.random.default_rng(0)
    arrays |= {"lengths": rng.integers(10**4, 10**5, files), "digests": rng.integers(0, 256, (files, 16), dtype=np.uint8)}
    folders = []
    for kind in ("hazy", "clear"):
        (root / kind).mkdir(parents=True)
        folders.append([".", (root / kind).stat().st_mtime_ns])
    write_packed(path, {"form": 1, "hazy": "hazy", "clear": "clear", "folders": folders}, arrays)


def worker_memory(pairs: PairTable | None, count: int, workers: int) -> int:
    sampler = EpochSampler(count, count, seed=0)
    loader = DataLoader(Names(pairs, count), 64, sampler=sampler, num_workers=workers, collate_fn=max)
    return max(map(int, loader))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=313_950, help="pairs of the manifest (313,950)")
    parser.add_argument("--workers", type=int, default=2, help="of the loader (2)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root, path = Path(folder, "set"), Path(folder, "manifest")
        write(path, root, given.pairs)
        start = time.perf_counter()
        pairs = read_manifest(path, root)
        read = time.perf_counter()
        sampler = EpochSampler(len(pairs), len(pairs), seed=0)
        loader = DataLoader(Names(pairs, given.pairs), 64, sampler=sampler, num_workers=given.workers)
        next(iter(sampler))
        drawn = time.perf_counter()
        assert len(loader.dataset) == given.pairs  # type: ignore[arg-type]
        own, empty = worker_memory(pairs, given.pairs, given.workers), worker_memory(None, 64 * given.workers, given.workers)
        print(f"{os.cpu_count()} cores; manifest of {given.pairs:,} pairs, {path.stat().st_size / 1e6:.1f} MB")
        print(f"start-up: {read - start:.3f} s reading, {drawn - start:.3f} s until the first sample is named")
        print(f"a worker's own memory: {own / 1e6:.0f} MB after reading all names, {empty / 1e6:.0f} MB over an empty set,")
        print(f"{(own - empty) / 1e6:.0f} MB more")


if __name__ == "__main__":
    main()
