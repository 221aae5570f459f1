"""The verb's work: what is asked for, what of it is done, the rest, and the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.markup import escape

from dehaze_zoo.benchmark.board import Board, Entry, make_board
from dehaze_zoo.benchmark.cost import device_name, measure_cost
from dehaze_zoo.benchmark.keys import code_version, files_below_hash, key_of
from dehaze_zoo.benchmark.page import write_page
from dehaze_zoo.benchmark.pictures import Album
from dehaze_zoo.benchmark.runner import Report, run_job
from dehaze_zoo.benchmark.scoring import Judge
from dehaze_zoo.benchmark.store import Store
from dehaze_zoo.benchmark.subjects import JudgedSet, Method, Network, Restorer, judged_set, methods_of, photographs, spread
from dehaze_zoo.benchmark.tables import terminal, write_tables
from dehaze_zoo.data.decoder import decoder_stamp, stamps_differ
from dehaze_zoo.data.layouts import LAYOUTS, find_pictures, find_root, pictures
from dehaze_zoo.errors import UsageError, near_misses
from dehaze_zoo.inference.reporting import failure, progress_bar, say_failures, write_json
from dehaze_zoo.inference.restore import choose_device
from dehaze_zoo.metrics.catalogue import Measure, Metric, choose_metrics, load_metric
from dehaze_zoo.metrics.protocols import choose_protocols
from dehaze_zoo.networks.registry import list_models
from dehaze_zoo.outcome import Outcome

if TYPE_CHECKING:
    from omegaconf import DictConfig

WORST = 2
"""Pictures of each method that the page shows besides the examples."""

_PICTURES_DEPEND_ON = ("haze", "outdoor", "picture_size", "val_crop", "set")


def benchmark(cfg: DictConfig, run_dir: Path) -> Outcome:
    """Fills the store with what it lacks, then writes leaderboard.{csv,md,tex,html}, comparisons.csv, per_image.parquet and report.json.

    Code 1 where a picture, a method or W&B failed; the rest is done. Raises UsageError for wrong names, weights that do not fit, a metric
    whose parameters are missing, and a store that cannot be used.
    """
    if cfg.get("logger") is not None and "wandb" not in cfg.logger:
        raise UsageError(f"logger={','.join(cfg.logger)}: the tables are files in run_dir anyway. Beside them there is logger=wandb.")
    methods = methods_of(cfg.models, cfg.checkpoints, cfg.results, list_models())
    _check_roots(cfg)
    judge, parameters, missing = _judge(cfg)
    sets = _sets(cfg)
    _check_blind(sets, judge, missing)
    device = choose_device(cfg.trainer.accelerator)
    for method in methods:  # what does not fit is said now, not at night
        for member in method.members:
            method.open(member, "cpu")
    store = Store(Path(cfg.store), parameters)
    try:
        entries, report = _fill(store, methods, sets, judge, device, cfg)
        report.failed[:0] = missing
        board = make_board(entries, judge)
    finally:
        store.close()
    console = Console()
    if board.rows:
        write_tables(run_dir, board)
        write_page(run_dir / "leaderboard.html", board, entries, Path(cfg.store))
        for sheet in terminal(board):
            console.print(sheet)
        if cfg.get("logger") is not None:
            _track(cfg, run_dir, board, entries, methods, report)
    summary = _summary(report)
    write_json(run_dir / "report.json", summary)
    say_failures([{**entry, "file": f"{entry['model']}, {entry['data']}: {entry['file']}"} for entry in report.failed])
    if not board.rows:
        return Outcome(1)
    said = f"judged {report.judged} pictures, {report.kept} were done before"
    if report.judged:
        said += f"; {summary['seconds']:.1f} s, the networks' forward {summary['forward_share']:.0%} of it"
    console.print(f"{said}\n{escape(str((run_dir / 'leaderboard.html').absolute()))}", highlight=False, soft_wrap=True)
    return Outcome(int(bool(report.failed)), _figures(board))


def _track(cfg: DictConfig, run_dir: Path, board: Board, entries: Sequence[Entry], methods: Sequence[Method], report: Report) -> None:
    """W&B, whose failure is one of the run: the tables are written."""
    from dehaze_zoo.benchmark.tracking import log_to_wandb

    try:
        log_to_wandb(cfg, run_dir, board, entries, methods, Path(cfg.store))
    except Exception as error:  # whatever the server or the way to it says
        report.failed.append({"model": "all", "data": "all", **failure("logger=wandb", error)})


def _fill(
    store: Store, methods: Sequence[Method], sets: Sequence[JudgedSet], judge: Judge, device: str, cfg: DictConfig
) -> tuple[list[Entry], Report]:
    """Every method on every set, one network in memory at a time; the entries are in the order asked for."""
    total = Report()
    entries: list[Entry] = []
    others = _other_decoders(store)
    with progress_bar() as bar:
        count = sum(len(method.members) * (len(judged.images) + len(judged.strays)) for method in methods for judged in sets)
        task = bar.add_task("benchmark", total=count)
        for method in methods:
            own = [Entry(method.label, judged, {}, [], pictures_only=method.folder is not None) for judged in sets]
            elsewhere: dict[str, Entry] = {}
            for number, member in enumerate(method.members):
                restorer = method.open(member, device)
                if number == 0 and isinstance(restorer, Network) and cfg.cost is not None:
                    cost = _cost(store, method, restorer, cfg, total)
                    for entry in own:
                        entry.cost = cost
                for entry in own:
                    bar.update(task, description=f"{method.label} on {entry.judged.label}")
                    job, key = _job(store, restorer, method, entry.judged)
                    album = _album(store, job, key, entry.judged, judge, cfg.examples)
                    _add(total, run_job(store, job, method.label, restorer, entry.judged, judge, album, lambda: bar.advance(task)))
                    figures = {image: value for image, value in _first_figures(store, job, judge).items() if image in entry.judged.images}
                    entry.shown |= album.examples.union(sorted(figures, key=lambda image: figures[image])[: album.worst])
                    seed = member.seed if member.seed is not None else number
                    entry.scores[seed] = store.scores(job)
                    entry.job_keys.append(key)
                    for stamp in others:
                        key = key_of(_about(restorer, entry.judged, stamp))
                        if (found := store.find(key)) is not None:
                            its = elsewhere.setdefault(f"{entry.judged.label} {stamp['probe']}", _elsewhere(entry, stamp))
                            its.scores[seed] = store.scores(found)
                            its.job_keys.append(key)
                del restorer  # before the next one comes
            entries += [*own, *elsewhere.values()]
    return entries, total


def _job(store: Store, restorer: Restorer, method: Method, judged: JudgedSet) -> tuple[int, str]:
    """The store's number and key for this method on this set: all that its figures depend on, and no name."""
    about = _about(restorer, judged, decoder_stamp())
    key = key_of(about)
    return store.job(key, {**about, "label": method.label, "set": judged.label, "decoder": decoder_stamp()}), key


def _about(restorer: Restorer, judged: JudgedSet, stamp: Mapping[str, str]) -> dict[str, Any]:
    return {**restorer.recipe, "data": judged.manifest, "decoder": stamp["probe"], "code": code_version()}


def _elsewhere(entry: Entry, stamp: Mapping[str, str]) -> Entry:
    """The same method on the same set as another decoder read it, still without scores."""
    return Entry(
        f"{entry.label} (decoder {stamp['probe'][:8]})", entry.judged, {}, [], entry.shown,
        pictures_only=entry.pictures_only, decoder=stamp, beside=entry.label,
    )  # fmt: skip


def _other_decoders(store: Store) -> list[dict[str, str]]:
    """The stamps in the store of decoders that give other pixels than this machine's, the newest of each."""
    stamps = {about["decoder"]["probe"]: about["decoder"] for about in store.abouts()}
    return [stamp for stamp in stamps.values() if stamps_differ(stamp, decoder_stamp())]


def _album(store: Store, job: int, key: str, judged: JudgedSet, judge: Judge, examples: int) -> Album:
    examples_of_set = set(spread(list(judged.images), examples))
    return Album(store.folder, judged.manifest, key, examples_of_set, WORST if examples else 0, _first_figures(store, job, judge))


def _first_figures(store: Store, job: int, judge: Judge) -> dict[str, float]:
    """PSNR under the first protocol, of each image that has it."""
    return {s.image: s.value for s in store.scores(job) if s.metric == "psnr" and s.protocol == judge.protocols[0].name}


def _cost(store: Store, method: Method, network: Network, cfg: DictConfig, report: Report) -> Mapping[str, Any] | None:
    """From the store, or measured while nothing else runs; a network that fails here is a failure of the run."""
    about = {
        "model": network.model, "design": network.recipe["design"], "device": device_name(network.device), "torch": torch.__version__,
        "sizes": list(cfg.cost.sizes), "rounds": cfg.cost.rounds, "seconds": cfg.cost.seconds, "code": code_version(),
    }  # fmt: skip
    key = key_of(about)
    figures = store.cost(key)
    if figures is None:
        try:
            figures = measure_cost(network.module, network.device, cfg.cost.sizes, cfg.cost.rounds, cfg.cost.seconds)
        except Exception as error:  # out of memory at a large size, or a network that fails anyway
            report.failed.append({"model": method.label, "data": "cost", **failure("random pictures", error)})
            return None
        store.add_cost(key, about, figures)
    return figures


def _judge(cfg: DictConfig) -> tuple[Judge, dict[str, str], list[dict[str, str]]]:
    """The judge, a hash of the parameters of each metric that has some, and the metrics that it must do without: parameters that are
    nowhere, a download without a network.

    Raises UsageError for an unknown name and for a file given that is not right.
    """
    kept, functions, parameters, failed = [], {}, {}, []
    for metric in choose_metrics(["psnr", "ssim", *([cfg.metrics] if isinstance(cfg.metrics, str) else cfg.metrics)]):
        file = cfg[metric.name].weights if metric.places else None
        try:
            if metric.load is not None:
                functions[metric.name], used = _loaded(metric, file)
                if metric.places:
                    parameters[metric.name] = files_below_hash(used)[:16] if used is not None else "torchvision"
            kept.append(metric)
        except UsageError as error:
            if file is not None:
                raise
            failed.append({"model": "all", "data": "all", **failure(f"metric {metric.name}", error)})
    return Judge(choose_protocols(cfg.protocol), kept, functions), parameters, failed


def _loaded(metric: Metric, file: str | None) -> tuple[Measure, Path | None]:
    """The metric's function, and the file or folder that it was found to be made from."""
    used: list[Path | None] = []

    def load(found: Path | None) -> Measure:
        used.append(found)
        assert metric.load is not None
        return metric.load(found)

    return load_metric(replace(metric, load=load), file), used[0]


def _check_roots(cfg: DictConfig) -> None:
    names = [*cfg.sets, *cfg.photo_sets]
    for name in cfg.roots:
        if name not in names:
            raise UsageError(f"roots.{name}: data has no such set. {near_misses(str(name), map(str, names))}")
    for name in cfg.photo_sets:
        if name not in cfg.roots:
            raise UsageError(f"data=[photos:{name}] needs its folder of photographs: roots.{name}=DIR.")


def _check_blind(sets: Sequence[JudgedSet], judge: Judge, missing: Sequence[Mapping[str, str]]) -> None:
    unpaired = [judged.label for judged in sets if not judged.paired]
    if unpaired and all(metric.needs_clear for metric in judge.metrics):
        why = "".join(f"\n{entry['file']}: {entry['why']}" for entry in missing[:3])
        raise UsageError(f"{unpaired[0]} has no clear pictures: it needs metrics=[niqe], [brisque] or [fade].{why}")


def _sets(cfg: DictConfig) -> list[JudgedSet]:
    from omegaconf import OmegaConf

    from dehaze_zoo.made import made

    found = []
    for name, own in cfg.sets.items():
        if name in cfg.roots and "root" not in own:
            raise UsageError(f"roots.{name}: this set is made, it lies nowhere.")
        if name in cfg.roots:
            own.root = str(cfg.roots[name]).replace("${", "\\${")
        layout = LAYOUTS.get(str(own.set))
        if layout is not None and not layout.paired:
            root = find_root(own.set, own.root)
            found.append(photographs(str(name), root, find_pictures(own.set, root), cfg.limit))
            continue
        plain: Any = OmegaConf.to_container(own, resolve=True)
        about = {key: value for key, value in plain.items() if key in _PICTURES_DEPEND_ON}
        found.append(judged_set(str(name), made(own).pairs(cfg.split), {**about, "split": cfg.split}, cfg.limit))
    for name in cfg.photo_sets:
        folder = Path(cfg.roots[name])
        found.append(photographs(str(name), folder, sorted(pictures(folder)), cfg.limit))
    if not found:
        raise UsageError("data=[] names no set. Give some: data=[synthetic,reside_indoor].")
    return found


def _add(total: Report, done: Report) -> None:
    total.judged, total.kept = total.judged + done.judged, total.kept + done.kept
    total.forward, total.wall = total.forward + done.forward, total.wall + done.wall
    total.failed += done.failed


def _summary(report: Report) -> dict[str, Any]:
    return {
        "done": report.judged, "kept": report.kept, "failed": report.failed, "decoder": decoder_stamp(), "seconds": round(report.wall, 3),
        "forward_share": round(report.forward / report.wall, 4) if report.wall else None,
    }  # fmt: skip


def _figures(board: Board) -> dict[str, float]:
    """For results.csv under -m: the first figure of every row."""
    own = [row for row in board.rows if row.get("psnr") is not None and not row.get("decoder_differs")]
    return {f"{row['model']}/{row['data']}/{row['protocol']}/psnr": row["psnr"] for row in own}
