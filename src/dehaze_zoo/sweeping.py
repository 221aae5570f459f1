"""Sweeps (-m): jobs and a table. Each is a process of its own: one that dies must not end the others; DDP repeats its command line.

sweep=grid runs every combination of the values given (key=a,b or range(1,4) or glob(gunet_*)); sweep=optuna searches among them.
"""

from __future__ import annotations

import csv
import itertools
import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override

from dehaze_zoo.errors import UsageError
from dehaze_zoo.files import quoted, written_aside
from dehaze_zoo.launchers import Job, Launcher, Running, command, needed
from dehaze_zoo.lock import living, owner, this_process
from dehaze_zoo.made import made

POLL = 0.2  # seconds


class Sweep:
    """The parsed command line of a sweep: what all jobs share, and what is swept. Raises hydra's exceptions for malformed overrides."""

    def __init__(self, verb: str, overrides: list[str], search: list[str], groups: dict[str, list[str]]) -> None:
        parsed: list[Override] = OverridesParser.create().parse_overrides(overrides)
        own = [o for o in parsed if o.key_or_group.split(".")[0] not in ("launcher", "sweep", "run_dir", "hydra")]
        self.verb, self.groups = verb, groups
        self.search = [text.replace("hydra.searchpath=", "++hydra.searchpath=") for text in search]
        self.swept = [o for o in own if o.is_sweep_override()]
        self.shared = [str(o.input_line) for o in own if not o.is_sweep_override()]
        self.unswept = [str(o.input_line) for o in parsed if not o.is_sweep_override()]

    def combinations(self) -> list[dict[str, str]]:
        """All combinations of the swept values, by key, as they are written on a command line."""
        values = [[(o.get_key_element(), value) for value in self._values(o)] for o in self.swept]
        return [dict(choice) for choice in itertools.product(*values)]

    def _values(self, override: Override) -> list[str]:
        held = override.value()
        if isinstance(held, Glob):
            return held.filter(self.groups.get(override.key_or_group, []))
        if not override.is_discrete_sweep():
            raise UsageError(f"{override.input_line}: an interval has no list of values. Use sweep=optuna, or name values.")
        return [str(value) for value in override.sweep_string_iterator()]

    def job(self, chosen: dict[str, str], folder: Path, resume: bool = False) -> Job:
        """A run with these values in ``folder``; ``resume``: whatever the command line says, it goes on where it was."""
        shared = [text for text in self.shared if not (resume and text.startswith("resume="))] + (["resume=auto"] if resume else [])
        words = [*shared, *(f"{key}={value}" for key, value in chosen.items()), *self.search, f"run_dir={quoted(str(folder))}"]
        return Job(command(self.verb, words), folder, chosen)


def run_all(
    jobs: Iterable[Job],
    launcher: Launcher,
    begun: Callable[[Job], bool] = lambda job: False,
    done: Callable[[Job, int], None] | None = None,
) -> None:
    """Keeps ``launcher.parallel`` jobs going until ``jobs`` has no more.

    ``begun`` is asked of each running job every now and then, and stops it by True; ``done`` is told its exit code.
    """
    waiting, running = iter(jobs), list[tuple[Job, Running]]()
    more = True
    with _leaving(running):
        while more or running:
            while more and len(running) < launcher.parallel:
                job = next(waiting, None)
                more = job is not None
                if job is not None:
                    job.folder.mkdir(parents=True, exist_ok=True)
                    print(f"job {job.folder.name}: {' '.join(f'{key}={value}' for key, value in job.chosen.items())}", flush=True)
                    running.append((job, launcher.start(job)))
            for entry in list(running):
                code = entry[1].poll()
                if code is not None:
                    running.remove(entry)
                    if done is not None:
                        done(entry[0], code)
                elif begun(entry[0]):
                    entry[1].stop()
            time.sleep(POLL if running else 0)


@contextmanager
def _leaving(running: list[tuple[Job, Running]]) -> Iterator[None]:
    """A sweep that is ended ends its jobs, which save and leave."""

    def asked(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before: Any = signal.SIG_DFL
    with suppress(ValueError):  # not the main thread
        before = signal.signal(signal.SIGTERM, asked)
    try:
        yield
    except BaseException:
        for _, each in running:
            each.stop()
        deadline = time.monotonic() + 60
        while any(each.poll() is None for _, each in running) and time.monotonic() < deadline:
            time.sleep(POLL)
        raise
    finally:
        with suppress(ValueError):
            signal.signal(signal.SIGTERM, before)


class Table:
    """folder/results.csv: a line a job with its exit code, what was chosen for it and its figures; written anew after every job.

    Where jobs ran on machines whose decoders give other pixels, a column tells each one's, and a mark those that differ from the first.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "results.csv"
        self.rows: dict[int, dict[str, str]] = {}
        self.stamps: dict[int, dict[str, str] | None] = {}

    def add(self, job: Job, code: int | str) -> None:
        figures = {key: str(value) for key, value in figures_of(job.folder).items()}
        self.rows[int(job.folder.name)] = {"job": job.folder.name, "exit": str(code), **job.chosen, **figures}
        self.stamps[int(job.folder.name)] = _stamp_of(job.folder)
        with written_aside(self.path) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in self._sorted() for key in row)))
            writer.writeheader()
            writer.writerows(self._sorted())

    def _sorted(self) -> list[dict[str, str]]:
        from dehaze_zoo.data.decoder import stamp_text, stamps_differ

        known = {number: stamp for number, stamp in sorted(self.stamps.items()) if stamp is not None}
        first = next(iter(known.values()), None)
        marks = {number: stamps_differ(stamp, first) for number, stamp in known.items()}
        said = {n: {"decoder": f"{'‡ ' if marks[n] else ''}{stamp_text(stamp)}"} for n, stamp in known.items() if any(marks.values())}
        return [self.rows[number] | said.get(number, {}) for number in sorted(self.rows)]

    def show(self) -> None:
        from rich.console import Console
        from rich.table import Table as Lines
        from rich.text import Text

        columns = list(dict.fromkeys(key for row in self._sorted() for key in row))
        note = "‡ read by another decoder than the first job's: its pixels differ, and so may its figures" if "decoder" in columns else None
        lines = Lines(*columns, title=str(self.path), title_justify="left", caption=note)
        for row in self._sorted():
            lines.add_row(*(Text(_short(row.get(key, ""))) for key in columns))  # not markup, which takes away [l1,ssim]
        Console().print(lines)


def _stamp_of(folder: Path) -> dict[str, str] | None:
    """The stamp of the decoder that a job read its pictures by; None where it is not known."""
    try:
        return dict(json.loads((folder / "environment.json").read_text(encoding="utf-8"))["decoder"])
    except (OSError, ValueError, KeyError):
        return None


def _short(text: str) -> str:
    try:
        return text if text.lstrip("-").isdigit() else f"{float(text):.5g}"
    except ValueError:
        return text


def figures_of(folder: Path) -> dict[str, float]:
    """What a job's verb returned; empty where it did not come to its end."""
    outcome = folder / "outcome.json"
    return json.loads(outcome.read_text(encoding="utf-8")) if outcome.is_file() else {}


class Grid:
    """Every combination, in the order of the command line."""

    def run(self, sweep: Sweep, run_dir: Path, launcher: Launcher, seed: int) -> int:
        """Exit code 1 where a job failed."""
        table, codes = Table(run_dir), []
        told = any(text.startswith("resume=") for text in sweep.shared)  # as the user says
        resume = sweep.verb == "train" and launcher.requeues and not told

        def done(job: Job, code: int) -> None:
            codes.append(code)
            table.add(job, code)

        jobs = (sweep.job(chosen, run_dir / str(i), resume) for i, chosen in enumerate(sweep.combinations()))
        run_all(jobs, launcher, done=done)
        table.show()
        return int(any(codes))


class OptunaSearch:
    """A search by optuna: each trial is a job, ``trials`` in all.

    ``storage``: a journal on disk (null: run_dir/optuna.journal). A sweep started again with it, or on another machine that sees the
    disk, goes on: what was running when a search on this machine was killed is resumed in its folder; other searches keep theirs.
    ``metric``: a column of the jobs' metrics.csv; its last value counts, and those on the way are what ``pruner`` stops a trial by (null:
    none is stopped).
    """

    def __init__(
        self,
        trials: int = 20,
        metric: str = "val/psnr",
        direction: str = "maximize",
        storage: str | None = None,
        study: str = "dehaze_zoo",
        sampler: Any = None,
        pruner: Any = None,
    ) -> None:
        self.optuna = needed("optuna", "sweep", "sweep=optuna")
        self.trials, self.metric, self.direction, self.storage, self.name = trials, metric, direction, storage, study
        self.sampler, self.pruner = sampler, pruner

    def run(self, sweep: Sweep, run_dir: Path, launcher: Launcher, seed: int) -> int:
        """Exit code 1 where a trial failed."""
        optuna = self.optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space = {o.get_key_element(): self._distribution(sweep, o) for o in sweep.swept}
        if not space:
            raise UsageError(
                "sweep=optuna has nothing to search: give keys choices or ranges, such as 'model.optimizer.lr=interval(1e-4,1e-2)'."
            )
        run_dir.mkdir(parents=True, exist_ok=True)
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        storage = JournalStorage(JournalFileBackend(str(self.storage or run_dir / "optuna.journal")))
        study = optuna.create_study(storage=storage, study_name=self.name, direction=self.direction, load_if_exists=True)
        # Seeded by where it starts, so that a sweep that goes on does not draw its first trials again.
        study.sampler = made(self.sampler or {"_target_": "optuna.samplers.TPESampler"}, seed=seed + len(study.trials))
        study.pruner = made(self.pruner) if self.pruner else optuna.pruners.NopPruner()
        table, seen, running = Table(run_dir), dict[Path, int](), dict[Path, Any]()

        def jobs() -> Iterator[Job]:
            for left in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
                folder, by = _folder(left, run_dir), left.user_attrs.get("by")
                if (by is not None and living(by)) or owner(folder) is not None:
                    continue
                if "chosen" in left.user_attrs:
                    running[folder] = trial = optuna.trial.Trial(study, left._trial_id)
                    trial.set_user_attr("by", this_process())
                    yield sweep.job(dict(left.user_attrs["chosen"]), folder, resume=True)
                elif by is not None or not self.storage:  # killed while it was asked for (or another machine is about to say who asks)
                    study.tell(left.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
            while len(study.get_trials(deepcopy=False)) < self.trials:
                trial = study.ask(space)
                chosen = {key: repr(value) if isinstance(value, float) else str(value) for key, value in trial.params.items()}
                folder = run_dir / str(trial.number)
                for key, value in {"by": this_process(), "folder": str(folder), "chosen": chosen}.items():
                    trial.set_user_attr(key, value)
                running[folder] = trial
                yield sweep.job(chosen, folder, resume=True)

        def hopeless(job: Job) -> bool:
            trial, reported = running[job.folder], seen.get(job.folder, -1)
            for epoch, value in _column(job.folder / "metrics.csv", self.metric):
                if epoch > reported:
                    try:
                        trial.report(value, epoch)
                    except optuna.exceptions.UpdateFinishedTrialError:  # another search told its end
                        return False
                    seen[job.folder] = epoch
                    if trial.should_prune():
                        trial.set_user_attr("pruned", True)
                        return True
            return False

        def done(job: Job, code: int) -> None:
            trial = running.pop(job.folder)
            hopeful = not trial.user_attrs.get("pruned")
            values = _column(job.folder / "metrics.csv", self.metric)
            if code == 0 and values:
                study.tell(trial, values[-1][1], skip_if_finished=True)
            else:
                state = optuna.trial.TrialState.FAIL if hopeful else optuna.trial.TrialState.PRUNED
                study.tell(trial, state=state, skip_if_finished=True)
            self._tabulate(study, sweep, run_dir, table)

        run_all(jobs(), launcher, hopeless, done)
        self._tabulate(study, sweep, run_dir, table)
        table.show()
        complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        if complete:
            best = study.best_trial
            chosen = " ".join(f"{key}={value}" for key, value in best.user_attrs["chosen"].items())
            print(f"best: job {best.number}, {self.metric} {best.value:.5g}: {chosen}")
        return int(any(trial.state == optuna.trial.TrialState.FAIL for trial in study.get_trials(deepcopy=False)))

    def _tabulate(self, study: Any, sweep: Sweep, run_dir: Path, table: Table) -> None:
        for trial in study.get_trials(deepcopy=False):
            if trial.state.is_finished() and table.rows.get(trial.number, {}).get("exit") is None:
                table.add(sweep.job(trial.user_attrs.get("chosen", {}), _folder(trial, run_dir)), trial.state.name.lower())

    def _distribution(self, sweep: Sweep, override: Override) -> Any:
        """Choices, ranges and intervals of Hydra's own syntax; tag(log, interval(a,b)) is drawn on a logarithmic scale."""
        distributions = self.optuna.distributions
        held: Any = override.value()
        log = "log" in getattr(held, "tags", ())
        if override.is_interval_sweep():
            whole = isinstance(held.start, int) and isinstance(held.end, int)
            kind = distributions.IntDistribution if whole else distributions.FloatDistribution
            return kind(held.start, held.end, log=log)
        if override.is_range_sweep() and not held.shuffle:
            values = range(held.start, held.stop, held.step) if isinstance(held.start + held.stop + held.step, int) else range(0)
            if len(values) > 1 and held.step > 0:
                return distributions.IntDistribution(values[0], values[-1], step=1 if log else held.step, log=log)
        return distributions.CategoricalDistribution(sweep._values(override))


def _folder(trial: Any, run_dir: Path) -> Path:
    """Where a trial runs, also one that a search with another run_dir asked for."""
    return Path(trial.user_attrs.get("folder", run_dir / str(trial.number)))


def _column(path: Path, name: str) -> list[tuple[int, float]]:
    """Epochs and values of a metrics.csv's column, where there are any."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [(int(row["epoch"]), float(row[name])) for row in csv.DictReader(file) if row.get(name)]
    except (OSError, ValueError, KeyError):
        return []
