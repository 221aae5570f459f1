"""Restoring a file or a folder of pictures, and the report of what could not be."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from torch import nn

from dehaze_zoo.data.grid import picture_grid
from dehaze_zoo.data.images import SUFFIXES, Floats, Picture, read_picture, write_picture
from dehaze_zoo.errors import UsageError
from dehaze_zoo.inference.reporting import ahead, failure, progress_bar, say_failures, write_json
from dehaze_zoo.inference.restore import choose_device, load_network, restore_pixels
from dehaze_zoo.outcome import Outcome

if TYPE_CHECKING:
    from omegaconf import DictConfig


def predict(cfg: DictConfig, run_dir: Path) -> Outcome:
    """The verb: restores ``cfg.input`` into ``cfg.output`` and writes report.json there; code 1 where a picture failed.

    Raises UsageError for an input without pictures and for an output that would overwrite the input.
    """
    source, output = Path(cfg.input), Path(cfg.output)
    folder = source if source.is_dir() else source.parent
    check_output(folder, output)
    files = find_pictures(source, leave_out=(output, run_dir))
    design = dict(cfg.model.network)
    name = str(design.pop("name"))
    network = load_network(name, cfg.checkpoint, choose_device(cfg.trainer.accelerator), **design)
    failed = restore_files(network, name, files, folder, output, compare=cfg.compare)
    done = len(files) - len(failed)
    write_json(output / "report.json", {"model": name, "done": done, "failed": failed})
    say_failures(failed)
    Console(soft_wrap=True).print(f"{done} of {len(files)} pictures restored by {name}: {escape(str(output.absolute()))}", highlight=False)
    return Outcome(int(bool(failed)), {"done": done, "failed": len(failed)})


def find_pictures(source: Path, leave_out: Sequence[Path] = ()) -> list[Path]:
    """The file itself, or every picture below a folder by its suffix, sorted; hidden ones and those below ``leave_out`` are not.

    Raises UsageError where there is none.
    """
    if not source.is_dir():
        return [source]
    others = [place.resolve() for place in leave_out if place.resolve() != source.resolve()]
    found = [
        path
        for path in sorted(source.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
        and not any(path.resolve().is_relative_to(other) for other in others)
    ]
    if not found:
        raise UsageError(f"input={source}: no pictures in this folder. It should hold files named {' '.join(sorted(SUFFIXES))}.")
    return found


def check_output(folder: Path, output: Path) -> None:
    """Makes ``output``. Raises UsageError where that is not possible, or where it is the input's ``folder``."""
    if output.resolve() == folder.resolve():
        raise UsageError(f"output={output} is the folder of the input, which would be overwritten. Name another folder.")
    if output.exists() and not output.is_dir():
        raise UsageError(f"output={output} is a file. It must be a folder; each result keeps its picture's name.")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"output={output} cannot be made: {error.strerror}") from error


def restore_files(
    network: nn.Module, name: str, files: Sequence[Path], folder: Path, output: Path, compare: bool = False
) -> list[dict[str, str]]:
    """Restores each file into its place below ``output``; returns those that failed, as {"file", "why"}.

    The network never waits for a disk: the next picture is read and the last one written meanwhile. With ``compare``, hazy and
    restored stand side by side in <stem>_compare.png.
    """
    failed: list[dict[str, str]] = []
    taken = {path.relative_to(folder) for path in files}
    pending: list[tuple[Path, Future[None]]] = []

    def settle(left: int) -> None:
        while len(pending) > left:
            path, written = pending.pop(0)
            if (error := written.exception()) is not None:
                failed.append(failure(path, error))

    with progress_bar() as bar, ThreadPoolExecutor(1, "write") as writer:
        task = bar.add_task(f"predict {name}", total=len(files))
        for path, read in ahead(read_picture, files, depth=1):
            try:
                picture = read.result()
                restored = restore_pixels(network, picture.pixels)
                place = path.relative_to(folder)
                beside = _compare_name(place, taken) if compare else None
                pending.append((path, writer.submit(_write, output, place, picture, restored, name, beside)))
            except Exception as error:  # whatever one picture does to a decoder or a network, the others go on
                failed.append(failure(path, error))
            settle(left=1)
            bar.advance(task)
        settle(left=0)
    return sorted(failed, key=lambda entry: entry["file"])


def _compare_name(place: Path, taken: set[Path]) -> Path:
    """<stem>_compare.png, or with the suffix in the stem where another picture holds that name."""
    beside = place.with_name(f"{place.stem}_compare.png")
    if beside in taken:
        beside = place.with_name(f"{place.name}_compare.png")
    taken.add(beside)
    return beside


def _write(output: Path, place: Path, picture: Picture, restored: Floats, name: str, beside: Path | None) -> None:
    write_picture(output / place, restored, like=picture)
    if beside is not None:
        grid = picture_grid([[("hazy", picture.pixels), (name, restored)]], widest=max(picture.pixels.shape[1], 1))
        write_picture(output / beside, grid / 255)
