"""What is wrong with a data set on disk: counts, partners, sizes, damage, copies, strangers, leaks from training into test."""

from __future__ import annotations

import errno
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dehaze_zoo.data.examine import Facts, alike, examine_all
from dehaze_zoo.data.hints import packed, renamed
from dehaze_zoo.data.layouts import (
    CLEAR_FOLDERS,
    DEEPEST,
    HAZY_FOLDERS,
    SUFFIXES,
    NoPairsError,
    Pair,
    PairList,
    circular,
    find_pairs,
    find_pictures,
    hazy_folders,
    layout_of,
    pair_folders,
    pictures,
    subfolders,
)
from dehaze_zoo.data.sets import BORDER, Layout, Split, strangers

JUNK = ("thumbs.db", "desktop.ini")
_FEW = 3  # clear pictures without hazy ones, or a twentieth of them all: a loss, to be named; more may be still to come
_CIRCLE = "A link that leads back to itself, a circle: remove it."
Watch = Callable[[int, int], None]
"""Told how many of how many pictures have been read."""


@dataclass(frozen=True)
class Finding:
    kind: str
    """incomplete, missing_partner, size_mismatch, unreadable, duplicate, stranger or leak."""
    file: str
    what_to_do: str


@dataclass
class Part:
    """One split as it was found."""

    split: str
    published: Split
    found: PairList
    scenes: list[str]


@dataclass
class Diagnosis:
    set: str
    layout: str
    pairs: int
    """Pairs found (pictures, in an unpaired set)."""
    expected: int | None
    """Of the splits that were found, as published; None for the user's own."""
    problems: list[Finding]
    parts: list[Part] = field(default_factory=list)
    facts: dict[Path, Facts] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Nothing but, at most, parts that are not there."""
        return all(problem.kind == "incomplete" for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        splits = {part.split: {"pairs": len(part.found.pairs), "expected": part.published.pairs or None} for part in self.parts}
        sizes = Counter(f"{facts.size[1]}x{facts.size[0]}" for facts in self.facts.values() if facts.size)
        about = {"set": self.set, "layout": self.layout, "pairs": self.pairs, "expected": self.expected}
        about |= {"splits": splits, "sizes": dict(sizes.most_common(20)), "files": len(self.facts)}
        return {**about, "problems": [asdict(problem) for problem in self.problems]}


def diagnose(
    set_name: str, root: Path | None, hazy: Path | None = None, clear: Path | None = None, watch: Watch = lambda done, total: None
) -> Diagnosis:
    """Look at every file of a set below ``root``, or of the two folders ``hazy`` and ``clear``.

    Raises UsageError where nothing of the set is there, or more than one copy of it.
    """
    layout = layout_of(set_name)
    if not layout.paired and root is not None:
        return _unpaired(layout, root, watch)
    parts, absent = _parts(layout, root, hazy, clear)
    pairs = [pair for part in parts for pair in part.found.pairs]
    found = [part.found for part in parts]
    folders = list(dict.fromkeys(folder for f in found for folder in (*hazy_folders(f.hazy, f.clear), f.clear)))
    clears = {path for part in parts for path in (*part.found.lone, *(pair.clear for pair in part.found.pairs))}
    paths = sorted(clears | {pair.hazy for pair in pairs} | {problem.file for part in parts for problem in part.found.problems})
    facts = dict(zip(paths, _watched(examine_all(paths, [path in clears for path in paths]), len(paths), watch), strict=True))
    problems = [
        *(_too_few(layout, part, facts) for part in parts),
        *absent,
        *_partners(parts),
        *_sizes(pairs, facts),
        *_damage(facts),
        *_leaks(parts, facts),
        *_copies(pairs, clears, facts, parts),
        *_strangers(folders, root, facts),
    ]
    expected = sum(part.published.pairs for part in parts) or None
    shape = "; ".join(f"{part.split}: {_shape(part, root)}" for part in parts)
    return Diagnosis(set_name, shape, len(pairs), expected, [p for p in problems if p is not None], parts, facts)


def kinds(problems: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Findings by their kind, in the order in which kinds first appear."""
    found: dict[str, list[Finding]] = {}
    for problem in problems:
        found.setdefault(problem.kind, []).append(problem)
    return found


def _unpaired(layout: Layout, root: Path, watch: Watch) -> Diagnosis:
    paths = find_pictures(layout.name, root)
    facts = dict(zip(paths, _watched(examine_all(paths, [False] * len(paths)), len(paths), watch), strict=True))
    published = layout.splits["test"].pairs
    few = (
        [Finding("incomplete", str(root), f"{len(paths)} of {published} photographs; the rest: {layout.source}")]
        if len(paths) < published
        else []
    )
    problems = [*few, *_damage(facts), *_copies([], set(), facts, []), *_strangers(sorted({path.parent for path in paths}), root, facts)]
    return Diagnosis(layout.name, f"photographs without clear pictures in {paths[0].parent}", len(paths), published, problems, [], facts)


def _watched(results: Iterable[Facts], total: int, watch: Watch) -> Iterator[Facts]:
    for done, result in enumerate(results, 1):
        watch(done, total)
        yield result


def _parts(layout: Layout, root: Path | None, hazy: Path | None, clear: Path | None) -> tuple[list[Part], list[Finding]]:
    """The splits that are there, and those that are not."""
    if hazy is not None and clear is not None:
        own = pair_folders(hazy, clear)
        return [Part("all", Split(0, ()), own, _scenes(own.pairs))], []
    assert root is not None
    found: dict[str, PairList] = {}
    missing: dict[str, NoPairsError] = {}
    for name in layout.splits:
        try:
            found[name] = find_pairs(layout.name, root, name)
        except NoPairsError as error:
            missing[name] = error
    if not found:
        raise next(iter(reversed(missing.values())))
    likely = {_likely(layout, pairs, [n for n, other in found.items() if _same(pairs, other)]) for pairs in found.values()}
    parts = [Part(name, layout.splits[name], pairs, _scenes(pairs.pairs)) for name, pairs in found.items() if name in likely]
    say = "No {} pairs ({:,} published) are here: needed only if you {} them. {}"
    purpose = {"train": "train on", "val": "validate on", "test": "test on"}
    absent = [
        Finding("incomplete", str(root), say.format(name, split.pairs, purpose[name], packed(root)).strip())
        for name, split in layout.splits.items()
        if split.pairs and name not in likely
    ]
    taken = [folder for part in parts for folder in (part.found.hazy, part.found.clear)]
    for name in missing if not packed(root) else ():
        absent += _without_partners(layout, name, root, taken)
    return parts, absent


def _without_partners(layout: Layout, split: str, root: Path, taken: Sequence[Path], levels: int = DEEPEST) -> Iterator[Finding]:
    """Folders of pictures where this split's would lie, though it was not found: renamed ones, or one whose partner is not there."""
    for folder in subfolders(root) if levels else ():
        if folder.name.lower() in layout.splits[split].folders:
            for path in subfolders(folder):
                if path.name.lower() not in strangers(layout) and not {path, *path.parents} & {*taken} and next(pictures(path), None):
                    looked = f"{'|'.join((*layout.hazy, *HAZY_FOLDERS))} beside {'|'.join((*layout.clear, *CLEAR_FOLDERS))}"
                    said = (
                        f"Pictures where those of {split} would lie, but no pair of folders: looked for {looked}. {renamed(folder)}".strip()
                    )
                    yield Finding("missing_partner", str(path), said)
        elif folder.name.lower() not in strangers(layout):
            yield from _without_partners(layout, split, folder, taken, levels - 1)


def _same(one: PairList, other: PairList) -> bool:
    return (one.hazy, one.pairs[:1]) == (other.hazy, other.pairs[:1])


def _likely(layout: Layout, found: PairList, names: Sequence[str]) -> str:
    """Which of these splits the pairs are, where neither folders nor names tell: the smallest that may have as many; else the first."""
    large = [name for name in names if layout.splits[name].pairs >= len(found.pairs)]
    return min(large, key=lambda name: layout.splits[name].pairs, default=names[0])


def _scenes(pairs: Sequence[Pair]) -> list[str]:
    return sorted({pair.scene for pair in pairs}, key=lambda scene: (len(scene), scene))


def _too_few(layout: Layout, part: Part, facts: dict[Path, Facts]) -> Finding | None:
    count, published, scenes = len(part.found.pairs), part.published.pairs, part.published.scenes
    if not published or count == published:
        return None
    if count > published:
        said = f"{count:,} {part.split} pairs where the published set has {published:,}: another release, or copies among them."
        return Finding("stranger", str(part.found.hazy), said)
    said = f"A part of the set: {count:,} of {published:,} {part.split} pairs, scenes {spans(part.scenes) or 'none'}"
    said += f" ({len(part.scenes):,} of {scenes:,})." if scenes else "."
    if scenes and published % scenes == 0:
        each, have = published // scenes, Counter(pair.scene for pair in part.found.pairs)
        short = [scene for scene in part.scenes if have[scene] < each]
        said += f" Fewer than {each} hazy: {spans(short)}." if short else ""
    if _in_parts(part):
        said += f" {len(part.found.lone):,} clear pictures wait for their hazy ones."
    said += " " + (packed(part.found.hazy.parent) or f"The rest: {layout.source}")
    return Finding("incomplete", str(part.found.hazy), said + ". Figures on a part are not comparable with published ones.")


def _in_parts(part: Part) -> bool:
    """Many clear pictures have no hazy ones and no clear one is missing: a download in parts, not a loss."""
    lone, published = len(part.found.lone), part.published
    clears = len({pair.clear for pair in part.found.pairs}) + lone
    return len(part.found.pairs) < published.pairs and clears >= (published.scenes or published.pairs) and lone > max(_FEW, clears // 20)


def spans(names: Sequence[str], shown: int = 6) -> str:
    """Names in order, neighbouring numbers as 1400-1407."""
    runs: list[list[str]] = []
    for name in names:
        if runs and name.isdigit() and runs[-1][-1].isdigit() and int(name) == int(runs[-1][-1]) + 1:
            runs[-1].append(name)
        else:
            runs.append([name])
    said = [run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ", ".join(said[:shown]) + (f" and {len(said) - shown} more runs" if len(said) > shown else "")


def _partners(parts: Sequence[Part]) -> Iterator[Finding]:
    told: set[Path] = set()
    for part in parts:
        for problem in part.found.problems:
            if problem.file not in told:
                yield Finding(
                    "missing_partner", str(problem.file), f"No clear picture in {part.found.clear}: add it, or move this one away."
                )
        in_parts = _in_parts(part)
        for path in part.found.lone:
            if path not in told and in_parts:
                yield Finding("incomplete", str(path), f"Waits for its hazy pictures in {part.found.hazy}.")
            elif path not in told:
                yield Finding("missing_partner", str(path), f"No hazy picture in {part.found.hazy}: add it, or move this one away.")
        told |= {problem.file for problem in part.found.problems} | {*part.found.lone}


def _sizes(pairs: Sequence[Pair], facts: dict[Path, Facts]) -> Iterator[Finding]:
    for pair in pairs:
        hazy, clear = facts[pair.hazy].size, facts[pair.clear].size
        if hazy and clear and hazy != clear and (hazy, clear) != BORDER:
            sizes = " and ".join(f"{size[1]}x{size[0]}" for size in (hazy, clear))
            yield Finding("size_mismatch", str(pair.hazy), f"It and {pair.clear} are {sizes}: get both anew from one copy of the set.")


def _damage(facts: dict[Path, Facts]) -> Iterator[Finding]:
    for path, fact in facts.items():
        if fact.why:
            yield Finding("unreadable", str(path), f"It {fact.why}: copy or unpack it again.")


def _copies(pairs: Sequence[Pair], clears: set[Path], facts: dict[Path, Facts], parts: Sequence[Part]) -> Iterator[Finding]:
    """Files of equal content; not the clear pictures of one scene, which the IN/GT copies repeat under every hazy picture's name."""
    repeated = {pair.clear for pair in pairs if pair.clear.stem == pair.hazy.stem}
    split = {pair.clear: part.split for part in parts for pair in part.found.pairs}
    groups: defaultdict[bytes, list[Path]] = defaultdict(list)
    for path, fact in facts.items():
        if fact.digest and fact.length:
            groups[fact.digest].append(path)
    for members in groups.values():
        first, *others = sorted(members, key=lambda path: (path in clears, path))
        for path in others:
            in_two_splits = len({split.get(first), split.get(path), None}) == 3  # a leak
            if first in clears and (in_two_splits or {first, path} <= repeated):
                continue
            yield Finding("duplicate", str(path), f"The same bytes as {first}: one of them has the wrong content; get both anew.")


def _leaks(parts: Sequence[Part], facts: dict[Path, Facts]) -> Iterator[Finding]:
    """Scenes of test or validation that training shows too."""
    train = next((part for part in parts if part.split == "train"), None)
    if train is None:
        return
    seen = _sketched(train, facts)
    for part in parts:
        judged = _sketched(part, facts) if part is not train else []
        leaks = alike([facts[path].sketch for path in seen], [facts[path].sketch for path in judged])
        for j, i in sorted({j: i for i, j in reversed(leaks)}.items()):
            said = f"Training shows this scene of {part.split} too, as {seen[i]}: take it out of one of them, or figures flatter."
            yield Finding("leak", str(judged[j]), said)


def _sketched(part: Part, facts: dict[Path, Facts]) -> list[Path]:
    """A clear picture for each content."""
    paths = sorted({pair.clear for pair in part.found.pairs if facts[pair.clear].sketch})
    return list({facts[path].digest: path for path in reversed(paths)}.values())[::-1]


def _strangers(folders: Sequence[Path], root: Path | None, facts: dict[Path, Facts]) -> Iterator[Finding]:
    for path, why in dict(item for folder in folders for item in _unknown(folder, facts, (os.path.realpath(folder),))).items():
        yield Finding("stranger", str(path), why)
    inside = set(folders)
    for folder in sorted({folder.parent for folder in folders} | ({root} if root else set())):
        for path in sorted(folder.iterdir()) if folder not in inside else ():
            if path.is_file() and (path.name.startswith(".") or path.name.lower() in JUNK):
                yield Finding("stranger", str(path), "A leftover of the operating system: delete it.")
            elif path.is_symlink() and _leads_up(path):  # others may lead to what is not mounted, of other sets
                yield Finding("stranger", str(path), _CIRCLE)


def _unknown(folder: Path, facts: dict[Path, Facts], above: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.iterdir()):
        real = os.path.realpath(path)
        if path.is_symlink() and (why := _astray(path)):
            yield path, why
        elif path.is_dir():
            if circular(real, above):
                yield path, "A link to a folder that it lies in, a circle: remove it."
            elif path not in facts and not path.name.startswith("."):  # .dehaze_zoo among them
                yield from _unknown(path, facts, (*above, real))
        elif path.name.startswith(".") or path.name.lower() in JUNK:
            yield path, "A leftover of the operating system: delete it."
        elif path.suffix.lower() not in SUFFIXES:
            yield path, "Not a picture: move it out of the pictures' folder."
        elif path not in facts:
            yield path, "A picture whose name belongs to no pair: move it away."


def _leads_up(link: Path) -> bool:
    """Whether a link leads back to itself or to a folder that it lies in."""
    return _astray(link) == _CIRCLE or circular(os.path.realpath(link), (os.path.realpath(link.parent),))


def _astray(link: Path) -> str:
    """Why a link leads to nothing; empty where it does not."""
    try:
        link.stat()
    except OSError as error:
        return _CIRCLE if error.errno == errno.ELOOP else "A link that leads nowhere: remove it, or bring back what it points to."
    return ""


def _shape(part: Part, root: Path | None) -> str:
    found = part.found
    where = found.hazy if root is None else Path(os.path.relpath(found.hazy, root))
    how = f"{where} beside {found.clear.name}" if found.hazy != found.clear else f"{where}, both kinds in one folder"
    return f"{how}, {found.pairs[0].hazy.name} -> {found.pairs[0].clear.name}" if found.pairs else how
