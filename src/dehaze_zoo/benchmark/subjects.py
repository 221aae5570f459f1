"""Who is compared, and on what: networks and finished pictures; pairs and photographs without a clear one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dehaze_zoo.benchmark.keys import files_hash, key_of, weights_hash
from dehaze_zoo.data.images import read_rgb
from dehaze_zoo.data.layouts import pictures
from dehaze_zoo.data.pairs import JudgedPairs, as_tensor
from dehaze_zoo.data.synthetic import ScenePairs
from dehaze_zoo.errors import ImageError, UsageError, near_misses
from dehaze_zoo.inference.restore import load_network, restore

PICTURES = "results"
"""models=[results:LABEL] are finished pictures."""


@dataclass(frozen=True)
class Member:
    """One set of weights of a method."""

    seed: int | None
    checkpoint: Path | None
    design: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A network under a label, with the weights of one or several trainings; or finished pictures (``folder``)."""

    label: str
    model: str
    members: tuple[Member, ...] = (Member(None, None),)
    folder: Path | None = None

    def open(self, member: Member, device: str) -> Restorer:
        """Raises UsageError where the weights do not fit or there are none."""
        if self.folder is not None:
            return FinishedPictures(self.folder)
        return Network(self.model, member, device)


class Restorer:
    """What makes a restored picture of a pair's hazy one; ``recipe`` tells it from others."""

    recipe: dict[str, Any]

    def __call__(self, hazy: Tensor, image: str) -> Tensor:
        """(1, 3, H, W) in and out, in [0, 1]."""
        raise AssertionError("every Restorer has its own")


class Network(Restorer):
    """A network on a device."""

    def __init__(self, model: str, member: Member, device: str) -> None:
        self.module: nn.Module = load_network(model, member.checkpoint, device, **member.design)
        self.model, self.device = model, torch.device(device)
        self.recipe = {"model": model, "design": member.design, "weights": weights_hash(self.module), "device": self.device.type}

    def __call__(self, hazy: Tensor, image: str) -> Tensor:
        return restore(self.module, hazy.to(self.device))


class FinishedPictures(Restorer):
    """Pictures that someone else's program left, found by the hazy picture's name whatever the suffix."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, list[Path]] = {}
        for file in sorted(pictures(folder)):
            self.files.setdefault(file.relative_to(folder).with_suffix("").as_posix(), []).append(file)
        if not self.files:
            raise UsageError(f"{folder}: no pictures in this folder. It should hold one for each hazy picture, of the same name.")
        self.folder = folder
        every = [(name, file) for name, files in self.files.items() for file in files]
        self.recipe = {"pictures": files_hash(every)}

    def __call__(self, hazy: Tensor, image: str) -> Tensor:
        found = self.files.get(Path(image).with_suffix("").as_posix(), [])
        if len(found) != 1:
            why = "has no picture of this name" if not found else f"has several of this name: {', '.join(f.name for f in found[:3])}"
            raise ImageError(image, f"{self.folder} {why}", "Each hazy picture needs exactly one.")
        restored = as_tensor(read_rgb(found[0]))[None]
        if restored.shape != hazy.shape:
            sizes = " and ".join(f"{p.shape[-1]}x{p.shape[-2]}" for p in (restored, hazy))
            raise ImageError(found[0], f"it and the hazy picture differ in size: {sizes}", "Both must show the same view.")
        return restored


def methods_of(entries: Sequence[str], checkpoints: Mapping[str, str], results: Mapping[str, str], known: Sequence[str]) -> list[Method]:
    """The methods that ``models=[...]`` names: a network; NETWORK:LABEL, the same under a label of one's own; results:LABEL, pictures.

    ``checkpoints`` and ``results`` are by label. A checkpoint that is a folder of runs gives a member for each. Raises UsageError for an
    unknown network, a label twice, a seed twice, results without their folder, and for checkpoints or results that nobody asked for.
    """
    methods: dict[str, Method] = {}
    for entry in map(str, entries):
        kind, colon, label = entry.partition(":")
        label = label if colon else kind
        if not label or label in methods:
            raise UsageError(f"models: {label or entry!r} stands there twice.\nGive one of them a label of its own: {kind}:LABEL.")
        if kind == PICTURES:
            if label not in results:
                raise UsageError(f"models: {entry} needs its folder of pictures: results.{label}=DIR.")
            methods[label] = Method(label, label, folder=Path(results[label]))
            continue
        if kind not in known:
            raise UsageError(f"models: no model is called {kind!r}. {near_misses(kind, known)}\nFinished pictures join by results:NAME.")
        given = checkpoints.get(label)
        methods[label] = Method(label, kind, _members(Path(given), kind) if given is not None else (Member(None, None),))
    if not methods:
        raise UsageError("models=[] names nobody. Give some: models=[dcp,gunet_t].")
    for key, given_for in (("checkpoints", checkpoints), ("results", results)):
        for label in given_for:
            if label not in methods or (key == "results") != (methods[label].folder is not None):
                raise UsageError(f"{key}.{label}: models has no such entry. {near_misses(str(label), methods)}")
    return list(methods.values())


def _members(path: Path, model: str) -> tuple[Member, ...]:
    if not path.is_dir():
        return (Member(None, path, _design(path, model)),)
    files = [file for file in sorted(path.rglob("checkpoints/best.ckpt")) if not _part_of_another(file.parents[1], path)]
    if not files:
        raise UsageError(
            f"{path}: no run in this folder (RUN/checkpoints/best.ckpt). Give a file, or the folder of runs with several seeds."
        )
    members: dict[int, Member] = {}
    for number, file in enumerate(files):
        seed = _config(file).get("seed", number)
        if seed in members:
            raise UsageError(
                f"{path}: two runs have the seed {seed}, {members[seed].checkpoint} and {file}.\n"
                "It should hold one training with several seeds. Move one away, or compare them as NETWORK:LABEL, checkpoints.LABEL=FILE."
            )
        members[seed] = Member(seed, file, _design(file, model))
    return tuple(members.values())


def _part_of_another(run: Path, top: Path) -> bool:
    """Whether the run lies in a run's folder below ``top`` (or ``top``), which had it done first: its teacher, or what it starts from."""
    above = [folder for folder in run.parents if folder.is_relative_to(top)]
    return any((folder / name).exists() for folder in above for name in ("config.yaml", "checkpoints"))


def _design(checkpoint: Path, model: str) -> dict[str, Any]:
    """What the run that left this checkpoint changed in the network's design."""
    network = dict((_config(checkpoint).get("model") or {}).get("network") or {})
    return {key: value for key, value in network.items() if key != "name"} if network.get("name") == model else {}


def _config(checkpoint: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    file = checkpoint.parent.parent / "config.yaml"
    if checkpoint.parent.name != "checkpoints" or not file.is_file():
        return {}
    held = OmegaConf.to_container(OmegaConf.load(file))
    return {str(key): value for key, value in held.items()} if isinstance(held, dict) else {}


@dataclass(frozen=True)
class JudgedSet:
    """Pictures by number, with what is known of them before they are read."""

    label: str
    pairs: Any
    """Items {"hazy", "clear"} by number; "clear" is missing where ``paired`` is False."""
    images: dict[str, int]
    """Name to number, of those that are judged."""
    scenes: dict[str, str]
    """Name to scene."""
    manifest: str
    """A hash of the names and contents of all."""
    paired: bool = True
    strays: tuple[int, ...] = ()
    """Numbers of those that cannot be paired: reading one raises its ImageError."""


def judged_set(label: str, pairs: Any, about: Mapping[str, Any], limit: int | None) -> JudgedSet:
    """A paired set; ``about``: what made pictures depend on besides the code. ``limit``: that many at most, spread evenly."""
    if isinstance(pairs, JudgedPairs):
        names, scenes = [pair.name for pair in pairs.pairs], [pair.scene for pair in pairs.pairs]
        manifest = files_hash((pair.name, file) for pair in pairs.pairs for file in (pair.hazy, pair.clear))
    elif isinstance(pairs, ScenePairs):
        names = scenes = [f"{label}_{number:04d}.png" for number in range(len(pairs))]
        manifest = key_of(dict(about))
    else:  # whatever a set does to its files, the pictures themselves tell
        names, manifest = _by_content(label, pairs)
        scenes = names
    strays = tuple(range(len(names), len(pairs))) if limit is None else ()
    return JudgedSet(label, pairs, spread(names, limit), dict(zip(names, scenes, strict=True)), manifest, True, strays)


def _by_content(label: str, pairs: Any) -> tuple[list[str], str]:
    """Names and a hash of all pictures, each read once; one that cannot be read counts with its number (it is reported when judged)."""

    def read(number: int) -> tuple[str, bytes]:
        try:
            sample = pairs[number]
        except ImageError:
            return f"{label}_{number:04d}", b"?"
        digest = hashlib.sha256()
        for kind in ("hazy", "clear"):
            digest.update(sample[kind].contiguous().numpy())
        return str(sample["name"]), digest.digest()

    with ThreadPoolExecutor() as threads:
        found = list(threads.map(read, range(len(pairs))))
    return [name for name, _ in found], key_of({"pictures": [[name, digest.hex()] for name, digest in found]})


def photographs(label: str, folder: Path, files: Sequence[Path], limit: int | None) -> JudgedSet:
    """Hazy photographs without clear ones, named by their place below ``folder``. Raises UsageError where there are none."""
    if not files:
        raise UsageError(f"roots.{label}={folder}: no pictures in this folder.")
    names = [Path(os.path.relpath(file, folder)).as_posix() for file in files]
    manifest = files_hash(zip(names, files, strict=True))
    return JudgedSet(label, Photographs(files), spread(names, limit), {name: name for name in names}, manifest, paired=False)


class Photographs:
    """Items {"hazy": (3, H, W)} by number."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {"hazy": as_tensor(read_rgb(self.files[number]))}


def spread(names: Sequence[str], limit: int | None) -> dict[str, int]:
    """At most ``limit`` of the names, evenly spread, and their numbers; all for None."""
    count = len(names) if limit is None else min(limit, len(names))
    return {names[i * len(names) // count]: i * len(names) // count for i in range(count)}
