"""Where jobs run (train's key launcher): here, over the cores, on a SLURM or Ray cluster; or as commands to type on every node.

A job is a command line of its own. A launcher's ``start`` sets one going, ``parallel`` says how many at a time.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from dehaze_zoo.errors import UsageError

QUOTED, RUN_DIR, SWEEP = "DEHAZE_ZOO_QUOTED", "DEHAZE_ZOO_RUN_DIR", "DEHAZE_ZOO_SWEEP"  # told to processes that we start


@dataclass(frozen=True)
class Job:
    """One run: its verb's command line, its folder, and what the sweep chose for it."""

    words: list[str]
    folder: Path
    chosen: dict[str, str] = field(default_factory=dict)

    def run(self) -> int:
        """Runs it here to its end; a SIGTERM is handed on, so that it saves and leaves. Returns the exit code."""
        return _Process(self).wait()


class Running(Protocol):
    """A job that was started."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def stop(self) -> None:
        """Lets it save and leave."""


class Launcher(Protocol):
    parallel: int
    requeues: bool
    """Whether it starts a job's command again by itself, which must then go on where it was."""

    def start(self, job: Job) -> Running: ...


def needed(package: str, extra: str, launcher: str) -> Any:
    """An optional package. Raises UsageError that says how to install it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise UsageError(f"{launcher} needs the package {package}: pip install 'dehaze-zoo[{extra}]'") from error


class _Process:
    def __init__(self, job: Job) -> None:
        env = {**os.environ, QUOTED: "1", SWEEP: "1"}
        env.pop(RUN_DIR, None)
        self.process = subprocess.Popen(job.words, env=env)

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        before: Any = None
        with suppress(ValueError):  # not the main thread: signals are another's
            before = signal.signal(signal.SIGTERM, lambda number, frame: self.process.send_signal(number))
        while (code := self.poll()) is None:  # wait() would hold a lock that send_signal needs, in the handler on this thread
            time.sleep(0.2)
        if before is not None:
            signal.signal(signal.SIGTERM, before)
        return code


class Local:
    """Processes on this machine, ``parallel`` at a time."""

    requeues = False

    def __init__(self, parallel: int = 1) -> None:
        self.parallel = parallel

    def start(self, job: Job) -> Running:
        return _Process(job)


class Joblib:
    """As many at a time as joblib counts for ``n_jobs`` (-1: all cores that this process may use, in a container too)."""

    requeues = False

    def __init__(self, n_jobs: int = -1) -> None:
        joblib = needed("joblib", "joblib", "launcher=joblib")
        self.parallel = int(joblib.effective_n_jobs(n_jobs))
        self._pool = import_module("joblib.externals.loky").get_reusable_executor(max_workers=self.parallel)

    def start(self, job: Job) -> Running:
        return _Future(self._pool.submit(job.run), job)


class _Future:
    """Of a process pool, whose workers the job's own process is a child of."""

    def __init__(self, future: Any, job: Job) -> None:
        self.future, self.job = future, job

    def poll(self) -> int | None:
        return int(self.future.result()) if self.future.done() else None

    def stop(self) -> None:
        from dehaze_zoo.lock import owner

        trainer = owner(self.job.folder)
        if not self.future.cancel() and trainer is not None:
            os.kill(trainer["pid"], signal.SIGTERM)


class Ray:
    """Tasks on a Ray cluster (``address``; null: one of this machine's own), each with so many CPUs and GPUs, ``parallel`` handed to it."""

    requeues = False

    def __init__(self, address: str | None = None, cpus: float = 1, gpus: float = 0, parallel: int = 16) -> None:
        self.ray, self.parallel = needed("ray", "ray", "launcher=ray"), parallel
        self.ray.init(address=address, ignore_reinit_error=True, log_to_driver=True)
        self.task = self.ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_cancellable)

    def start(self, job: Job) -> Running:
        return _Task(self.ray, self.task.remote(job))


def _cancellable(job: Job) -> int:
    """Runs a job to its end; a cancelled task is interrupted, and its job saves and leaves."""
    process = _Process(job)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.stop()
        return process.wait()


class _Task:
    def __init__(self, ray: Any, reference: Any) -> None:
        self.ray, self.reference = ray, reference

    def poll(self) -> int | None:
        done, _ = self.ray.wait([self.reference], timeout=0)
        if not done:
            return None
        try:
            return int(self.ray.get(self.reference))
        except self.ray.exceptions.TaskCancelledError:
            return 128 + signal.SIGTERM
        except self.ray.exceptions.RayError:  # its worker or node died
            return 1

    def stop(self) -> None:
        self.ray.cancel(self.reference)


class Slurm:
    """Submits to SLURM through submitit: one task a device, requeued with resume=auto when preempted or out of time.

    ``cluster``: slurm, or submitit's local (processes here) and debug. ``options``: further options of sbatch. Where there is no sbatch,
    or with ``submit=False``, nothing is submitted: run_dir/launch.sbatch is written, ready for a machine that has it.
    Of a sweep ``parallel`` jobs are in its queue at a time.
    """

    requeues = True

    def __init__(
        self,
        nodes: int = 1,
        devices: int | str = 1,
        gpus: bool = True,
        cpus_per_task: int = 8,
        memory_gb: int = 64,
        minutes: int = 1440,
        partition: str | None = None,
        options: Mapping[str, Any] | None = None,
        submit: bool = True,
        cluster: str = "slurm",
        parallel: int = 16,
    ) -> None:
        if not isinstance(devices, int):
            raise UsageError(f"launcher=slurm needs a number: trainer.devices=4 (GPUs on each node), not {devices}.")
        self.nodes, self.devices, self.gpus, self.cpus, self.memory = nodes, devices, gpus, cpus_per_task, memory_gb
        self.minutes, self.partition, self.options, self.cluster = minutes, partition, dict(options or {}), cluster
        self.parallel = parallel
        self.submit = submit and (cluster != "slurm" or shutil.which("sbatch") is not None)

    def start(self, job: Job) -> Running:
        if not self.submit:
            raise UsageError("there is no sbatch here, which a sweep with launcher=slurm needs. Start it on the cluster's login node.")
        submitit = needed("submitit", "slurm", "launcher=slurm")
        # A training may take any number of time limits; submitit would give up after three.
        executor = submitit.AutoExecutor(folder=str(job.folder / "slurm"), cluster=self.cluster, slurm_max_num_timeout=10**6)
        own: dict[str, Any] = {"slurm_gpus_per_node": self.devices} if self.gpus else {}
        own |= {"slurm_partition": self.partition} if self.partition else {}
        own |= {"slurm_additional_parameters": self.options} if self.options else {}
        executor.update_parameters(
            name=job.folder.name,
            nodes=self.nodes,
            tasks_per_node=self.devices,
            cpus_per_task=self.cpus,
            mem_gb=self.memory,
            timeout_min=self.minutes,
            **(own if self.cluster == "slurm" else {}),
        )
        return _Submitted(executor.submit(Resumable(job)))

    def hand_over(self, job: Job) -> str:
        """Submits one run, or writes the script that does; says what was done."""
        if self.submit:
            job_id = self.start(job).job.job_id  # type: ignore[attr-defined]
            return f"submitted as job {job_id}; what it says is in {job.folder / 'slurm'}"
        script = job.folder / "launch.sbatch"
        options = {"partition": self.partition, **self.options} if self.partition else self.options
        lines = [
            "#!/bin/bash",
            f"#SBATCH --job-name={job.folder.name}",
            f"#SBATCH --nodes={self.nodes}",
            f"#SBATCH --ntasks-per-node={self.devices}",
            *([f"#SBATCH --gpus-per-node={self.devices}"] if self.gpus else []),
            f"#SBATCH --cpus-per-task={self.cpus}",
            f"#SBATCH --mem={self.memory}G",
            f"#SBATCH --time={self.minutes}",
            f"#SBATCH --output={job.folder}/slurm-%j.log",
            "#SBATCH --requeue  # after a preemption it goes on where it was",
            "#SBATCH --signal=USR1@120  # two minutes before its time is up it saves and leaves, and is queued again",
            *(f"#SBATCH --{key.replace('_', '-')}={value}" for key, value in options.items()),
            f"export {QUOTED}=1  # paths below are quoted for Hydra",
            f"srun {shlex.join(job.words)}",
            f"[ $? -eq {128 + signal.SIGUSR1} ] && scontrol requeue $SLURM_JOB_ID",
        ]
        script.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return f"sbatch {shlex.quote(str(script))}"


class Resumable:
    """What submitit runs on a node: when SLURM wants the node back, the job saves and leaves, and is submitted again."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.process: _Process | None = None

    def __call__(self) -> int:
        self.process = _Process(self.job)
        while (
            code := self.process.poll()
        ) is None:  # wait() would hold a lock that checkpoint's wait needs, a signal handler on this thread
            time.sleep(0.2)
        return code

    def checkpoint(self) -> Any:
        if self.process is not None:
            self.process.stop()
            with suppress(subprocess.TimeoutExpired):
                self.process.process.wait(60)
        return import_module("submitit").helpers.DelayedSubmission(Resumable(self.job))


class _Submitted:
    def __init__(self, job: Any) -> None:
        self.job = job

    def poll(self) -> int | None:
        if not self.job.done():
            return None
        return next((int(code) for code in self.job.results() if code), 0) if self.job.exception() is None else 1

    def stop(self) -> None:
        self.job.cancel()


class Torchrun:
    """Several machines without a scheduler: writes the command that is to be typed on each."""

    def __init__(self, nodes: int = 1, devices: int | str = 1, address: str = "127.0.0.1", port: int = 29500) -> None:
        self.nodes, self.address, self.port = nodes, address, port
        self.devices = "gpu" if not isinstance(devices, int) else str(devices)

    def hand_over(self, job: Job) -> str:
        """Writes run_dir/launch.sh, which takes the node's number; says how to use it."""
        script = job.folder / "launch.sh"
        python, _, module, *rest = job.words
        start = [python, "-m", "torch.distributed.run", f"--nnodes={self.nodes}", f"--nproc-per-node={self.devices}"]
        start += [f"--master-addr={self.address}", f"--master-port={self.port}"]
        command = f'{shlex.join(start)} --node-rank="$1" -m {shlex.join([module, *rest])}'
        lines = [
            "#!/bin/sh",
            f"# On each of {self.nodes} nodes, with its number from 0: sh launch.sh NUMBER",
            f"export {QUOTED}=1  # paths below are quoted for Hydra",
            f"exec {command}",
        ]
        script.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return "\n".join(f"node {number}:  sh {shlex.quote(str(script))} {number}" for number in range(self.nodes))


def command(verb: str, overrides: list[str]) -> list[str]:
    """The command line of a job."""
    return [sys.executable, "-m", f"dehaze_zoo.{verb}", *overrides]
