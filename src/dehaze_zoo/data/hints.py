"""Why a data set was not found where it was looked for: too deep, too high, renamed, packed, or another set."""

from __future__ import annotations

from itertools import islice, permutations
from pathlib import Path

from dehaze_zoo.data.layouts import CLEAR_FOLDERS, DEEPEST, HAZY_FOLDERS, pictures, places, subfolders, told_by
from dehaze_zoo.data.sets import LAYOUTS, Layout

ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".part", ".z01", ".crdownload")
_MANY = 200  # folders and pictures looked at: a hint must not take minutes


def hint(layout: Layout, root: Path) -> str:
    """One line on what ``root`` seems to be and what to give instead; empty where nothing can be said."""
    return _above(root) or _one_part(layout, root) or _another(layout, root) or _deeper(layout, root) or renamed(root) or packed(root)


def packed(root: Path) -> str:
    """Archives, or parts of downloads, in ``root`` or one level below: named, since what is missing is likely in them."""
    found = [path.name for folder in (root, *subfolders(root)) for path in sorted(folder.glob("*")) if path.suffix.lower() in ARCHIVES]
    if not found:
        return ""
    return f"Not unpacked, or not wholly: {', '.join(found[:3])}{f' and {len(found) - 3} more' if len(found) > 3 else ''}."


def _above(root: Path) -> str:
    """``root`` is the hazy or the clear folder itself, or a folder inside it."""
    for folder in (root, root.parent):
        if folder.name.lower() in (*HAZY_FOLDERS, *CLEAR_FOLDERS) and next(pictures(folder), None):
            return f"{root} lies inside a set: give data.root={folder.parent}."
    return ""


def _one_part(layout: Layout, root: Path) -> str:
    return f"{root} is one part of the set by its name: give data.root={root.parent}." if told_by(layout, root) else ""


def _another(layout: Layout, root: Path) -> str:
    for other in LAYOUTS.values():
        own = set(other.marks) - set(layout.marks)
        place = next((p for p in places(other, root) if own & {*p.way, root.name.lower()}), None) if own else None
        if place is not None:
            return f"{place.hazy.parent} looks like {other.name}: use data={other.name}."
    return ""


def _deeper(layout: Layout, root: Path) -> str:
    place = next(places(layout, root, DEEPEST + 6), None)
    return f"{place.hazy.parent} lies too deep: give data.root={place.hazy.parents[1]}." if place and len(place.way) > DEEPEST else ""


def renamed(root: Path) -> str:
    """Two folders side by side whose pictures pair by their names, though the folders' own names say nothing."""
    for folder in (root, *subfolders(root)):
        inside = [path for path in subfolders(folder) if next(pictures(path), None)]
        for hazy, clear in islice(permutations(inside, 2), 12):
            stems = [path.stem for path in islice(pictures(hazy), _MANY)]
            clears = {path.stem for path in pictures(clear)}
            paired = sum(stem in clears or stem.split("_")[0] in clears for stem in stems)
            if 2 * paired >= len(stems) > 0 and not clears <= {*stems}:
                return f"Renamed? data=folder data.hazy={hazy} data.clear={clear} takes them as they are."
            if stems and clears == {*stems}:
                return f"{hazy.name} and {clear.name} pair by their names: data=folder data.hazy=DIR data.clear=DIR says which is which."
    return ""
