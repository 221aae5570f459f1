"""Runs that are handed over: to SLURM through submitit, and as commands for torchrun, of which two make two nodes here."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import tiny
from dehaze_zoo import cli
from dehaze_zoo.errors import UsageError
from dehaze_zoo.launchers import Job, Resumable, Slurm, _cancellable, _Task
from dehaze_zoo.train import job

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
AOD = ["model=aodnet", "trainer.max_epochs=1", "data.samples_per_epoch=8"]


def handed_over(run_dir: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    assert cli.run_verb("train", job, [*tiny.overrides_of(*AOD, *overrides), f"run_dir={run_dir}"]) == 0
    return capsys.readouterr().out.strip()


def test_two_torchrun_agents_are_two_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_dir = tmp_path / "my run's"
    nodes = ["trainer=ddp_cpu", "trainer.num_nodes=2", "trainer.devices=1", "launcher=torchrun", f"launcher.port={port}"]
    said = handed_over(run_dir, capsys, *nodes).splitlines()
    assert len(said) == 2
    agents = [
        subprocess.Popen(line.partition(":")[2], shell=True, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in said
    ]
    outputs = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    tiny.train(tmp_path / "one", *AOD)
    rows = []
    for folder in (run_dir, tmp_path / "one"):
        with open(folder / "metrics.csv", newline="") as file:
            rows.append(next(csv.DictReader(file)))
    assert float(rows[0]["train/loss"]) == pytest.approx(float(rows[1]["train/loss"]), rel=1e-4)
    assert float(rows[0]["val/psnr"]) == pytest.approx(float(rows[1]["val/psnr"]), abs=1e-3)


def test_ranks_started_elsewhere_must_be_told_their_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="run_dir=DIR"):
        cli.run_verb("train", job, ["plan=true"])
    assert not list(tmp_path.iterdir())


def test_without_slurm_a_script_is_left_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    options = ["launcher.partition=gpu", "+launcher.options.account=mine", "launcher.submit=false", "trainer.num_nodes=2"]
    said = handed_over(run_dir, capsys, "trainer=ddp", "trainer.devices=4", "launcher=slurm", *options)
    assert said == f"sbatch {run_dir / 'launch.sbatch'}"
    script = (run_dir / "launch.sbatch").read_text()
    for line in ("nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "partition=gpu", "account=mine", "requeue", "signal=USR1@120"):
        assert f"#SBATCH --{line}" in script
    srun = next(line for line in script.splitlines() if line.startswith("srun "))
    assert "resume=auto" in srun
    assert "launcher" not in srun
    if shutil.which("bash"):
        assert subprocess.run(["bash", "-n", str(run_dir / "launch.sbatch")]).returncode == 0
    with pytest.raises(UsageError, match=r"trainer\.devices=4"):
        handed_over(run_dir, capsys, "trainer=ddp", "launcher=slurm")


def test_submitit_runs_it_and_its_exit_code_comes_back(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    codes = []
    for tasks, code in ((1, 0), (1, 3), (2, 3)):
        launcher = Slurm(devices=tasks, gpus=False, cpus_per_task=1, memory_gb=1, cluster="local")
        running = launcher.start(Job([sys.executable, "-c", f"import sys; sys.exit({code})"], tmp_path / f"{tasks}_{code}"))
        deadline = time.monotonic() + 60
        while (found := running.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        codes.append(found)
    assert codes == [0, 3, 3]


def test_time_limits_do_not_end_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(submitit, "AutoExecutor", lambda **told: pytest.fail(str(told["slurm_max_num_timeout"])))
    with pytest.raises(pytest.fail.Exception, match="1000000"):
        Slurm(cluster="local").start(Job([], tmp_path))


def test_rays_failures_are_exit_codes() -> None:
    ray = pytest.importorskip("ray")
    codes = []
    for error in (ray.exceptions.TaskCancelledError(), ray.exceptions.WorkerCrashedError()):

        class Stub:
            exceptions = ray.exceptions

            def wait(self, references: list[Any], timeout: float) -> Any:
                return references, []

            def get(self, reference: BaseException) -> Any:
                raise reference

        codes.append(_Task(Stub(), error).poll())
    assert codes == [143, 1]


def test_an_interrupted_task_lets_its_job_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); open(sys.argv[1], 'w'); time.sleep(60)"
    sleep = time.sleep

    def interrupted(seconds: float) -> None:
        sleep(seconds)
        if (tmp_path / "ready").exists():
            monkeypatch.setattr(time, "sleep", sleep)
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    assert _cancellable(Job([sys.executable, "-c", leaves, str(tmp_path / "ready")], tmp_path)) == 143


def test_a_run_within_a_run_is_told_to_leave_and_its_code_comes_back(tmp_path: Path) -> None:
    inner = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\npathlib.Path(sys.argv[1], 'ready').touch()\ntime.sleep(60)\n"
    )
    outer = (
        "import sys\nfrom pathlib import Path\nfrom dehaze_zoo.launchers import Job\n"
        f"sys.exit(Job([sys.executable, '-c', {inner!r}, {str(tmp_path)!r}], Path({str(tmp_path)!r})).run())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", outer])
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=60) == 143


def test_a_preempted_job_saves_before_it_is_submitted_again(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    code = (
        "import pathlib, signal, sys, time\n"
        "def leave(*_): pathlib.Path(sys.argv[1], 'saved').touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, leave)\npathlib.Path(sys.argv[1], 'ready').touch()\ntime.sleep(60)\n"
    )
    script = (
        "import signal, sys\nfrom pathlib import Path\nfrom dehaze_zoo.launchers import Job, Resumable\n"
        f"task = Resumable(Job([sys.executable, '-c', {code!r}, {str(tmp_path)!r}], Path({str(tmp_path)!r})))\n"
        "def preempted(*_):\n    again = task.checkpoint()\n    assert isinstance(again.function, Resumable)\n    sys.exit(0)\n"
        "signal.signal(signal.SIGUSR2, preempted)\ntask()\n"  # as submitit's own handler does
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "saved").exists()
    assert Resumable(Job([], tmp_path)).process is None
