"""The pairs of hazy and clear pictures of a data set, found in a folder; the sets' facts are in sets.py. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dehaze_zoo.data.sets import LAYOUTS, Layout, Split, strangers
from dehaze_zoo.errors import UsageError, near_misses

__all__ = ["LAYOUTS", "Layout", "Pair", "PairList", "Problem"]

HAZY_FOLDERS = ("hazy", "haze", "in", "input")
CLEAR_FOLDERS = ("gt", "clear", "clean", "target")
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".ppm"))
DEEPEST = 4  # levels of folders that are searched for a set
_PART = re.compile(r"(ots[_-]?)?part[_-]?\d+", re.IGNORECASE)  # OTS's four, where they lie beside the clear pictures
# 01_hazy.png, 01_outdoor_GT.jpg
_ROLE = re.compile(r"(?:[_-](?:indoor|outdoor))?[_-](?:(?P<hazy>hazy|haze)|gt|clear|clean)$", re.IGNORECASE)


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
    """The pairs of two folders (or of one that holds both kinds), by name, and the files that could not be paired."""

    hazy: Path
    clear: Path
    pairs: Sequence[Pair]
    problems: list[Problem] = field(default_factory=list)
    lone: list[Path] = field(default_factory=list)
    """Clear pictures without a hazy one."""

    def strict(self) -> Sequence[Pair]:
        """The pairs; UsageError naming up to three files where any hazy picture has no clear one."""
        if self.problems:
            names = ", ".join(problem.file.name for problem in self.problems[:3]) + (", ..." if len(self.problems) > 3 else "")
            raise UsageError(
                f"{len(self.problems)} of {len(self.problems) + len(self.pairs)} hazy pictures in {self.hazy} have no clear one: {names}\n"
                f"Clear pictures are looked for in {self.clear}, by the same name or by its part before an underscore.\n"
                "Add the missing ones or move these hazy pictures away."
            )
        return self.pairs


class NoPairsError(UsageError):
    """There is nothing of this split, where another one may be."""


def layout_of(set_name: str) -> Layout:
    """The record of a set; UsageError with near misses for an unknown one."""
    if set_name not in LAYOUTS:
        raise UsageError(f"data set '{set_name}' is not known. {near_misses(set_name, LAYOUTS)}")
    return LAYOUTS[set_name]


def check_on_disk(set_name: str, sets: Iterable[str] = ()) -> None:
    """UsageError for what data= may name besides the sets on disk: ``sets`` mixed, and what is made."""
    if set_name not in LAYOUTS:
        why = f"is several sets, {', '.join(sets)}: name one" if sets else "is made on the fly: there are no files to look at"
        raise UsageError(f"data={set_name} {why}. Give data=SET data.root=DIR.")


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
    """The pairs of one split (train, val or test; val is test where the set has none) below ``root``, in any nesting of the set.

    Looked for are two folders side by side, one named as HAZY_FOLDERS, one as CLEAR_FOLDERS (any case), down to four levels
    below, or one folder of 01_hazy.png beside 01_GT.png; the folders on the way, or else root's own name, tell the split and exclude
    other sets. Raises UsageError where there are none, several or empty ones; pictures without a partner are ``problems``.
    """
    layout, root = layout_of(set_name), Path(root)
    part = _part(layout, split)
    if not layout.paired:
        raise UsageError(f"data={set_name} has hazy photographs alone, no clear ones to train on or judge by: {layout.title}.")
    place = _choose(layout, split, root, _told(layout, root))
    found = pair_folders(place.hazy, place.clear)
    if part.numbers and not set(place.way) & {*part.folders}:  # all splits in one folder
        first, last = part.numbers
        found = replace(found, pairs=[pair for pair in found.pairs if first <= number_of(pair.scene) <= last])
        if not found.pairs:
            raise NoPairsError(f"data={set_name}: no {split} pairs (numbers {first} to {last}) among those in {place.hazy}.")
    return found


def find_pictures(set_name: str, root: str | os.PathLike[str]) -> list[Path]:
    """The hazy photographs of an unpaired set below ``root``, sorted. UsageError where there are none."""
    layout, root = layout_of(set_name), Path(root)
    folders = [place.hazy for place in places(layout, root)] or [root]
    found = sorted(path for folder in folders for path in pictures(folder))
    if not found:
        raise UsageError(f"data={set_name}: no pictures found in {_list(folders)}.\n{layout.title}; from {layout.source}")
    return found


def scene_of(picture: str | os.PathLike[str]) -> str:
    """What a clear picture's name says of its scene: its stem without a last word _GT, _clear, ..."""
    return _ROLE.sub("", os.path.splitext(os.path.basename(picture))[0])


def number_of(scene: str) -> int:
    """The number that a scene's name begins with; -1 where it does not."""
    digits = re.match(r"\d+", scene)
    return int(digits[0]) if digits else -1


def _part(layout: Layout, split: str) -> Split:
    name = split if split in layout.splits else "test" if split == "val" else split
    if name not in layout.splits:
        raise UsageError(f"data={layout.name} has no {split} pairs: {layout.title}.")
    return layout.splits[name]


def told_by(layout: Layout, root: Path) -> tuple[str, ...]:
    """The root's own name, lower case, where it is that of a split; not in the user's own set, where one folder may serve all of them."""
    name = os.path.basename(os.path.abspath(root)).lower()
    return (name,) if layout.marks and name in _words(layout) else ()


def _words(layout: Layout) -> set[str]:
    return {word for part in layout.splits.values() for word in part.folders}


def _told(layout: Layout, root: Path) -> list[Place]:
    """The places; on the way to those whose folders tell no split is the root itself."""
    words, own = _words(layout), told_by(layout, root)
    return [place if words & {*place.way} else replace(place, way=(*own, *place.way)) for place in places(layout, root)]


def _choose(layout: Layout, split: str, root: Path, found: list[Place]) -> Place:
    part = _part(layout, split)
    rest = _words(layout) - {*part.folders}
    fitting = [place for place in found if set(place.way) & {*part.folders}]
    if not fitting:  # without a word on the way: the names of the pictures tell, where they do
        fitting = [place for place in found if not set(place.way) & rest and (not part.names or _looks_like(part.names, place.hazy))]
    if not fitting:
        from dehaze_zoo.data.hints import hint  # which stands on this file

        wanted = f"{'|'.join((*layout.hazy, *HAZY_FOLDERS))} beside {'|'.join((*layout.clear, *CLEAR_FOLDERS))}"
        raise NoPairsError(
            f"data={layout.name}: no {split} pairs found below {root}.\n"
            f"Looked for {wanted}, on the way: {' or '.join(part.folders)}.\n"
            f"Found: {_list(place.hazy.parent for place in found) if found else _list(subfolders(root)) or 'no folders'}.\n"
            + (hint(layout, root) or "Give data.root the folder above them, or use data=folder data.hazy=DIR data.clear=DIR.")
        )
    if len(fitting) > 1:  # val/ beside test/
        fitting = [place for place in fitting if split in place.way] or fitting
    if len(fitting) > 1:
        raise UsageError(
            f"data={layout.name}: more than one place holds {split} pairs: {_list(place.hazy.parent for place in fitting)}.\n"
            "Give data.root=DIR, the one that you mean."
        )
    return fitting[0]


def pair_folders(hazy: str | os.PathLike[str], clear: str | os.PathLike[str]) -> PairList:
    """Pair the pictures of two folders (and of folders below them), by name; or of one folder, whose names then end in _hazy and _GT;
    or of the folders part1, part2, ... beside the clear one, where ``hazy`` is the folder that holds them all.

    A hazy stem's clear picture has the same stem, or the longest part of it that ends before an underscore (1_1_0.9 -> 1),
    with any suffix; a last word _hazy, _GT, ... is left out. UsageError where a folder is missing or holds no picture.
    """
    hazy, clear = Path(hazy), Path(clear)
    hazies = sorted(path for top in hazy_folders(hazy, clear) for path in pictures(top))
    others = sorted(pictures(clear)) if clear != hazy else []
    if clear == hazy:
        roles = {path: role for path in hazies if (role := _ROLE.search(path.stem))}
        hazies, others = [p for p, role in roles.items() if role["hazy"]], [p for p, role in roles.items() if not role["hazy"]]
    clears: dict[str, Path] = {}
    for path in sorted(others, key=lambda p: (p.suffix.lower() != ".png", p)):  # of two with one stem the PNG, without loss
        clears.setdefault(scene_of(path), path)
    pairs, problems = [], []
    for path in hazies:
        scene = scene_of(path)
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
    lone = sorted({*clears.values()} - {pair.clear for pair in pairs})
    return PairList(hazy, clear, pairs, problems, lone)


def hazy_folders(hazy: Path, clear: Path) -> list[Path]:
    """Where below ``hazy`` its pictures lie: in it, or in its parts where it holds the clear folder too."""
    return [folder for folder in subfolders(hazy) if _PART.fullmatch(folder.name)] if hazy in clear.parents else [hazy]


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
class Place:
    """Two folders side by side (or one of both kinds), and the names, lower case, of the folders on the way to them."""

    hazy: Path
    clear: Path
    way: tuple[str, ...]


def places(layout: Layout, root: Path, levels: int = DEEPEST) -> Iterator[Place]:
    """Where below ``root`` pairs of this set may lie, whatever the split (of an unpaired set: its pictures)."""
    avoid = strangers(layout)
    hazy, clear = (*layout.hazy, *HAZY_FOLDERS), (*layout.clear, *CLEAR_FOLDERS)
    for place in _places(root, levels, hazy, clear if layout.paired else None):
        if not set(place.way) & avoid:
            yield place


def _places(
    folder: Path, levels: int, hazy: tuple[str, ...], clear: tuple[str, ...] | None, way: tuple[str, ...] = (), seen: tuple[str, ...] = ()
) -> Iterator[Place]:
    real = os.path.realpath(folder)
    if circular(real, seen):
        return
    below = subfolders(folder)
    names = {path.name.lower(): path for path in below}
    first = next((names[name] for name in hazy if name in names), None)
    second = next((names[name] for name in clear if name in names), None) if clear is not None else first
    if first and second:
        yield Place(first, second, way)
    elif second and any(_PART.fullmatch(name) for name in names):
        yield Place(folder, second, way)
    elif clear is not None and _holds_both(folder):
        yield Place(folder, folder, way)
    elif levels:
        for path in below:
            yield from _places(path, levels - 1, hazy, clear, (*way, path.name.lower()), (*seen, real))


def _holds_both(folder: Path) -> bool:
    roles = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() in SUFFIXES and not stem.startswith(".") and (role := _ROLE.search(stem)):
                roles.add(bool(role["hazy"]))
            if len(roles) == 2:
                return True
    return False


def subfolders(folder: Path) -> list[Path]:
    """Folders in a folder, sorted, without hidden ones; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if not entry.name.startswith((".", "__MACOSX")) and _is_folder(entry))
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link onto itself, or onto one that leads back to it
        return False


def circular(real: str, above: Iterable[str]) -> bool:
    """Whether a folder's real path is one of those that a walk came through, or holds one: a link has led back up."""
    return any(path == real or path.startswith(real.rstrip(os.sep) + os.sep) for path in above)


def pictures(folder: Path, seen: frozenset[str] = frozenset()) -> Iterator[Path]:
    """The pictures in a folder and below, by their suffix, in no order; dot-files and circles of links are left out."""
    real = os.path.realpath(folder)
    if circular(real, seen) or not os.path.isdir(real):
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                yield from pictures(Path(entry.path), seen | {real})
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                yield Path(entry.path)


def _looks_like(names: str, folder: Path) -> bool:
    first = next(pictures(folder), None)
    return first is None or re.fullmatch(names, first.stem) is not None


def _list(paths: Iterable[Path]) -> str:
    found = [str(path) for path in paths]
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
