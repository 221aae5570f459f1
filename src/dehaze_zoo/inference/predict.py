"""Restoring files and folders of pictures and videos, and the report of what could not be."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.markup import escape
from torch import nn

from dehaze_zoo.checkpoints.shipped import shipped_weights
from dehaze_zoo.data.grid import picture_grid
from dehaze_zoo.data.images import MAX_PIXELS, SUFFIXES, Array, Picture, encode_picture, read_picture, write_picture
from dehaze_zoo.errors import ImageError, UsageError
from dehaze_zoo.inference.alpha import picture_strip, use_alpha
from dehaze_zoo.inference.deploy import Form, deploy
from dehaze_zoo.inference.reporting import ahead, failure, progress_bar, say_failures, write_json
from dehaze_zoo.inference.restore import choose_device, load_network
from dehaze_zoo.inference.sources import VIDEO_SUFFIXES, Done, Sources, check_output, find_sources
from dehaze_zoo.inference.tiling import restore_picture, tile_side, tiling_of
from dehaze_zoo.inference.video import restore_video
from dehaze_zoo.outcome import Outcome

if TYPE_CHECKING:
    from omegaconf import DictConfig

SAVED_EVERY = 2.0
"""Seconds after which report.json is written anew, so that little of what an interrupted run did is unknown to the next."""
NOT_OF_VIDEOS = "compare and strips of alpha are made for pictures, not for videos"


@dataclass
class Run:
    """What a run over many files found, and how it restores."""

    form: Form
    name: str
    output: Path
    compare: bool = False
    tile: int | str | None = "auto"
    max_pixels: int = MAX_PIXELS
    alphas: Sequence[float] = ()
    """RIDCP's, shown side by side in <stem>_alpha.png."""
    failed: list[dict[str, str]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)
    in_network: float = 0.0
    """Seconds in the network's own forward; cutting tiles, rounding and files are not its."""
    tried: int = 0
    """Files."""

    def fail(self, path: Path, error: BaseException) -> None:
        self.failed.append(failure(path, error))

    def note(self, path: Path, what: str) -> None:
        entry = {"file": str(path), "note": what}
        if entry not in self.notes[-1:]:  # frame after frame
            self.notes.append(entry)

    def restore(self, path: Path, picture: Picture, left: int = 0) -> Array:
        """The restored picture (or frame) of ``path`` as stored; ``left`` more follow, which the form may prepare for."""
        if SUFFIXES.get(picture.suffix, picture.format) != picture.format:
            self.note(path, f"is a {picture.format} named {picture.suffix}; kept so")
        start = time.perf_counter()
        network = self.form.network
        side = tile_side(network, picture.size, self.tile)
        if side is not None:
            caveat = tiling_of(network).caveat
            self.note(path, f"in tiles of {side} pixels" + (f", which differ from the whole: {caveat}" if caveat else ""))
        with _timed(network) as forwards:
            restored = restore_picture(network, picture, side)
        self.in_network += sum(forwards)
        self.form.consider(time.perf_counter() - start, left, picture, side)
        return restored


@contextmanager
def _timed(network: nn.Module) -> Iterator[list[float]]:
    """The seconds of each forward of ``network`` meanwhile."""
    begun, seconds = [0.0], list[float]()

    def begin(*_: Any) -> None:
        begun[0] = time.perf_counter()

    def end(*_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun[0])

    with network.register_forward_pre_hook(begin), network.register_forward_hook(end):
        yield seconds


def predict(cfg: DictConfig, run_dir: Path) -> Outcome:
    """The verb: restores ``cfg.input`` into ``cfg.output`` and writes report.json there; code 1 where something failed.

    Raises UsageError for an input without pictures and for an output that would overwrite the input.
    """
    design = dict(cfg.model.network)
    name = str(design.pop("name"))
    piped = "-" in (cfg.input, cfg.output)
    if piped and (cfg.compare or (cfg.input != "-" and not Path(cfg.input).is_file())):
        raise UsageError("output=- takes one picture (input=FILE or input=-), without compare. Name a folder for more.")
    output = run_dir if cfg.output == "-" else Path(cfg.output)
    sources = Sources((), Path()) if cfg.input == "-" else find_sources(str(cfg.input), leave_out=(output, run_dir))
    if cfg.output != "-":
        check_output(sources.root if sources.files else output / "stdin", output, cfg.overwrite)
    network = load_network(name, cfg.checkpoint, choose_device(cfg.trainer.accelerator), **design)
    alphas = use_alpha(network, cfg.alpha)
    if piped and alphas:
        raise UsageError("output=- takes one alpha; a strip of several needs an output folder.")
    tile_side(network, (1, 1), cfg.tile)  # raises for a wrong one, once and not for each picture
    run = Run(deploy(network, cfg.optimize), name, output, cfg.compare, cfg.tile, cfg.max_pixels, alphas)
    if piped:
        return _through_pipe(run, cfg.input, cfg.output)
    return _through_folder(run, sources, _recipe(cfg), cfg.redo, cfg.overwrite)


def _through_folder(run: Run, sources: Sources, recipe: dict[str, Any], redo: bool, overwrite: bool) -> Outcome:
    start = saved = time.perf_counter()
    report, place = run.output / "report.json", {path: run.output / path.relative_to(sources.root) for path in sources.files}
    done = Done(run.output, recipe, redo, overwrite)
    files = [path for path in sources.files if not done.is_beside(path, place[path])]
    todo = [path for path in files if not done.stands(path, place[path])]
    about: dict[str, Any] = {"model": run.name, "recipe": recipe, "since": done.since}

    def content() -> dict[str, Any]:
        skipped = len(files) - len(todo)
        found = {"done": skipped + run.tried - len({entry["file"] for entry in run.failed}), "skipped": skipped}
        seconds = time.perf_counter() - start
        figures = {"seconds": round(seconds, 3), "in_network": round(run.in_network / seconds, 3), **run.form.report()}
        ours = {"files": dict(done.files), "beside": sorted(done.beside)}
        return {**about, **found, "failed": run.failed, "notes": run.notes, **figures, **ours}

    def save(every: float = SAVED_EVERY) -> None:
        nonlocal saved
        if time.perf_counter() - saved >= every:
            with suppress(ImageError):  # which the last report says
                write_json(report, content())
            saved = time.perf_counter()

    if done.since is None:  # the file's own clock: what is written after this report was made with this recipe
        _write_report(report, content())
        about["since"] = report.stat().st_mtime_ns if report.is_file() else None
    try:
        restore_files(run, todo, place, done, save)
    except BaseException:  # interrupted: what is done stays known
        save(every=0)
        raise
    about_run = content()
    written = _write_report(report, about_run)
    say_failures(run.failed)
    films = any(path.suffix.lower() in VIDEO_SUFFIXES for path in files)
    console = Console(soft_wrap=True)
    for said in (run.form.said, NOT_OF_VIDEOS if films and (run.compare or run.alphas) else ""):
        if said:
            console.print(escape(said), highlight=False)
    skipped = f", {len(files) - len(todo)} of them before" if len(todo) < len(files) else ""
    restored = f"{about_run['done']} of {len(files)} {'pictures and videos' if films else 'pictures'} restored by {run.name}{skipped}"
    console.print(f"{restored}: {escape(str(run.output.absolute()))}", highlight=False)
    return Outcome(int(bool(run.failed) or not written), {"done": about_run["done"], "failed": len(run.failed)})


def _through_pipe(run: Run, source: str, output: str) -> Outcome:
    """One picture from stdin or a file to stdout, or from stdin into the folder as stdin.<format>; code 1 where it could not be."""
    try:
        picture = read_picture("stdin", run.max_pixels, sys.stdin.buffer.read()) if source == "-" else read_picture(source, run.max_pixels)
        restored = run.restore(Path(source), picture)
        suffix = next(suffix for suffix, form in SUFFIXES.items() if form == picture.format)
        if output == "-":
            _write_to_stdout(encode_picture(Path("stdout" + suffix), restored, picture))
        else:
            write_picture(run.output / f"stdin{suffix}", restored, picture)
    except ImageError as error:
        say_failures([failure(source, error)])
        return Outcome(1, {"done": 0, "failed": 1})
    for said in (run.form.said, *(entry["note"] for entry in run.notes)):
        if said:
            Console(stderr=True, soft_wrap=True).print(escape(said), highlight=False)
    return Outcome(0, {"done": 1, "failed": 0})


def _write_to_stdout(data: bytes) -> None:
    try:
        with open(sys.stdout.fileno(), "wb", closefd=False) as out:  # sys.stdout's own buffer Python would flush again at its end
            out.write(data)
    except OSError as error:  # closed by who reads it, or a full disk behind it
        raise ImageError("stdout", f"could not be written: {error.strerror or error}") from error


def restore_files(run: Run, files: Sequence[Path], place: Mapping[Path, Path], done: Done, save: Callable[[], None]) -> None:
    """Restores each of ``files`` into its ``place``; failures are noted in ``run`` and the rest goes on. ``save`` is called after each.

    The network never waits for a disk: the next picture is read and the last one written meanwhile.
    """
    taken = set(place.values())
    pending: list[tuple[Path, Future[None]]] = []

    def settle(left: int) -> None:
        while len(pending) > left:
            path, written = pending.pop(0)
            if (error := written.exception()) is not None:
                run.fail(path, error)

    films = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    pictures = [path for path in files if path.suffix.lower() not in VIDEO_SUFFIXES]
    with progress_bar() as bar, ThreadPoolExecutor(1, "write") as writer:
        task = bar.add_task(f"predict {run.name}", total=len(files))
        for i, (path, read) in enumerate(ahead(lambda path: read_picture(path, run.max_pixels), pictures, depth=1)):
            target = place[path]
            try:
                compare = _beside(target, taken, "compare") if run.compare else None
                strip = _beside(target, taken, "alpha") if run.alphas else None
                _refuse_strangers(done, target, compare, strip)
                picture = read.result()
                restored = run.restore(path, picture, left=len(pictures) - i - 1)
                pending.append((path, writer.submit(_write, run, done, target, picture, restored, compare)))
                if strip is not None:
                    sheet = picture_strip(run.form.plain, picture, run.alphas, tile_side(run.form.plain, picture.size, run.tile))
                    pending.append((path, writer.submit(_write_beside, done, strip, sheet)))
                del picture, restored
            except Exception as error:  # whatever one picture does to a decoder or a network, the others go on
                run.fail(path, error)
            settle(left=1)
            run.tried += 1
            bar.advance(task)
            save()
        settle(left=0)
        for path in films:
            try:
                _refuse_strangers(done, place[path])
                for broken in restore_video(partial(run.restore, path), path, place[path], bar):
                    run.failed.append({"file": str(path), "why": broken})
                done.wrote(place[path])
                if run.compare or run.alphas:
                    run.note(path, NOT_OF_VIDEOS)
            except Exception as error:
                run.fail(path, error)
            run.tried += 1
            bar.advance(task)
            save()
    run.failed.sort(key=lambda entry: entry["file"])


def _refuse_strangers(done: Done, *targets: Path | None) -> None:
    for target in targets:
        if target is not None and done.is_a_stranger(target):
            why = "stands there already and is not from here, or was changed since"
            raise ImageError(target, why, "Name another output, or say overwrite=true")


def _recipe(cfg: DictConfig) -> dict[str, Any]:
    """What a result depends on besides its input."""
    from omegaconf import OmegaConf

    held: Any = OmegaConf.to_container(cfg, resolve=True)
    about = {key: held[key] for key in sorted(held) if key in ("checkpoint", "alpha", "compare", "tile", "optimize")}
    shipped = shipped_weights(str(cfg.model.network.name)) if cfg.checkpoint in (None, "shipped") else None
    if shipped is not None:
        about["shipped"] = hashlib.sha256(shipped.read_bytes()).hexdigest()
    elif cfg.checkpoint is not None and Path(cfg.checkpoint).is_file():
        about["written"] = Path(cfg.checkpoint).stat().st_mtime_ns
    return {"network": held["model"]["network"], **about}


def _write_report(path: Path, content: dict[str, Any]) -> bool:
    """Whether report.json could be written; a full disk is said, and does not hide what else there is to say."""
    try:
        write_json(path, content)
    except ImageError as error:
        say_failures([failure(path, error)])
        return False
    return True


def _beside(target: Path, taken: set[Path], what: str) -> Path:
    """<stem>_<what>.png, or with the suffix in the stem where another picture holds that name."""
    beside = target.with_name(f"{target.stem}_{what}.png")
    if beside in taken:
        beside = target.with_name(f"{target.name}_{what}.png")
    taken.add(beside)
    return beside


def _write(run: Run, done: Done, target: Path, picture: Picture, restored: Array, compare: Path | None) -> None:
    write_picture(target, restored, like=picture)
    done.wrote(target)
    if compare is not None:
        pair = [("hazy", picture.colours), (run.name, restored)]
        _write_beside(done, compare, picture_grid([pair], widest=max(picture.size[1], 1)))


def _write_beside(done: Done, target: Path, sheet: Array) -> None:
    write_picture(target, sheet)
    done.wrote(target, beside=True)
