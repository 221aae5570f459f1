"""Sweeps: what they run, that nothing ends them, what they leave; and searches that go on."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import tiny
from dehaze_zoo import launchers, lock, sweeping
from dehaze_zoo.errors import UsageError
from dehaze_zoo.launchers import Job, Local

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def sweep_of(*overrides: str, groups: dict[str, list[str]] | None = None) -> sweeping.Sweep:
    return sweeping.Sweep("train", list(overrides), [], groups or {})


def test_all_kinds_of_values_are_combined() -> None:
    sweep = sweep_of("seed=0,1", "a.b=range(1,4)", "x=3", "launcher.parallel=2", "run_dir='r'")
    assert sweep.shared == ["x=3"]
    assert len(sweep.combinations()) == 6
    assert sweep.combinations()[0] == {"seed": "0", "a.b": "1"}
    globbed = sweep_of("model=glob(gunet_*,exclude=*_d)", groups={"model": ["gunet_t", "gunet_d", "ktdn"]})
    assert globbed.combinations() == [{"model": "gunet_t"}]


def test_a_jobs_command_is_its_own_whole_run(tmp_path: Path) -> None:
    job = sweep_of("seed=0,1", "resume=auto", "x=3", "sweep.trials=2").job({"seed": "1"}, tmp_path / "it's", resume=True)
    assert job.words[1:3] == ["-m", "dehaze_zoo.train"]
    assert job.words[3:] == ["x=3", "resume=auto", "seed=1", "run_dir='" + str(tmp_path / "it").replace("'", "") + "\\'s'"]


class Fake:
    """A job that is a few lines of Python, at the place of a verb."""

    def __init__(self, code: str) -> None:
        self.code = code

    def jobs(self, folder: Path, count: int) -> list[Job]:
        return [Job([sys.executable, "-c", self.code, str(folder / str(i))], folder / str(i), {"seed": str(i)}) for i in range(count)]


@pytest.mark.parametrize(("requeues", "words", "resumes"), [(True, [], True), (False, [], False), (True, ["resume=null"], False)])
def test_a_grids_jobs_go_on_where_their_launcher_queues_them_again(
    requeues: bool, words: list[str], resumes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr(sweeping, "run_all", lambda given, launcher, done: jobs.extend(given))
    launcher = Local()
    launcher.requeues = requeues
    sweeping.Grid().run(sweep_of("seed=0,1", *words), tmp_path, launcher, 0)
    assert [("resume=auto" in job.words) for job in jobs] == [resumes] * 2


WRITES = """
import json, pathlib, sys
number = int(sys.argv[1][-1])
assert number != 1
pathlib.Path(sys.argv[1], "outcome.json").write_text(json.dumps({"psnr": number}))
"""


@pytest.mark.parametrize("name", ["local", "joblib", "ray"])
def test_every_launcher_runs_all_jobs_though_one_fails(name: str, tmp_path: Path) -> None:
    if name == "ray":
        pytest.importorskip("ray")
    launcher: Any = Local(parallel=2) if name == "local" else launchers.Joblib() if name == "joblib" else launchers.Ray()
    codes: dict[str, int] = {}
    rows = sweeping.Table(tmp_path)

    def done(job: Job, code: int) -> None:
        codes[job.folder.name] = code
        rows.add(job, code)

    sweeping.run_all(iter(Fake(WRITES).jobs(tmp_path, 3)), launcher, done=done)
    assert codes == {"0": 0, "1": 1, "2": 0}
    assert [(row["job"], row["exit"], row["seed"], row["psnr"]) for row in table(tmp_path)] == [
        *[("0", "0", "0", "0"), ("1", "1", "1", ""), ("2", "0", "2", "2")]
    ]


def test_the_table_shows_lists_and_short_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "outcome.json").write_text('{"psnr": 21.123456789}')
    rows = sweeping.Table(tmp_path)
    rows.add(Job([], tmp_path / "0", {"loss": "[l1,ssim]"}), 0)
    rows.show()
    shown = capsys.readouterr().out
    assert "[l1,ssim]" in shown
    assert "21.123 " in shown


def test_jobs_whose_decoders_give_other_pixels_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = sweeping.Table(tmp_path)
    for number, probe in enumerate(["aa", "aa", "bb", None]):
        (tmp_path / str(number)).mkdir()
        if probe:
            (tmp_path / str(number) / "environment.json").write_text(json.dumps({"decoder": {"probe": probe, "pillow": "13"}}))
        rows.add(Job([], tmp_path / str(number), {}), 0)
        if number == 1:
            assert "decoder" not in table(tmp_path)[0]
    rows.show()
    assert [row["decoder"] for row in table(tmp_path)] == ["aa (pillow 13)", "aa (pillow 13)", "‡ bb (pillow 13)", ""]
    assert "another decoder" in capsys.readouterr().out


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> Any:
        raise ImportError(package)

    monkeypatch.setattr(launchers, "import_module", missing)
    for make, extra in ((launchers.Joblib, "joblib"), (launchers.Ray, "ray"), (sweeping.OptunaSearch, "sweep")):
        with pytest.raises(UsageError, match=rf"dehaze-zoo\[{extra}\]"):
            make()
    with pytest.raises(UsageError, match=r"dehaze-zoo\[slurm\]"):
        launchers.Slurm(cluster="local").start(Job([], Path("x")))


TRAINER = """
import csv, pathlib, sys, time, json
from dehaze_zoo.lock import held
words = dict(word.split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(words["run_dir"].strip("'"))
with held(folder):
    with open(folder / "started", "a") as file: file.write("x")
    value = -(float(words["model.optimizer.lr"]) - 0.5) ** 2
    for epoch in range(4):
        with open(folder / "metrics.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([["epoch", "val/psnr"], *[[e, value * (4 - e)] for e in range(epoch + 1)]])
        time.sleep(float(words["wait"]))
    (folder / "outcome.json").write_text(json.dumps({"psnr": value}))
"""
SEARCHER = """
import sys
from pathlib import Path
from dehaze_zoo import sweeping, launchers
trainer, folder, trials, wait, prune = sys.argv[1:]
sweeping.command = lambda verb, overrides: [sys.executable, trainer, *overrides]
pruner = {"_target_": "optuna.pruners.ThresholdPruner", "lower": float(prune)} if prune else None
search = sweeping.OptunaSearch(trials=int(trials), pruner=pruner)
sweep = sweeping.Sweep("train", ["model.optimizer.lr=interval(0.0,1.0)", f"wait={wait}"], [], {})
sys.exit(search.run(sweep, Path(folder), launchers.Local(parallel=2), 0))
"""


@pytest.fixture
def searcher(tmp_path: Path) -> list[str]:
    (tmp_path / "trainer.py").write_text(TRAINER)
    (tmp_path / "searcher.py").write_text(SEARCHER)
    return [sys.executable, str(tmp_path / "searcher.py"), str(tmp_path / "trainer.py"), str(tmp_path / "sweep")]


def test_a_search_of_20_trials_that_is_killed_goes_on(searcher: list[str], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    process = subprocess.Popen([*searcher, "20", "0.05", ""], env=ENV, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "sweep" / "8" / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)  # with its jobs, as a power cut
    process.wait()
    finished = {row["job"] for row in table(tmp_path / "sweep")}
    assert 1 <= len(finished) < 20
    done = subprocess.run([*searcher, "20", "0", ""], env=ENV, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "sweep")
    assert [row["job"] for row in rows] == [str(i) for i in range(20)]
    assert {row["exit"] for row in rows} == {"complete"}
    assert len({row["model.optimizer.lr"] for row in rows}) == 20  # none drawn again
    starts = {str(i): (tmp_path / "sweep" / str(i) / "started").read_text() for i in range(20)}
    assert all(starts[job] == "x" for job in finished)  # those are not run again
    assert any(started == "xx" for started in starts.values())  # those that were running are gone on with
    best = max(rows, key=lambda row: float(row["psnr"]))
    assert f"best: job {best['job']}" in done.stdout


def search_of(run_dir: Path, trials: int, monkeypatch: pytest.MonkeyPatch, **told: Any) -> tuple[int, list[Path]]:
    """A search whose jobs are done at once; its exit code, and the folders that it ran in."""
    ran: list[Path] = []

    def run_all(jobs: Any, launcher: Any, begun: Any, done: Any) -> None:
        for job in jobs:
            job.folder.mkdir(parents=True, exist_ok=True)
            (job.folder / "metrics.csv").write_text("epoch,val/psnr\n0,20.0\n")
            ran.append(job.folder)
            begun(job)
            done(job, 0)

    monkeypatch.setattr(sweeping, "run_all", run_all)
    search = sweeping.OptunaSearch(trials=trials, **told)
    return search.run(sweep_of("lr=interval(0.0,1.0)"), run_dir, Local(), 0), ran


def test_searches_that_share_a_study_leave_each_other_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna = pytest.importorskip("optuna")
    shared = str(tmp_path / "journal")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(shared))
    study = optuna.create_study(storage=storage, study_name="dehaze_zoo", direction="maximize")
    dead = {**lock.this_process(), "start": "before"}
    for by in ({**dead, "host": "elsewhere"}, lock.this_process(), dead):
        trial = study.ask({"lr": optuna.distributions.FloatDistribution(0, 1)})
        for key, value in {"by": by, "folder": str(tmp_path / "a" / str(trial.number)), "chosen": {"lr": "0.5"}}.items():
            trial.set_user_attr(key, value)
    code, ran = search_of(tmp_path / "b", 4, monkeypatch, storage=shared)
    assert (code, ran) == (0, [tmp_path / "a" / "2", tmp_path / "b" / "3"])
    assert [trial.state.name for trial in study.get_trials()] == ["RUNNING", "RUNNING", "COMPLETE", "COMPLETE"]


def test_a_result_that_another_search_told_already_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna = pytest.importorskip("optuna")
    column = sweeping._column

    def told(path: Path, name: str) -> list[tuple[int, float]]:
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.journal")))
        optuna.load_study(storage=storage, study_name="dehaze_zoo").tell(0, 7.0, skip_if_finished=True)
        return column(path, name)

    monkeypatch.setattr(sweeping, "_column", told)
    assert search_of(tmp_path, 1, monkeypatch)[0] == 0


def test_a_trial_that_was_killed_while_asked_for_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna = pytest.importorskip("optuna")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.journal")))
    optuna.create_study(storage=storage, study_name="dehaze_zoo", direction="maximize").ask()
    code, ran = search_of(tmp_path, 2, monkeypatch)
    assert (code, ran) == (1, [tmp_path / "1"])
    assert [row["exit"] for row in table(tmp_path)] == ["fail", "complete"]


def test_a_hopeless_trial_is_stopped_on_the_way(searcher: list[str], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    done = subprocess.run([*searcher, "4", "0.5", "-0.02"], env=ENV, capture_output=True, text=True, timeout=100)
    rows = table(tmp_path / "sweep")
    pruned = [row for row in rows if row["exit"] == "pruned"]
    assert done.returncode == 0, done.stderr
    assert pruned
    assert all((float(row["model.optimizer.lr"]) - 0.5) ** 2 * 4 > 0.02 for row in pruned)
    assert all(row["psnr"] == "" for row in pruned)  # they did not come to their end


def test_spaces_are_hydras_own_syntax() -> None:
    optuna = pytest.importorskip("optuna")
    search = sweeping.OptunaSearch()
    words = {
        "lr=tag(log,interval(1e-4,1e-2))": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
        "n=int(interval(2,8))": optuna.distributions.IntDistribution(2, 8),
        "b=range(8,33,8)": optuna.distributions.IntDistribution(8, 32, step=8),
        "model=gunet_t,gunet_s": optuna.distributions.CategoricalDistribution(["gunet_t", "gunet_s"]),
        "loss=choice([l1,ssim],mse)": optuna.distributions.CategoricalDistribution(["[l1,ssim]", "mse"]),
    }
    for text, distribution in words.items():
        sweep = sweep_of(text)
        assert search._distribution(sweep, sweep.swept[0]) == distribution
    with pytest.raises(UsageError, match="nothing to search"):
        search.run(sweep_of("x=1"), Path("unused"), Local(), 0)


def test_two_jobs_of_two_ranks_each(tmp_path: Path) -> None:
    words = tiny.overrides_of("model=aodnet", "trainer=ddp_cpu", "trainer.max_epochs=1", "seed=0,1")
    done = subprocess.run(
        [sys.executable, "-m", "dehaze_zoo.train", "-m", *words, f"run_dir={tmp_path / 'my sweep'}"],
        capture_output=True,
        text=True,
        timeout=300,
        env=ENV,
    )
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "my sweep")
    assert [(row["job"], row["exit"], row["seed"]) for row in rows] == [("0", "0", "0"), ("1", "0", "1")]
    assert all(float(row["psnr"]) > 0 for row in rows)
    for job in ("0", "1"):
        assert (tmp_path / "my sweep" / job / "checkpoints" / "last.ckpt").is_file()
    assert rows[0]["psnr"] != rows[1]["psnr"]
