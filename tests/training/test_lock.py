"""Two trainings never share a folder, and what refuses to start has touched nothing."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from dehaze_zoo import lock
from dehaze_zoo.cli import launch, run_verb
from dehaze_zoo.errors import UsageError
from dehaze_zoo.train import hold, job

OWNER = """
import sys, time, multiprocessing
from pathlib import Path
from dehaze_zoo.lock import held
with held(Path(sys.argv[1])):
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)).start()  # a data worker, which outlives its master
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_names_its_owner_and_a_dead_ones_is_taken_over_at_once(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(UsageError) as caught, lock.held(tmp_path):
            pass
        assert f"process {owner.pid} " in str(caught.value)
        assert json.loads((tmp_path / "run.lock").read_text())["since"] in str(caught.value)
        owner.kill()
        owner.wait()
        with lock.held(tmp_path):
            assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
        assert not (tmp_path / "run.lock").exists()
    finally:
        os.killpg(owner.pid, 9)


def test_a_process_that_got_a_dead_ones_number_is_not_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lock.held(tmp_path):
        stored = json.loads((tmp_path / "run.lock").read_text())
    parent = {**lock._process(os.getppid()), "since": "then"}
    (tmp_path / "run.lock").write_text(json.dumps(parent))
    assert lock.owner(tmp_path) == parent
    (tmp_path / "run.lock").write_text(json.dumps({**parent, "start": "another"}))
    assert lock.owner(tmp_path) is None
    (tmp_path / "run.lock").write_text(json.dumps({**parent, "host": "elsewhere"}))  # cannot be asked
    assert lock.owner(tmp_path) is not None
    (tmp_path / "run.lock").write_text(json.dumps({**stored, "host": "elsewhere", "job": "7"}))
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # this job, requeued on another node
    assert lock.owner(tmp_path) is None
    (tmp_path / "run.lock").write_text("torn")
    assert lock.owner(tmp_path) is None


def test_a_refused_start_leaves_the_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "run"
    tiny.train(run_dir, "model=aodnet", "trainer.max_epochs=1")
    (run_dir / "config.yaml").write_text("the first one's")
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}

    def refused(*overrides: str) -> str:
        words = [*tiny.overrides_of("model=aodnet", "trainer.max_epochs=1", *overrides), f"run_dir={run_dir}"]
        with pytest.raises(UsageError) as caught:
            run_verb("train", job, words, hold)
        return str(caught.value)

    assert "already holds a training" in refused()
    assert "seed: 0 there, 5 now" in refused("seed=5", "resume=auto")
    (run_dir / "run.lock").write_text(json.dumps({**lock._process(os.getppid()), "since": "then"}))
    assert f"process {os.getppid()}" in refused("resume=auto")
    (run_dir / "run.lock").unlink()
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


def test_a_full_disk_is_said_and_the_earlier_checkpoints_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, saved = torch.save, []

    def save(held: Any, file: Any) -> None:
        saved.append(file)
        if len(saved) == 3:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(held, file)

    monkeypatch.setattr(torch, "save", save)
    run = ["model=aodnet", "trainer.max_epochs=2", "callbacks.checkpoints.every_steps=1"]  # two batches an epoch
    with pytest.raises(UsageError, match=r"No space left(.|\n)*resume=auto"):
        tiny.train(tmp_path / "run", *run)
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}
    tiny.train(tmp_path / "run", *run, "resume=auto")
    tiny.train(tmp_path / "whole", *run)
    assert tiny.same(tiny.state(tmp_path / "run"), tiny.state(tmp_path / "whole"))


def test_a_disk_that_is_full_elsewhere_is_a_message_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(cfg: Any, run_dir: Path) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", str(run_dir / "metrics.csv"))

    monkeypatch.setattr(sys, "argv", ["train", f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(SystemExit) as caught:
        launch("train", full)
    assert caught.value.code == 2
    assert "the disk is full" in capsys.readouterr().err


def test_a_checkpoint_of_another_recipe_is_said_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["model=aodnet", "trainer.max_epochs=1"]
    tiny.train(tmp_path / "run", *short)
    source = f"resume='{tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}'"
    tiny.train(tmp_path / "longer", "model=aodnet", "trainer.max_epochs=2", source)
    assert "settings differ from that run's: " in capsys.readouterr().out
    with pytest.raises(UsageError, match="optimisers are AdamW, this recipe's SGD"):
        tiny.train(tmp_path / "other", *short, source, "model.optimizer._target_=torch.optim.SGD", "~model.optimizer.betas")
