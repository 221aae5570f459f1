"""A training that is killed or asked to leave in the midst of an epoch goes on to the bit: every recipe, every way to stop."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from dehaze_zoo.data.datamodule import DehazingData

ENV = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")} | {"OMP_NUM_THREADS": "1"}
SIX = ["trainer.max_epochs=1", "data.samples_per_epoch=12", "data.batch_size=2", "callbacks.checkpoints.every_steps=3"]
FAMILIES = {
    "gunet": [*SIX, *tiny.NARROW, "callbacks=ema", "callbacks.ema.decay=0.5", "on_nan=skip"],
    "mprnet": [*SIX, "model=mprnet", "model.network.stages=2", "model.mixup_after=0"],  # MixUp draws in the training step
    "ridcp": [  # two optimisers, stepped by hand
        *(*SIX, "model=ridcp_vqgan", "loss=l1", "+model.network.codebook_size=32", "+model.network.width=32"),
        *("model.discriminator.width=8", "data.crop_size=32"),
    ],
    "ktdn": [*SIX, "model=ktdn", "loss=[l1,laplacian]", "data.crop_size=64", "data.picture_size=[64,64]"],
}
KILL = """
import os, runpy
from dehaze_zoo.training.module import DehazingModule as M
start = M.on_train_batch_start
def fatal(self, batch, index):
    if index == {step} and self.global_rank == {rank}: os.kill(os.getpid(), {signal})
    return start(self, batch, index)
M.on_train_batch_start = fatal
runpy.run_module("dehaze_zoo.train", run_name="__main__")
"""


def killed(run_dir: Path, overrides: list[str], step: int, number: int = signal.SIGKILL, rank: int = 0) -> subprocess.CompletedProcess[str]:
    """A training in a process of its own, of which a rank sends itself a signal before a batch."""
    script = run_dir.with_suffix(".py")
    script.write_text(KILL.format(step=step, rank=rank, signal=int(number)))
    words = [sys.executable, str(script), *tiny.overrides_of(*overrides), f"run_dir={run_dir}"]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, env=ENV)


def position(run_dir: Path, which: str = "last") -> int:
    """Batches of the epoch that a checkpoint has behind it."""
    loaded = torch.load(run_dir / "checkpoints" / f"{which}.ckpt", weights_only=True)
    count: int = loaded["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"]
    return count


def table(run_dir: Path) -> list[dict[str, str]]:
    with open(run_dir / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("family", FAMILIES)
def test_six_steps_are_three_a_sigkill_and_three(family: str, tmp_path: Path) -> None:
    overrides = FAMILIES[family]
    done = killed(tmp_path / "killed", overrides, step=4)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert position(tmp_path / "killed") == 3
    tiny.train(tmp_path / "whole", *overrides)
    tiny.train(tmp_path / "killed", *overrides, "resume=auto")
    assert tiny.same(tiny.state(tmp_path / "killed"), tiny.state(tmp_path / "whole"))
    for resumed, whole in zip(table(tmp_path / "killed"), table(tmp_path / "whole"), strict=True):
        assert resumed["step"] == whole["step"]
        assert float(resumed["train/loss"]) == pytest.approx(float(whole["train/loss"]), rel=1e-9)  # the mean of all six
        assert resumed["lr"] == whole["lr"]


def test_two_ranks_leave_together_when_one_is_asked_and_go_on_where_they_were(tmp_path: Path) -> None:
    ranks = [*SIX, "trainer=ddp_cpu", "callbacks.checkpoints.every_steps=null", "model=aodnet"]
    done = killed(tmp_path / "run", ranks, step=2, number=signal.SIGTERM, rank=1)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "SIGTERM: saved at epoch 0, after batch 2" in done.stdout
    assert "resume=auto" in done.stdout
    assert "Traceback" not in done.stderr
    assert position(tmp_path / "run") == 3
    assert not json.loads((tmp_path / "run" / "run.json").read_text())["finished"]
    resumed = killed(tmp_path / "run", [*ranks, "resume=auto"], step=-1)
    assert resumed.returncode == 0, resumed.stderr
    tiny.train(tmp_path / "one", *[text for text in ranks if text != "trainer=ddp_cpu"])
    one, two = table(tmp_path / "one"), table(tmp_path / "run")
    assert float(one[0]["train/loss"]) == pytest.approx(float(two[0]["train/loss"]), rel=1e-4)  # the mean of six batches over both
    assert all(
        torch.allclose(a, b, atol=1e-5)
        for a, b in zip(tiny.state(tmp_path / "one").values(), tiny.state(tmp_path / "run").values(), strict=True)
    )


def test_asked_to_leave_before_the_first_batch_it_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = DehazingData.train_dataloader

    def asked(data: DehazingData) -> Any:  # while Lightning listens and Checkpoints does not yet
        os.kill(os.getpid(), signal.SIGTERM)
        return loader(data)

    monkeypatch.setattr(DehazingData, "train_dataloader", asked)
    with pytest.raises(SystemExit) as left:
        tiny.train(tmp_path / "run")
    assert left.value.code == 128 + signal.SIGTERM
    assert not json.loads((tmp_path / "run" / "run.json").read_text())["finished"]
