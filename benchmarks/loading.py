"""Training samples read a second: ours, from files and from the packed cache, against the usual loader, in the same run.

    python benchmarks/loading.py                     # generated pictures: 620x460 PNG and 1152x864 JPEG (1 MP), 256 crops; a minute
    python benchmarks/loading.py --hazy DIR --clear DIR   # pairs of your own as well
    python benchmarks/loading.py --quick             # a few small ones, to see that it runs

The usual loader decodes both pictures whole (Pillow), makes floats of them (torchvision's to_tensor) and crops; gUNet's own does so with
OpenCV and numpy and maps to [-1, 1]. All read the same files, which are in memory, take crops of one size at random, mirror and turn them,
and end as float32 batches in the training process. Claims: at least 2 times the usual loader from files, 10 times from the cache.
"""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import decode_image
from torchvision.transforms.functional import to_tensor

import measure
from dehaze_zoo.data import windows
from dehaze_zoo.data.cache import Cache, open_cache
from dehaze_zoo.data.haze import Haze
from dehaze_zoo.data.layouts import pair_folders
from dehaze_zoo.data.pairs import Augment, TrainingPairs, collate_crops, finished
from dehaze_zoo.data.samplers import EpochSampler, Token
from dehaze_zoo.data.synthetic import ScenePairs
from dehaze_zoo.data.table import PairTable
from dehaze_zoo.data.workers import keep_freed_memory, set_up_worker

DOCS = Path(__file__).resolve().parents[1] / "docs" / "loading.md"
CASES = {"620x460 PNG": (460, 620, "png"), "1152x864 JPEG": (864, 1152, "jpg")}


class Usual(Dataset[tuple[Tensor, Tensor]]):
    """Both pictures whole, as floats, then the crop."""

    def __init__(self, pairs: PairTable, crop: int, read: Callable[[Path], Tensor]) -> None:
        self.pairs, self.crop, self.read = pairs, crop, read

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, token: Token) -> tuple[Tensor, Tensor]:
        pair, rng = self.pairs[token.element], np.random.default_rng(token)
        hazy, clear = self.read(pair.hazy), self.read(pair.clear)
        top, left = (int(rng.integers(side - self.crop + 1)) for side in hazy.shape[1:])
        mirrored, quarters = rng.integers(2), int(rng.integers(4))
        cut = [picture[:, top : top + self.crop, left : left + self.crop] for picture in (hazy, clear)]
        turned = [torch.rot90(picture.flip(2) if mirrored else picture, quarters, (1, 2)).contiguous() for picture in cut]
        return turned[0], turned[1]


def with_pillow(path: Path) -> Tensor:
    picture: Tensor = to_tensor(Image.open(path).convert("RGB"))
    return picture


def with_opencv(path: Path) -> Tensor:
    picture: Any = cv2.imread(str(path))
    floats = picture[:, :, ::-1].astype("float32") / 255.0
    return torch.from_numpy(np.ascontiguousarray((floats * 2 - 1).transpose(2, 0, 1)))


def generated(folder: Path, height: int, width: int, suffix: str, count: int) -> PairTable:
    """Ray-cast scenes with a camera's noise, which makes them as hard to decode as photographs."""
    rng = np.random.default_rng(0)
    for sample in (ScenePairs("test", count, height, width, Haze(), 0.25)[i] for i in range(count)):
        for kind in ("hazy", "clear"):
            noisy = sample[kind].permute(1, 2, 0).numpy() * 255 + rng.normal(0, 2, (height, width, 3))  # type: ignore[literal-required]
            path = folder / kind / f"{Path(sample['name']).stem}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)).save(path, quality=90)
    return table(folder / "hazy", folder / "clear")


def table(hazy: Path, clear: Path) -> PairTable:
    found = pair_folders(hazy, clear)
    return PairTable.of(found.hazy, found.clear, found.strict())


def reading(dataset: Dataset[Any], samples: int, workers: int, batch: int = 8) -> Callable[[], object]:
    """An epoch through a DataLoader whose workers live on, as in training."""
    sampler = EpochSampler(len(dataset), samples, seed=0)  # type: ignore[arg-type]
    ours: dict[str, Any] = {"collate_fn": collate_crops, "worker_init_fn": set_up_worker} if isinstance(dataset, TrainingPairs) else {}
    loader = DataLoader(dataset, batch, sampler=sampler, num_workers=workers, persistent_workers=True, **ours)
    return lambda: [finished(batch) if ours else None for batch in loader]


def ours(pairs: PairTable, crop: int, cache: Cache | None = None) -> TrainingPairs:
    dataset = TrainingPairs(pairs, crop, Augment(), 0, cache)
    dataset.raw = True  # as under a trainer
    return dataset


def decoders() -> dict[str, Callable[[bytes], Any]]:
    """Whole pictures, (H, W, 3) RGB bytes; and ours without the lower quarter, which a crop of 256 rows leaves out on average, and more."""
    turbo: dict[str, Any] = {"colorspace": "RGB", "fastdct": False, "fastupsample": False}
    return {
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
        "OpenCV": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB),
        "torchvision.io": lambda data: decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0).numpy(),
        "simplejpeg": lambda data: simplejpeg.decode_jpeg(data, **turbo) if data[:2] == b"\xff\xd8" else None,
        "ours, all rows": lambda data: rows_of(data, 1.0),
        "ours, three quarters of the rows": lambda data: rows_of(data, 0.75),
    }


def rows_of(data: bytes, share: float) -> Any:
    plain = windows._png(data) or windows._jpeg(data)
    assert plain is not None
    (height, _), rows = plain
    return rows(round(share * height))[: round(share * height)]


def list_of(decode: Callable[[bytes], Any], files: list[bytes]) -> list[Any]:
    return [decode(data) for data in files]


def of_decoders(tables: dict[str, PairTable], rounds: int) -> Iterator[str]:
    yield "| pictures | decoder | ms a picture, median [IQR] | pixels are Pillow's |"
    yield "|---|---|--:|---|"
    for name, pairs in tables.items():
        files = [path.read_bytes() for path in pairs.files()[:8]]
        exact = [decoders()["Pillow"](data) for data in files]
        found = {what: decode for what, decode in decoders().items() if decode(files[0]) is not None}
        work: dict[str, measure.Work] = {what: functools.partial(list_of, decode, files) for what, decode in found.items()}
        for what, times in measure.seconds(work, rounds, torch.device("cpu")).items():
            same = all(np.array_equal(got := found[what](data), want[: len(got)]) for data, want in zip(files, exact, strict=True))
            yield f"| {name} | {what} | {measure.spread([t / len(files) for t in times], digits=2)} | {'yes' if same else 'no'} |"


def of_loaders(tables: dict[str, PairTable], folder: Path, crop: int, samples: int, rounds: int, cores: int) -> Iterator[str]:
    yield "| pictures | workers | loader | ms a sample, median [IQR] | times the usual one |"
    yield "|---|--:|---|--:|--:|"
    for name, pairs in tables.items():
        kilobytes = np.mean([path.stat().st_size for path in pairs.files()]) / 1e3
        cache, _ = open_cache(folder / f"{len(name)}.cache", pairs)
        loaders: dict[str, Dataset[Any]] = {
            "usual: whole, Pillow, to_tensor": Usual(pairs, crop, with_pillow),
            "gUNet's: whole, OpenCV, numpy": Usual(pairs, crop, with_opencv),
            "ours, from files": ours(pairs, crop),
            "ours, from the cache": ours(pairs, crop, cache),
        }
        for workers in sorted({1, cores}):
            # an epoch from the cache is four times as long, that starting one does not weigh more than reading it
            counts = {what: samples * (4 if "cache" in what else 1) for what in loaders}
            work = {what: reading(dataset, counts[what], workers) for what, dataset in loaders.items()}
            epochs = measure.seconds(work, rounds, torch.device("cpu"))
            taken = {what: [seconds / counts[what] for seconds in times] for what, times in epochs.items()}
            base = next(iter(taken.values()))
            for what, times in taken.items():
                each = measure.spread(times, digits=2)
                yield f"| {name}, {kilobytes:.0f} kB | {workers} | {what} | {each} | {measure.ratio(base, times)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few, small samples")
    parser.add_argument("--write", action="store_true", help="put the result into docs/loading.md")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each loader (7)")
    parser.add_argument("--samples", type=int, default=96, help="samples an epoch, four times as many from the cache (96)")
    parser.add_argument("--hazy", type=Path, help="folder of your own hazy pictures")
    parser.add_argument("--clear", type=Path, help="and of their clear ones")
    given = parser.parse_args()
    crop, rounds, samples, count = (16, 2, 4, 2) if given.quick else (256, given.rounds, given.samples, 12)
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    cv2.setNumThreads(0)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    lines = [
        f"{platform.processor() or platform.machine()}, {cores} cores, {time.strftime('%Y-%m-%d')}; {crop} crops, batch 8,",
        f"{samples} samples an epoch, {rounds} epochs of each loader in turn; Pillow {PIL.__version__}, OpenCV {cv2.__version__},",
        f"{measure.stamp(torch.device('cpu'), torch.float32)}.\n",
    ]
    print("\n".join(lines))
    with tempfile.TemporaryDirectory() as folder:
        tables = {}
        for name, (height, width, suffix) in CASES.items():
            size = (height // 8, width // 8) if given.quick else (height, width)
            tables[name] = generated(Path(folder, suffix), *size, suffix, count)
        if given.hazy and given.clear:
            tables["your own"] = table(given.hazy, given.clear)
        made = (of_loaders(tables, Path(folder), crop, samples, rounds, cores), [""], of_decoders(tables, rounds))
        for line in itertools.chain.from_iterable(made):
            print(line, flush=True)
            lines.append(line)
    if given.write:
        text = DOCS.read_text(encoding="utf-8")
        before, rest = text.split("<!-- loading:begin -->\n", 1)
        after = rest.split("<!-- loading:end -->", 1)[1]
        DOCS.write_text(before + "\n".join(["<!-- loading:begin -->", *lines, "<!-- loading:end -->"]) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
