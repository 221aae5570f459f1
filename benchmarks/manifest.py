"""Start-up and memory on the manifest of a set as large as RESIDE's OTS: 313,950 pairs, with names and folders as it has them.

    python benchmarks/manifest.py                 # 313,950 pairs, 2 workers
    python benchmarks/manifest.py --pairs 1000    # a small one

The pictures are empty files: none is opened at start-up. Start-up: from a PairDataModule to the first order drawn by the sampler of its
train_dataloader(), the check that no folder has changed included; by the folders, and by the manifest that write_manifest made of them.
Memory: what a loader's worker holds for itself (Linux's Private_Clean + Private_Dirty) after asking for every name once in its share of
the pairs, less the same of a worker that was asked for none; for the manifest's table, and for a list of the same pairs. Claims: under
3 seconds, under 100 MB.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dehaze_zoo.data.datamodule import PairDataModule
from dehaze_zoo.data.layouts import Pair
from dehaze_zoo.data.manifest import manifest_path, read_manifest, write_manifest
from dehaze_zoo.data.samplers import EpochSampler, Token

VARIANTS = 35  # hazy pictures a scene, in OTS: 7 betas by 5 airlights
SET = "reside_outdoor"


class Names(Dataset[int]):
    """Asks for a pair and, at the end, tells the worker's own memory in bytes."""

    def __init__(self, pairs: Sequence[Pair], count: int) -> None:
        self.pairs, self.count = pairs, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, token: Token) -> int:
        assert get_worker_info() is not None
        if self.pairs:
            assert self.pairs[token.element].name
        return private() if token.position >= self.count - 8 else 0


def private() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def make(root: Path, count: int) -> None:
    """OTS in its four parts and one pair of SOTS, as empty files."""
    names = [
        f"OTS/hazy/part{1 + i * 4 // count}/{i // VARIANTS:04d}_{0.8 + 0.05 * (i % 5):.2g}_{0.04 + 0.02 * (i % 7):.2g}.jpg"
        for i in range(count)
    ]
    names += [f"OTS/clear/{i:04d}.jpg" for i in range(-(-count // VARIANTS))]
    names += ["SOTS/outdoor/hazy/0001_0.8_0.2.jpg", "SOTS/outdoor/gt/0001.png"]
    for folder in {os.path.dirname(name) for name in names}:
        (root / folder).mkdir(parents=True)
    for name in names:
        os.close(os.open(root / name, os.O_CREAT))


def started(root: Path, count: int) -> float:
    """Seconds until a loader's sampler has drawn its first order."""
    start = time.perf_counter()
    loader = PairDataModule(SET, str(root), batch_size=64, samples_per_epoch=count, crop_size=240, num_workers=0).train_dataloader()
    next(iter(loader.sampler))
    return time.perf_counter() - start


def prepared(root: Path, count: int) -> float:
    """Seconds of a start-up by the folders; then the manifests are written."""
    seconds = started(root, count)
    data = PairDataModule(SET, str(root), batch_size=1, samples_per_epoch=1, crop_size=1)
    for split in ("train", "test"):
        write_manifest(manifest_path(data.home()[0], SET, split), root, data.searched(split))
    return seconds


def worker_memory(pairs: Sequence[Pair], count: int, workers: int) -> int:
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
        root = Path(folder)
        make(root, given.pairs)
        with multiprocessing.get_context("fork").Pool(1) as apart:  # all that a search leaves behind is not the manifest's
            searched = apart.apply(prepared, (root, given.pairs))
        read = started(root, given.pairs)
        pairs = read_manifest(path := manifest_path(root / ".dehaze_zoo", SET, "train"), root)
        assert len(pairs) == given.pairs
        size = path.stat().st_size
        empty = worker_memory([], given.pairs, given.workers)
        table = worker_memory(pairs, given.pairs, given.workers)
        plain = worker_memory(list(pairs), given.pairs, given.workers)
    print(f"{os.cpu_count()} cores; manifest of {given.pairs:,} pairs, {size / 1e6:.1f} MB")
    print(f"start-up: {read:.3f} s by the manifest, {searched:.3f} s by the folders")
    print(f"a worker's own memory, after reading all names, over that of one asked for none ({empty / 1e6:.0f} MB):")
    print(f"{(table - empty) / 1e6:.1f} MB, {(table - empty) / given.pairs:.0f} bytes a pair; of a list {(plain - empty) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
