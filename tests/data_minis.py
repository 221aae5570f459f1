"""Miniatures of the data sets, generated with the names and nestings that they are handed around in."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (24, 32), brighter: int = 0) -> Path:
    """A smooth random picture of height x width, whose kind is told by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 200, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
    Image.fromarray(np.clip(np.asarray(image).astype(int) + brighter, 0, 255).astype(np.uint8)).save(path)
    return path


def folders(
    hazy: Path, clear: Path, names: Iterable[tuple[str, str]], size: tuple[int, int] = (24, 32), clear_size: tuple[int, int] | None = None
) -> None:
    for number, (hazy_name, clear_name) in enumerate(names):
        split = "test" if "test" in clear.parts else ""  # it shows other scenes
        scene = zlib.crc32(os.fsencode(split + clear_name))
        picture(hazy / hazy_name, scene, size, 30 + number)
        if not (clear / clear_name).exists():
            picture(clear / clear_name, scene, clear_size or size)


ITS = [(f"{scene}_{k}_0.9{k}179.png", f"{scene}.png") for scene in (1, 2, 11) for k in (1, 2)]
SOTS_INDOOR = [(f"{scene}_{k}.png", f"{scene}.png") for scene in (1400, 1401) for k in (1, 2, 10)]
OTS = [(f"part{part}/000{scene}_0.8_0.{part}4.jpg", f"000{scene}.jpg") for part in (1, 2) for scene in (1, 2)]
SOTS_OUTDOOR = [("0001_0.8_0.2.jpg", "0001.png"), ("0002_1_0.12.jpg", "0002.png")]
HAZE4K = [("1_0.6_1.26.png", "1.png"), ("2_0.81_0.7.png", "2.png"), ("10_0.9_1.9.png", "10.png")]
SAME = [("a.png", "a.png"), ("b_1.png", "b_1.png"), ("c.png", "c.png")]


def reside_indoor(root: Path) -> None:
    """The official nesting: ITS and SOTS side by side; SOTS holds the outdoor pairs too."""
    folders(root / "ITS" / "hazy", root / "ITS" / "clear", ITS)
    folders(root / "SOTS" / "indoor" / "hazy", root / "SOTS" / "indoor" / "gt", SOTS_INDOOR)
    folders(root / "SOTS" / "outdoor" / "hazy", root / "SOTS" / "outdoor" / "gt", SOTS_OUTDOOR)


def reside_outdoor(root: Path) -> None:
    folders(root / "OTS_BETA" / "haze", root / "OTS_BETA" / "clear" / "clear_images", OTS)
    reside_indoor(root)


def ots_parts(root: Path) -> None:
    """The four downloads unpacked beside the clear pictures, with depth maps."""
    folders(root / "OTS", root / "OTS" / "clear", OTS)
    picture(root / "OTS" / "depth" / "0001.png")


def haze4k(root: Path) -> None:
    folders(root / "Haze4K" / "train" / "haze", root / "Haze4K" / "train" / "gt", HAZE4K)
    folders(root / "Haze4K" / "test" / "haze", root / "Haze4K" / "test" / "gt", HAZE4K[:2])
    for split in ("train", "test"):
        picture(root / "Haze4K" / split / "trans" / "1.png")


def rs_haze(root: Path) -> None:
    folders(root / "train" / "hazy", root / "train" / "GT", SAME)
    folders(root / "test" / "hazy", root / "test" / "GT", SAME[:1])


def in_gt(root: Path) -> None:
    """As the authors of gUNet and DehazeFormer hand sets around."""
    folders(root / "RESIDE-IN" / "train" / "IN", root / "RESIDE-IN" / "train" / "GT", SAME)
    folders(root / "RESIDE-IN" / "test" / "IN", root / "RESIDE-IN" / "test" / "GT", SAME[:2])
    folders(root / "RESIDE-OUT" / "train" / "IN", root / "RESIDE-OUT" / "train" / "GT", SAME)


def reside_6k(root: Path) -> None:
    folders(root / "RESIDE-6K" / "train" / "hazy", root / "RESIDE-6K" / "train" / "GT", [("1.jpg", "1.jpg"), ("2.jpg", "2.jpg")])
    names = [("1400_1.png", "1400_1.png"), ("0001_0.8_0.2.jpg", "0001_0.8_0.2.jpg"), ("0002_1_0.12.jpg", "0002_1_0.12.jpg")]
    folders(root / "RESIDE-6K" / "test" / "hazy", root / "RESIDE-6K" / "test" / "GT", names)


def hsts(root: Path) -> None:
    names = [("0586.jpg", "0586.jpg"), ("5576.jpg", "5576.jpg")]
    folders(root / "HSTS" / "synthetic" / "synthetic", root / "HSTS" / "synthetic" / "original", names)
    picture(root / "HSTS" / "real-world" / "IMG_20151127_112023.jpg")


def rtts(root: Path) -> None:
    """Hazy photographs alone, in the nesting of Pascal VOC."""
    for number, name in enumerate(("AM_Bing_211.png", "AM_Google_115.png", "YD_Baidu_107.png")):
        picture(root / "RTTS" / "JPEGImages" / name, number)
        (root / "RTTS" / "Annotations").mkdir(exist_ok=True)
        (root / "RTTS" / "Annotations" / name.replace(".png", ".xml")).write_text("<annotation/>")


def nh_haze(root: Path) -> None:
    """One folder of both kinds, all splits: the number tells."""
    for number in (1, 2, 45, 46, 50, 51, 55):
        picture(root / "NH-HAZE" / f"{number:02d}_hazy.png", number, brighter=30)
        picture(root / "NH-HAZE" / f"{number:02d}_GT.png", number)


def _ntire(top: Path, middle: str, suffix: str, numbers: Iterable[int]) -> None:
    folders(top / "hazy", top / "GT", [(f"{n:02d}{middle}_hazy.{suffix}", f"{n:02d}{middle}_GT.{suffix}") for n in numbers])


def dense_haze(root: Path) -> None:
    _ntire(root / "Dense_Haze_NTIRE19", "", "png", (1, 45, 46, 51, 55))


def o_haze(root: Path) -> None:
    _ntire(root / "# O-HAZY NTIRE 2018", "_outdoor", "jpg", (1, 2, 35, 36, 45))


def i_haze(root: Path) -> None:
    _ntire(root / "# I-HAZY NTIRE 2018", "_indoor", "jpg", (1, 25, 26, 30, 31))


def flat_sots(root: Path) -> None:
    folders(root / "hazy", root / "gt", SOTS_INDOOR)


def flat_its(root: Path) -> None:
    folders(root / "Hazy", root / "Clear", ITS)


def own(root: Path) -> None:
    """A user's folder: roles in the names, other suffixes, dot-files and notes beside."""
    names = [(f"{scene}_hazy.jpg", f"{scene}_GT.png") for scene in ("lake", "old_town", "wood", "pier")]
    folders(root / "hazy", root / "GT", names)
    (root / "hazy" / ".DS_Store").write_text("")
    (root / "hazy" / "._lake_hazy.jpg").write_text("")
    (root / "hazy" / "notes.txt").write_text("")


MINIS: dict[str, tuple[Callable[[Path], None], str, dict[str, int]]] = {
    "reside_indoor": (reside_indoor, "reside_indoor", {"train": 6, "test": 6}),
    "reside_outdoor": (reside_outdoor, "reside_outdoor", {"train": 4, "test": 2}),
    "ots_parts": (ots_parts, "reside_outdoor", {"train": 4}),
    "haze4k": (haze4k, "haze4k", {"train": 3, "test": 2}),
    "rs_haze": (rs_haze, "rs_haze", {"train": 3, "test": 1}),
    "in_gt": (in_gt, "reside_indoor", {"train": 3, "test": 2}),
    "reside_6k": (reside_6k, "reside_6k", {"train": 2, "test": 3}),
    "hsts": (hsts, "hsts", {"test": 2}),
    "nh_haze": (nh_haze, "nh_haze", {"train": 3, "val": 2, "test": 2}),
    "dense_haze": (dense_haze, "dense_haze", {"train": 2, "val": 1, "test": 2}),
    "o_haze": (o_haze, "o_haze", {"train": 3, "val": 1, "test": 1}),
    "i_haze": (i_haze, "i_haze", {"train": 2, "val": 2, "test": 1}),
    "flat_sots": (flat_sots, "reside_indoor", {"test": 6}),
    "flat_its": (flat_its, "reside_indoor", {"train": 6}),
    "own": (own, "folder", {"train": 4, "test": 4}),
}
"""Name: (what makes it below a root, data set, pairs by split)."""
