"""What predict is asked to restore: a file, a folder with all below it, a glob; pictures and videos by their suffixes."""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dehaze_zoo.data.images import SUFFIXES
from dehaze_zoo.errors import UsageError

VIDEO_SUFFIXES = frozenset([".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv", ".3gp"])


@dataclass(frozen=True)
class Sources:
    """Files, sorted, and the folder that their places in the output are counted from."""

    files: tuple[Path, ...]
    root: Path


def find_sources(source: str, leave_out: Sequence[Path] = ()) -> Sources:
    """The file itself, every picture and video below a folder, or what a glob matches (folders among it with all below them).

    A name that exists is never a glob. Hidden files below folders do not count, nor those in a folder of ``leave_out`` below the
    input's. Raises UsageError where there is nothing.
    """
    path = Path(source)
    if path.is_dir():
        found, root = _below(path), path
    elif path.exists():
        return Sources((path,), path.parent)
    else:
        matches = [Path(match) for match in sorted(glob.glob(source, recursive=True))]
        plain = {match for match in matches if not match.is_dir() and match.suffix.lower() in SUFFIXES.keys() | VIDEO_SUFFIXES}
        found = sorted(plain.union(*(_below(match) for match in matches if match.is_dir())))
        root = _fixed_part(path)
    others = [place for place in (folder.resolve() for folder in leave_out) if place.is_dir() and root.resolve() in place.parents]
    found = [file for file in found if not any(file.resolve().is_relative_to(other) for other in others)]
    if not found:
        known = " ".join(sorted(SUFFIXES))
        raise UsageError(f"input={source}: no pictures or videos there. Pictures are files named {known}.")
    return Sources(tuple(found), root)


def check_output(root: Path, output: Path, overwrite: bool) -> None:
    """Makes ``output``. Raises UsageError where that is not possible, or where it is the input's own folder without ``overwrite``."""
    if output.resolve() == root.resolve() and not overwrite:
        raise UsageError(f"output={output} is the folder of the input, which would be overwritten. Name another, or say overwrite=true.")
    if output.exists() and not output.is_dir():
        raise UsageError(f"output={output} is a file. It must be a folder; each result keeps its picture's name.")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"output={output} cannot be made: {error.strerror}") from error


class Done:
    """What earlier runs left in an output folder, by its report.json: which results stand, and which files are ours.

    A result stands when it was written since this ``recipe`` was first used there, after its input last changed, and did not fail; one
    in its input's own place when it is as we left it. A file is ours while it is as we left it.
    """

    def __init__(self, output: Path, recipe: Mapping[str, Any], redo: bool, overwrite: bool) -> None:
        report = _report(output)
        same = report.get("recipe") == recipe and not redo
        self.since: int | None = report.get("since") if same else None
        self.failed = {entry["file"] for entry in report.get("failed", ())} if same else set()
        self.output, self.overwrite = output, overwrite
        self.files: dict[str, list[int]] = dict(report.get("files", {}))
        """Ours: name below the output: size and time of change (ns)."""
        self.beside: set[str] = set(report.get("beside", ()))
        """Those of them that are no results: comparisons and strips."""

    def wrote(self, target: Path, beside: bool = False) -> None:
        """Counts ``target``, just written, among ours."""
        self.files[self._name(target)] = _stamp(target)
        (self.beside.add if beside else self.beside.discard)(self._name(target))

    def is_beside(self, path: Path, target: Path) -> bool:
        """Whether ``path``, found in the input, is no picture to restore but a comparison or strip that we put into its folder."""
        return self._name(target) in self.beside and self._is_ours(target) and target.samefile(path)

    def stands(self, path: Path, target: Path) -> bool:
        """Whether ``target`` is the finished result of ``path``."""
        if self.since is None or not target.is_file() or target.stat().st_mtime_ns < max(self.since, path.stat().st_mtime_ns):
            return False
        return self._is_ours(target) if target.samefile(path) else str(path) not in self.failed

    def is_a_stranger(self, target: Path) -> bool:
        """Whether a file of somebody else's stands at ``target``."""
        return not self.overwrite and (target.exists() or target.is_symlink()) and not self._is_ours(target)

    def _is_ours(self, target: Path) -> bool:
        return target.is_file() and self.files.get(self._name(target)) == _stamp(target)

    def _name(self, target: Path) -> str:
        return target.relative_to(self.output).as_posix()


def _stamp(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]


def _report(output: Path) -> dict[str, Any]:
    try:
        report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    sound = isinstance(report, dict) and isinstance(report.get("failed"), list) and isinstance(report.get("files"), dict)
    return report if sound else {}


def _below(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES.keys() | VIDEO_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _fixed_part(pattern: Path) -> Path:
    """The folders of a glob before its first wildcard."""
    parts = pattern.parts
    wild = next(i for i, part in enumerate((*parts, "*")) if glob.has_magic(part))
    return Path(*parts[: min(wild, len(parts) - 1)])
