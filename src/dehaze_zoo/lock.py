"""One training a run folder: run.lock names the process that has it, and a dead one's is taken over at once.

By process id and start time, not by a lock that the kernel holds: a killed training's data workers would keep that one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from dehaze_zoo.errors import UsageError
from dehaze_zoo.files import written_aside

FILE = "run.lock"


@contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Keeps other trainings out of ``run_dir`` for as long as it lasts. Raises UsageError where a living one has it."""
    file, me = run_dir / FILE, this_process()
    with alone(run_dir):  # two that find a dead owner must not both take over
        other = owner(run_dir)
        if other is not None and other["pid"] != os.getpid():
            raise UsageError(
                f"{run_dir} is in use: process {other['pid']} on {other['host']} trains in it since {other['since']}.\n"
                f"Wait for it, end it, or choose another run_dir. If there is no such process any more, delete {file}."
            )
        with written_aside(file) as aside:
            aside.write_text(json.dumps(me), encoding="utf-8")
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            if json.loads(file.read_text(encoding="utf-8")) == me:
                file.unlink()


def owner(run_dir: Path) -> dict[str, Any] | None:
    """The living process that trains in a folder; None where there is none."""
    try:
        other: dict[str, Any] = json.loads((run_dir / FILE).read_text(encoding="utf-8"))
        return other if living(other) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def this_process() -> dict[str, Any]:
    """What others can tell this process by."""
    return {**_process(os.getpid()), "job": os.environ.get("SLURM_JOB_ID"), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}


def living(other: dict[str, Any]) -> bool:
    """Whether a process, as ``this_process`` named it, is there still. On another host it counts as living, but for its own job."""
    there = {key: other[key] for key in ("pid", "host", "start")}
    if there["host"] != socket.gethostname():
        return other.get("job") is None or other["job"] != os.environ.get("SLURM_JOB_ID")
    return there == _process(there["pid"])


def _process(pid: int) -> dict[str, Any]:
    """Names a process for good: another one with its id has another start. A dead one's start is None."""
    return {"pid": pid, "host": socket.gethostname(), "start": _start(pid)}


def _start(pid: int) -> str | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return None if fields[0] in "ZX" else f"{boot} {fields[19]}"  # a zombie is dead; field 22 of proc(5), in ticks since boot
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    with suppress(OSError):  # macOS
        return subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True).stdout.strip() or None
    return None


@contextmanager
def alone(folder: Path, waiting: Callable[[], object] = lambda: None) -> Iterator[bool]:
    """A kernel's lock on a folder, waited for, which dies with its process; gives whether there is one to be had.

    ``waiting`` is called where another process has it.
    """
    handle, locked = None, False
    with suppress(ImportError, OSError):  # Windows; file systems without it
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        locked = True
    try:
        yield locked
    finally:
        if handle is not None:
            os.close(handle)
