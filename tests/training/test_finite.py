"""Never a silent NaN: what is not finite first is named, its batch is dumped and replayed, or the step is skipped and counted."""

from __future__ import annotations

import csv
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from dehaze_zoo.cli import run_verb
from dehaze_zoo.errors import UsageError
from dehaze_zoo.losses.l1 import L1Loss
from dehaze_zoo.made import made
from dehaze_zoo.networks.gunet import GUNet
from dehaze_zoo.train import job
from dehaze_zoo.training.finite import first_offender, replay, replay_command
from dehaze_zoo.training.ktdn import StudentModule
from dehaze_zoo.training.module import IN_A_ROW, DehazingModule, Term
from dehaze_zoo.training.ridcp import RIDCPModule

AOD = ["model=aodnet", "trainer.max_epochs=1", "data.samples_per_epoch=12"]


def dumped(run_dir: Path) -> Path:
    (file,) = (run_dir / "not_finite").iterdir()
    return file


def batches_of(run_dir: Path) -> dict[str, str]:
    with open(run_dir / "metrics.csv", newline="") as file:
        return next(csv.DictReader(file))


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets batch number 1 hold a picture with a NaN, as a broken file would give."""
    original = DehazingModule.on_train_batch_start

    def on_train_batch_start(self: DehazingModule, batch: Any, batch_idx: int) -> None:
        original(self, batch, batch_idx)
        if batch_idx == 1:
            batch["hazy"][2, 0, 3, 3] = float("nan")

    monkeypatch.setattr(DehazingModule, "on_train_batch_start", on_train_batch_start)


def test_a_loss_that_is_not_finite_stops_dumps_its_batch_and_is_replayed(
    spoilt: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *AOD, "run_dir=x", "resume=auto"])
    with pytest.raises(UsageError) as caught:
        tiny.train(tmp_path / "run", *AOD)
    message = str(caught.value)
    for part in ("loss", "epoch 0", "batch 1", "step 1", "rank 0", "mse = nan", "Files: ", "the batch's hazy", "on_nan=skip"):
        assert part in message
    assert len(message.splitlines()) <= 5
    file = dumped(tmp_path / "run")
    held = torch.load(file, weights_only=True)
    assert held["batch"]["name"]
    assert all(name in message for name in held["batch"]["name"])
    command = next(line for line in message.splitlines() if "replay=" in line).partition(": ")[2].split()
    assert command[:3] == ["python", "-m", "dehaze_zoo.train"]
    assert not any(word.startswith(("run_dir=", "resume=")) for word in command)
    assert run_verb("train", job, [*command[3:], f"run_dir={tmp_path / 'replay'}"]) == 0
    assert "first the batch's hazy" in capsys.readouterr().out


def test_a_replay_does_nothing_before_or_after_and_knows_what_was_made(
    spoilt: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run before this one left its weights; the batch that it dumps is looked at with them, and no training begins."""
    weights = tmp_path / "best.ckpt"
    weights.touch()
    own = [*AOD, "before={stage1:[never]}", "after={later:[nothing]}"]
    monkeypatch.setattr(sys, "argv", ["train", *own, "launcher=slurm", "launcher.nodes=1", "~model.optimizer.betas"])
    with pytest.raises(UsageError) as caught:
        tiny.train(tmp_path / "run", *own, f"stage1='{weights}'")
    command = shlex.split(next(line for line in str(caught.value).splitlines() if "replay=" in line).partition(": ")[2])
    assert f"stage1={weights}" in command
    assert "~model.optimizer.betas" in command
    assert not any(word.startswith("launcher") for word in command)

    def begun(*words: Any, **named: Any) -> Any:
        raise AssertionError("another run was begun")

    monkeypatch.setattr("dehaze_zoo.launchers.Job.run", begun)
    assert run_verb("train", job, [*command[3:-2], command[-1], f"run_dir={tmp_path / 'replay'}"]) == 0  # less stage1
    assert "first the batch's hazy" in capsys.readouterr().out


def test_a_jobs_replay_command_says_that_its_words_are_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "data.root='/it is'"])
    monkeypatch.setenv("DEHAZE_ZOO_QUOTED", "1")
    first, *words = shlex.split(replay_command(Path("/a b.pt"), {"teacher": "/it's"}))
    assert first == "DEHAZE_ZOO_QUOTED=1"
    assert words[3:] == ["data.root='/it is'", r"teacher='/it\'s'", "replay='/a b.pt'"]


class Spy(nn.Module):
    """Notes where it is moved to."""

    def __init__(self) -> None:
        super().__init__()
        self.moves: list[Any] = []

    def to(self, *where: Any, **named: Any) -> Any:
        self.moves += where
        return self


@pytest.mark.parametrize(("kind", "field"), [(DehazingModule, None), (StudentModule, "_teacher"), (RIDCPModule, "_stage1")])
def test_a_replay_moves_what_is_no_submodule(kind: type[DehazingModule], field: str | None, tmp_path: Path) -> None:
    module, loss, frozen = tiny.module("model=aodnet"), Spy(), Spy()
    module.terms = {"mse": Term(loss, 1.0)}
    module.trainer = tiny.trainer(tmp_path, "model=aodnet")
    module.__class__ = kind
    if field is not None:
        setattr(module, field, [frozen])
    module.losses_of = lambda batch: {"mse": batch["hazy"].sum()}
    batch = {"hazy": torch.full((1, 3, 8, 8), float("nan")), "name": ["a"]}
    torch.save(
        {"batch": batch, "epoch": 0, "batch_idx": 0, "rank": 0, "state_dict": module.state_dict()},
        tmp_path / "dump.pt",
    )
    assert replay(module, tmp_path / "dump.pt") == "the batch's hazy"
    assert loss.moves == [torch.device("cpu")]
    assert frozen.moves == ([] if field is None else [torch.device("cpu")])


def test_skip_leaves_the_step_out_on_the_way_and_counts_it(spoilt: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.train(tmp_path / "run", *tiny.NARROW, "trainer.max_epochs=1", "data.samples_per_epoch=12", "on_nan=skip")
    row = batches_of(tmp_path / "run")
    assert float(row["skipped"]) == 1
    assert float(row["train/loss"]) > 0
    assert all(torch.isfinite(value).all() for value in tiny.state(tmp_path / "run").values())  # running statistics among them
    assert "skipped: the loss is not finite in epoch 0, batch 1" in capsys.readouterr().out


def test_a_refused_batch_leaves_those_accumulated_with_it(spoilt: None, tmp_path: Path) -> None:
    tiny.train(tmp_path / "run", *AOD, "on_nan=skip", "trainer.accumulate_grad_batches=3")  # the second of three
    start = {f"network.{key}": value for key, value in tiny.module("model=aodnet").network.state_dict().items()}
    assert not tiny.same(start, tiny.state(tmp_path / "run"))
    assert float(batches_of(tmp_path / "run")["skipped"]) == 1


def test_skip_gives_up_when_no_step_goes_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(L1Loss, "forward", lambda self, restored, clear: restored.mean() * float("nan"))
    many = f"data.samples_per_epoch={2 * (IN_A_ROW + 3)}"
    with pytest.raises(UsageError, match="the loss term l1"):
        tiny.train(tmp_path / "run", "model=aodnet", "loss=l1", many, "data.batch_size=2", "data.crop_size=8", "on_nan=skip")


class RootOfZero(torch.autograd.Function):
    """Finite forward, a gradient that is not: what sqrt does at 0."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * float("inf")


def test_a_gradient_that_is_not_finite_stops_or_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(L1Loss, "forward", lambda self, restored, clear: RootOfZero.apply(restored - clear).abs().mean())
    with pytest.raises(
        UsageError, match=r"the gradient is not finite in epoch 0, batch 0(.|\n)*First: the gradient at the output of network"
    ):
        tiny.train(tmp_path / "run", *AOD, "loss=l1")
    tiny.train(tmp_path / "skipping", *AOD, "loss=l1", "on_nan=skip", "model.optimizer.weight_decay=0.1")
    assert float(batches_of(tmp_path / "skipping")["skipped"]) == 3
    start = dict(nn.ModuleDict({"network": tiny.module("model=aodnet").network}).state_dict())
    assert tiny.same(start, tiny.state(tmp_path / "skipping"))  # not even decayed


def test_the_first_module_to_blame_is_named(tmp_path: Path) -> None:
    module = tiny.module(*tiny.NARROW)
    module.trainer = tiny.trainer(tmp_path, *tiny.NARROW)
    batch = {"hazy": torch.rand(2, 3, 32, 32), "clear": torch.rand(2, 3, 32, 32), "name": ["a", "b"]}
    assert first_offender(module, batch).startswith("nothing")
    assert isinstance(module.network, GUNet)
    guilty = next(name for name, part in module.network.named_modules() if isinstance(part, nn.BatchNorm2d))
    norm = module.network.get_submodule(guilty)
    norm.forward = lambda value: value / 0  # type: ignore[method-assign]
    assert first_offender(module, batch) == f"the output of network.{guilty} (BatchNorm2d)"
    with torch.no_grad():
        norm.weight[0] = float("inf")  # type: ignore
    assert first_offender(module, batch) == f"the weight network.{guilty}.weight, before this step"


def test_fp16_scaling_steps_are_told_apart(tmp_path: Path) -> None:
    class Scaler:
        scale = 2.0**16

        def get_scale(self) -> float:
            return self.scale

    module = tiny.module("model=aodnet")
    module.trainer = tiny.trainer(tmp_path, "model=aodnet")
    (optimizer,) = module.configure_optimizers()
    module.trainer.strategy.optimizers = [optimizer]
    module._taken = ({"hazy": torch.rand(1, 3, 8, 8), "clear": torch.rand(1, 3, 8, 8), "name": ["a"]}, 0, {})
    for parameter in module.network.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    scaler = Scaler()
    module.trainer.precision_plugin.scaler = scaler  # type: ignore[attr-defined]
    module.on_before_optimizer_step(optimizer)
    assert module.counts == {"skipped": 0, "scaling_steps": 1}
    scaler.scale = 1.0  # there is nothing left to lower
    with pytest.raises(UsageError, match="the gradient is not finite"):
        module.on_before_optimizer_step(optimizer)


@pytest.fixture
def unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spoils the second validation picture of the first epoch."""
    original = DehazingModule.validation_step

    def validation_step(self: DehazingModule, batch: Any, batch_idx: int) -> Tensor:
        if (self.current_epoch, batch_idx) == (0, 1):
            batch["clear"][0, 0, 3, 3] = float("nan")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(DehazingModule, "validation_step", validation_step)


def test_a_validation_without_a_number_stops_and_names_the_picture(unjudged: None, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not a number in the validation of epoch 0: [\w.-]+\nLook at") as caught:
        tiny.train(tmp_path / "run", *AOD)
    name = str(caught.value).splitlines()[0].rpartition(" ")[2]
    assert name == list(made(tiny.config(tmp_path, *AOD).data).val_dataloader())[1]["name"][0]


def test_under_skip_it_is_counted_and_the_next_validation_is_the_best(
    unjudged: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.train(tmp_path / "run", *AOD, "on_nan=skip", "trainer.max_epochs=2", "trainer.check_val_every_n_epoch=1")
    assert "warning: psnr or ssim is not a number in the validation of epoch 0: " in capsys.readouterr().out
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["val/psnr"], float(rows[0]["val/not_finite"])) == ("nan", 1)
    assert float(rows[1]["val/psnr"]) > 0
    assert tiny.same(tiny.state(tmp_path / "run", "best"), tiny.state(tmp_path / "run", "last"))


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_two_ranks_stop_or_skip_together_and_rank_0_names_the_others_batch(on_nan: str, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import runpy\nfrom dehaze_zoo.training.module import DehazingModule as M\nstart = M.on_train_batch_start\n"
        "def spoil(self, batch, index):\n    start(self, batch, index)\n"
        "    if self.global_rank == 1 and index == 0: batch['hazy'][0] = float('nan')\n"
        "M.on_train_batch_start = spoil\nrunpy.run_module('dehaze_zoo.train', run_name='__main__')\n"
    )
    words = [*tiny.overrides_of(*AOD, "trainer=ddp_cpu", f"on_nan={on_nan}"), f"run_dir={tmp_path / 'run'}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, timeout=200, env=env)
    assert done.returncode == (2 if on_nan == "stop" else 0), done.stderr
    assert "batch 0, step 0, rank 1: mse = nan" in (done.stderr if on_nan == "stop" else done.stdout)
    assert "Traceback" not in done.stderr
    if on_nan == "stop":
        assert "rank1.pt" in dumped(tmp_path / "run").name
    else:
        assert float(batches_of(tmp_path / "run")["skipped"]) == 1
        assert all(torch.isfinite(value).all() for value in tiny.state(tmp_path / "run").values())
