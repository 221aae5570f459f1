"""What a run folder knows of its run, so that another start can go on with it: run.json, and the search for it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from dehaze_zoo.errors import UsageError
from dehaze_zoo.files import written_aside
from dehaze_zoo.lock import FILE as LOCK
from dehaze_zoo.lock import owner
from dehaze_zoo.made import leaves
from dehaze_zoo.training.saving import FOLDER, sound_checkpoint

if TYPE_CHECKING:
    from omegaconf import DictConfig

_NOT_THE_RECIPE = re.compile(
    r"(name|run_dir|resume|logger|plan|verb|launcher|sweep|replay|after)(\..*)?|data\.(sets\.[\w-]+\.)?num_workers"
)
_TIME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")


@dataclass
class Run:
    """A training and how far it is. ``recipe``: its settings by dotted key, less those of _NOT_THE_RECIPE."""

    recipe: dict[str, Any]
    finished: bool = False
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()[:16]

    def write(self, run_dir: Path) -> None:
        """Writes run_dir/run.json, aside and renamed."""
        with written_aside(run_dir / "run.json") as aside:
            aside.write_text(json.dumps({"fingerprint": self.fingerprint, **asdict(self)}, indent=1), encoding="utf-8")


def run_of(cfg: DictConfig) -> Run:
    """The run that a config asks for. Files within its own folder (of the runs before it) are named from there, wherever that is."""
    own = f"{cfg.run_dir}/"
    settings = {
        key: f"run_dir/{value[len(own) :]}" if isinstance(value, str) and value.startswith(own) else value
        for key, value in leaves(OmegaConf.to_container(cfg, resolve=True))
    }
    return Run(json.loads(json.dumps(_recipe(settings))))


def _recipe(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that tell runs apart."""
    return {key: value for key, value in settings.items() if not _NOT_THE_RECIPE.fullmatch(key)}


def read_run(run_dir: Path) -> Run | None:
    """The run in a folder, None where there is none that can be read."""
    try:
        stored = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        return Run(_recipe(stored["recipe"]), stored["finished"], stored["figures"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def differences(there: Run, now: Run) -> list[str]:
    """The settings in which two runs differ, in words."""
    keys = [key for key in sorted({*there.recipe, *now.recipe}) if there.recipe.get(key) != now.recipe.get(key)]
    return [f"{key}: {there.recipe.get(key)} there, {now.recipe.get(key)} now" for key in keys]


def check_folder(cfg: DictConfig, run_dir: Path) -> None:
    """Raises UsageError for a folder that holds a training which this one would overwrite, or does not go on with."""
    if cfg.resume == "auto":
        find_run(run_of(cfg), run_dir)
    elif (run_dir / FOLDER / "last.ckpt").exists():
        raise UsageError(f"{run_dir} already holds a training. resume=auto goes on with it; or choose another run_dir.")


def find_run(run: Run, run_dir: Path, say: bool = False) -> Path:
    """The folder to go on in under resume=auto.

    ``run_dir`` when it was given or holds a run; where it is the default (outputs/<verb>/<name>/<time>), the newest folder under
    outputs/<verb> with an unfinished run of the same fingerprint and a whole checkpoint (its own, or of a run before it), in which nobody
    trains. ``say``: prints which it passes over since somebody does. Raises UsageError for a run of another recipe.
    """
    there = read_run(run_dir)
    if there is not None:
        if there.fingerprint != run.fingerprint:
            apart = "; ".join(differences(there, run)[:3])
            raise UsageError(f"{run_dir} holds a run of another recipe ({apart}). Choose another run_dir, or repeat its settings.")
        return run_dir
    if not is_default_folder(run_dir):
        return run_dir
    folders = sorted(run_dir.parents[1].glob("*/*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in (path.parent for path in folders):
        other = read_run(folder)
        parts = [folder, *(path.parent for path in sorted(folder.glob(f"*/{FOLDER}")))]
        if other is None or other.finished or other.fingerprint != run.fingerprint or not any(map(sound_checkpoint, parts)):
            continue
        found = [(part, holder) for part in parts if (holder := owner(part)) is not None]
        if not found:
            return folder
        part, holder = found[0]
        if say:
            print(
                f"passed over: {folder}, in which process {holder['pid']} on {holder['host']} trains since {holder['since']}. "
                f"If there is no such process any more, delete {part / LOCK}.",
                flush=True,
            )
    return run_dir


def is_default_folder(run_dir: Path) -> bool:
    """Whether a folder looks like outputs/<verb>/<name>/<time>, which nobody types."""
    return len(run_dir.parents) > 2 and run_dir.parents[2].name == "outputs" and _TIME.fullmatch(run_dir.name) is not None
