"""How data sets lie on disk: the facts of each, and the pairs of hazy and clear pictures found in a folder. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dehaze_zoo.errors import UsageError, near_misses

HAZY_FOLDERS = ("hazy", "haze", "in", "input")
CLEAR_FOLDERS = ("gt", "clear", "clean", "target")
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".ppm"))
_DEEPEST = 4
_ROLE = re.compile(r"[_-](hazy|haze|gt|clear|clean)$", re.IGNORECASE)  # 01_hazy.png, 01_GT.png


@dataclass(frozen=True)
class Split:
    pairs: int
    """As published."""
    folders: tuple[str, ...]
    """Names, lower case, of the folders on the way to this split's pictures."""
    names: str = ""
    """What its hazy stems look like (a regular expression), where that tells it from the other split."""


@dataclass(frozen=True)
class Layout:
    """The facts of one published data set. ``splits`` has train and test; training validates on test, as gUNet's authors do."""

    name: str
    title: str
    splits: dict[str, Split]
    strangers: tuple[str, ...]
    """Names, lower case, of folders on the way to other sets' pictures."""
    source: str
    licence: str
    citation: str


_RESIDE = {
    "source": "https://sites.google.com/view/reside-dehaze-datasets",
    "licence": "none stated; research use",
    "citation": 'B. Li et al., "Benchmarking Single-Image Dehazing and Beyond", IEEE Transactions on Image Processing 28(1), 2019',
}
_UNPAIRED = ("hsts", "rtts", "urhi", "reside-6k", "reside6k")

LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            name="reside_indoor",
            title="RESIDE indoor: ITS (1,399 scenes, 10 hazy each) to train, SOTS indoor (50 scenes, 10 each) to test",
            splits={
                "train": Split(13_990, ("its", "its_v2", "train"), r"\d+_\d+_\d+(\.\d+)?"),  # 1_1_0.90179.png -> 1.png
                "test": Split(500, ("sots", "test", "nyuhaze500"), r"\d+_\d+"),  # 1400_1.png -> 1400.png
            },
            strangers=("outdoor", "ots", "ots_alpha", "ots_beta", "reside-out", "haze4k", "rs-haze", *_UNPAIRED),
            **_RESIDE,
        ),
        Layout(
            name="reside_outdoor",
            title="RESIDE outdoor: OTS (8,970 scenes, 35 hazy each, in parts) to train, SOTS outdoor (492 scenes) to test",
            splits={
                "train": Split(313_950, ("ots", "ots_alpha", "ots_beta", "train")),  # 0001_0.8_0.04.jpg -> 0001.jpg
                "test": Split(500, ("sots", "test")),  # 0001_0.8_0.2.jpg -> 0001.png
            },
            strangers=("indoor", "its", "its_v2", "nyuhaze500", "reside-in", "haze4k", "rs-haze", *_UNPAIRED),
            **_RESIDE,
        ),
        Layout(
            name="haze4k",
            title="Haze4K: 4,000 scenes, one hazy each, indoors and outdoors",
            splits={"train": Split(3_000, ("train",)), "test": Split(1_000, ("test",))},  # 1_0.6_1.26.png -> 1.png
            strangers=("its", "ots", "sots", "reside-in", "reside-out", "rs-haze", *_UNPAIRED),
            source="https://github.com/liuye123321/DMT-Net",
            licence="none stated; research use",
            citation='Y. Liu et al., "From Synthetic to Real: Image Dehazing Collaborating with Unlabeled Real Data", ACM Multimedia 2021',
        ),
        Layout(
            name="rs_haze",
            title="RS-Haze: satellite pictures (Landsat-8) with non-homogeneous haze, same names for hazy and clear",
            splits={"train": Split(51_300, ("train",)), "test": Split(2_700, ("test",))},
            strangers=("its", "ots", "sots", "reside-in", "reside-out", "haze4k", *_UNPAIRED),
            source="https://github.com/IDKiro/DehazeFormer",
            licence="none stated; research use",
            citation='Y. Song et al., "Vision Transformers for Single Image Dehazing", IEEE Transactions on Image Processing 32, 2023',
        ),
        Layout(
            name="folder",
            title="the user's own pairs, in two folders or in any layout of the others",
            splits={"train": Split(0, ("train", "its", "ots")), "test": Split(0, ("test", "val", "sots"))},
            strangers=(),
            source="",
            licence="",
            citation="",
        ),
    )
}


@dataclass(frozen=True)
class Pair:
    hazy: Path
    clear: Path
    scene: str
    """What its hazy variants share: pairs of one scene belong into one split."""
    name: str
    """The hazy picture's path below its folder, with suffix: what results are filed under."""


@dataclass(frozen=True)
class Problem:
    kind: str
    """missing_partner."""
    file: Path
    why: str


@dataclass(frozen=True)
class PairList:
    """The pairs of two folders, by name, and the files that could not be paired."""

    hazy: Path
    clear: Path
    pairs: list[Pair]
    problems: list[Problem] = field(default_factory=list)

    def strict(self) -> list[Pair]:
        """The pairs; UsageError naming up to three files where any hazy picture has no clear one."""
        if self.problems:
            names = ", ".join(problem.file.name for problem in self.problems[:3]) + (", ..." if len(self.problems) > 3 else "")
            raise UsageError(
                f"{len(self.problems)} of {len(self.problems) + len(self.pairs)} hazy pictures in {self.hazy} have no clear one: {names}\n"
                f"Clear pictures are looked for in {self.clear}, by the same name or by its part before an underscore.\n"
                "Add the missing ones or move these hazy pictures away."
            )
        return self.pairs


def layout_of(set_name: str) -> Layout:
    """The record of a set; UsageError with near misses for an unknown one."""
    if set_name not in LAYOUTS:
        raise UsageError(f"data set '{set_name}' is not known. {near_misses(set_name, LAYOUTS)}")
    return LAYOUTS[set_name]


def find_root(set_name: str, root: str | os.PathLike[str] | None) -> Path:
    """Where a set lies: ``root``, or $DEHAZE_ZOO_DATA/<set>. UsageError where neither is given or there is no such folder."""
    layout = layout_of(set_name)
    base = os.environ.get("DEHAZE_ZOO_DATA")
    if root is None and not base:
        raise UsageError(
            f"data={set_name}: where does the set lie? Neither data.root nor the variable DEHAZE_ZOO_DATA is given.\n"
            + ("Give data.hazy=DIR data.clear=DIR, or data.root=DIR." if set_name == "folder" else "")
            + (f"Give data.root=DIR, or set DEHAZE_ZOO_DATA to the folder that holds {set_name}/." if set_name != "folder" else "")
            + (f"\n{layout.title}; from {layout.source}" if layout.source else "")
        )
    path = Path(root) if root is not None else Path(base or "") / set_name
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        said = "data.root" if root is not None else "$DEHAZE_ZOO_DATA/" + set_name
        raise UsageError(
            f"data={set_name}: {path} {what} ({said}).\nGive data.root=DIR, the folder where the set lies."
            + (f"\n{layout.title}; from {layout.source}" if layout.source else "")
        )
    return path


def find_pairs(set_name: str, root: str | os.PathLike[str], split: str) -> PairList:
    """The pairs of one split (train, val or test; val is test) of a set below ``root``, in any of the nestings it is handed around in.

    Looked for are two folders side by side, one named as HAZY_FOLDERS, one as CLEAR_FOLDERS (any case), down to four levels
    below; the folders on the way tell the split and exclude other sets. Raises UsageError where there are none, several or
    empty ones; pictures without a partner are ``problems``.
    """
    layout, root = layout_of(set_name), Path(root)
    part = layout.splits["train" if split == "train" else "test"]
    rest = {word for other in layout.splits.values() if other is not part for word in other.folders}
    places = [place for place in _places(root, _DEEPEST) if not set(place.way) & {*layout.strangers}]
    fitting = [place for place in places if set(place.way) & {*part.folders}]
    if not fitting:  # without a word on the way: the names of the pictures tell, where they do
        fitting = [place for place in places if not set(place.way) & rest and (not part.names or _looks_like(part.names, place.hazy))]
    if not fitting:
        wanted = f"{'|'.join(HAZY_FOLDERS)} beside {'|'.join(CLEAR_FOLDERS)}, on the way: {' or '.join(part.folders)}"
        raise UsageError(
            f"data={set_name}: no {split} pairs found below {root}.\nLooked for {wanted}.\n"
            f"Found: {_list(place.hazy.parent for place in places) if places else _list(_folders(root)) or 'no folders'}.\n"
            "Give data.root the folder above them, or use data=folder data.hazy=DIR data.clear=DIR."
        )
    if len(fitting) > 1:  # val/ beside test/
        fitting = [place for place in fitting if split in place.way] or fitting
    if len(fitting) > 1:
        raise UsageError(
            f"data={set_name}: more than one place holds {split} pairs: {_list(place.hazy.parent for place in fitting)}.\n"
            "Give data.root=DIR, the one that you mean."
        )
    return pair_folders(fitting[0].hazy, fitting[0].clear)


def pair_folders(hazy: str | os.PathLike[str], clear: str | os.PathLike[str]) -> PairList:
    """Pair the pictures of two folders (and of folders below them), by name.

    A hazy stem's clear picture has the same stem, or the longest part of it that ends before an underscore (1_1_0.9 -> 1),
    with any suffix; a last word _hazy, _GT, ... is left out. UsageError where a folder is missing or holds no picture.
    """
    hazy, clear = Path(hazy), Path(clear)
    clears: dict[str, Path] = {}
    for path in sorted(pictures(clear), key=lambda p: (p.suffix.lower() != ".png", p)):  # of two with one stem the PNG, without loss
        clears.setdefault(_ROLE.sub("", path.stem), path)
    pairs, problems = [], []
    for path in sorted(pictures(hazy)):
        scene = _ROLE.sub("", path.stem)
        while scene not in clears and "_" in scene:
            scene = scene.rpartition("_")[0]
        if scene in clears:
            pairs.append(Pair(path, clears[scene], scene, path.relative_to(hazy).as_posix()))
        else:
            problems.append(Problem("missing_partner", path, "it has no clear picture"))
    for what, folder, found in (("hazy", hazy, pairs or problems), ("clear", clear, clears)):
        if not found:
            why = "does not exist" if not folder.exists() else "is not a folder" if not folder.is_dir() else "holds no picture"
            raise UsageError(f"{folder}: the folder of the {what} pictures {why}.\nPictures are {', '.join(sorted(SUFFIXES))}.")
    return PairList(hazy, clear, pairs, problems)


def hold_out(pairs: Sequence[Pair], holdout: float | Sequence[Any]) -> tuple[list[Pair], list[Pair]]:
    """Split pairs by whole scenes into (train, held out).

    ``holdout`` is a share of the scenes, above 0 and below 1 (at least one scene; those whose names hash lowest, so that the same
    stay out on every machine), or a list of scene names. Raises UsageError for unknown scenes or where either part would be empty.
    """
    scenes = sorted({pair.scene for pair in pairs})
    if isinstance(holdout, (int, float)):
        if not 0 < holdout < 1:
            raise UsageError(f"data.holdout={holdout}: it is a share of the scenes, above 0 and below 1, or a list of scene names.")
        ranked = sorted(scenes, key=lambda scene: hashlib.sha256(scene.encode()).digest())
        held = set(ranked[: max(1, round(holdout * len(scenes)))])
    else:
        held = {str(scene) for scene in holdout}
        for unknown in sorted(held - set(scenes)):
            raise UsageError(f"data.holdout: there is no scene '{unknown}'. {near_misses(unknown, scenes[:2000])}")
    train, out = [p for p in pairs if p.scene not in held], [p for p in pairs if p.scene in held]
    if not train or not out:
        raise UsageError(
            f"data.holdout={holdout} leaves {len(train)} pairs for training and {len(out)} for validation of {len(scenes)} scene(s).\n"
            "Both need at least one scene: bring more clear pictures or change data.holdout."
        )
    return train, out


@dataclass(frozen=True)
class _Place:
    hazy: Path
    clear: Path
    way: tuple[str, ...]


def _places(folder: Path, levels: int, way: tuple[str, ...] = ()) -> Iterator[_Place]:
    below = _folders(folder)
    names = {path.name.lower(): path for path in below}
    hazy = next((names[name] for name in HAZY_FOLDERS if name in names), None)
    clear = next((names[name] for name in CLEAR_FOLDERS if name in names), None)
    if hazy and clear:
        yield _Place(hazy, clear, way)
    elif levels:
        for path in below:
            yield from _places(path, levels - 1, (*way, path.name.lower()))


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def pictures(folder: Path, seen: frozenset[str] = frozenset()) -> Iterator[Path]:
    """The pictures in a folder and below, by their suffix, in no order; dot-files and circles of links are left out."""
    real = os.path.realpath(folder)
    if real in seen or not os.path.isdir(real):  # a circle of links
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from pictures(Path(entry.path), seen | {real})
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                yield Path(entry.path)


def _looks_like(names: str, folder: Path) -> bool:
    first = next(pictures(folder), None)
    return first is None or re.fullmatch(names, first.stem) is not None


def _list(paths: Iterator[Path] | list[Path]) -> str:
    found = [str(path) for path in paths]
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
