"""Whole trainings: what they leave, how they go on, over ranks, and into which loggers."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from dehaze_zoo.cli import compose
from dehaze_zoo.errors import UsageError
from dehaze_zoo.training import runs, saving
from dehaze_zoo.training.module import DehazingModule


def table(run_dir: Path) -> list[dict[str, str]]:
    with open(run_dir / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs in one go."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    tiny.train(run_dir, "trainer.max_epochs=3")
    return run_dir


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a training die before its ``step``."""
    original = DehazingModule.training_step

    def training_step(self: DehazingModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == step:
            raise RuntimeError("power cut")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(DehazingModule, "training_step", training_step)


def test_a_run_leaves_tables_pictures_and_plain_checkpoints(undisturbed: Path) -> None:
    rows = table(undisturbed)
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert all(float(row["train/l1"]) > 0 and float(row["train/loss"]) > 0 and float(row["lr"]) > 0 for row in rows)
    assert rows[0]["val/psnr"] == rows[1]["val/psnr"] == ""  # every 10th epoch, but the last in any case
    assert float(rows[2]["val/psnr"]) > 5
    assert [path.name for path in (undisturbed / "images").iterdir()] == ["epoch_0002.png"]
    assert {path.name for path in (undisturbed / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    loaded = torch.load(undisturbed / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(key.startswith("network.") for key in loaded["state_dict"])
    assert loaded["figures"]["psnr"] == pytest.approx(float(rows[2]["val/psnr"]))
    assert tiny.same(tiny.state(undisturbed, "best"), tiny.state(undisturbed, "last"))
    assert not tiny.same(tiny.state(undisturbed, "previous"), tiny.state(undisturbed, "last"))
    assert not list(undisturbed.rglob("*.part"))


def test_validation_is_the_mean_of_per_image_figures(undisturbed: Path) -> None:
    from hydra.utils import instantiate

    from dehaze_zoo.metrics.protocols import PROTOCOLS
    from dehaze_zoo.training.build import build_module

    cfg = tiny.config(undisturbed, "trainer.max_epochs=3")
    module = build_module(cfg)
    module.load_state_dict(tiny.state(undisturbed))
    module.eval()
    figures = []
    for batch in instantiate(cfg.data).val_dataloader():
        with torch.no_grad():
            figures.append(PROTOCOLS["gunet"](module(batch["hazy"]), batch["clear"])["psnr"])
    assert len(figures) == 3
    assert torch.cat(figures).mean().item() == pytest.approx(float(table(undisturbed)[2]["val/psnr"]), abs=1e-4)


def test_two_runs_and_any_number_of_workers_give_the_same_weights(undisturbed: Path, tmp_path: Path) -> None:
    tiny.train(tmp_path / "again", "trainer.max_epochs=3", "data.num_workers=2")
    assert tiny.same(tiny.state(tmp_path / "again"), tiny.state(undisturbed))
    tiny.train(tmp_path / "other", "trainer.max_epochs=3", "seed=1")
    assert not tiny.same(tiny.state(tmp_path / "other"), tiny.state(undisturbed))


def test_a_resumed_run_ends_bit_identical_past_torn_checkpoints(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "run"
    stop_at(5, monkeypatch)  # in the third epoch; two are saved
    with pytest.raises(RuntimeError, match="power cut"):
        tiny.train(run_dir, "trainer.max_epochs=3", "resume=auto")
    monkeypatch.undo()
    last = run_dir / "checkpoints" / "last.ckpt"
    for spoil in ("whole", "torn", "zeroed"):
        copy = tmp_path / spoil
        shutil.copytree(run_dir, copy)
        whole = last.read_bytes()
        if spoil != "whole":
            middle = len(whole) // 2
            (copy / "checkpoints" / "last.ckpt").unlink()  # previous.ckpt may be another name of the same file
            (copy / "checkpoints" / "last.ckpt").write_bytes(whole[:middle] + (bytes(len(whole) - middle) if spoil == "zeroed" else b""))
            assert saving.sound_checkpoint(copy) == copy / "checkpoints" / "previous.ckpt"
        workers = "data.num_workers=1" if spoil == "whole" else "data.num_workers=0"  # which fetch ahead of the loop
        tiny.train(copy, "trainer.max_epochs=3", "resume=auto", workers)
        assert tiny.same(tiny.state(copy), tiny.state(undisturbed)), spoil
        assert [{**row, "lr": ""} for row in table(copy)] == [{**row, "lr": ""} for row in table(undisturbed)]
    for path in (run_dir / "checkpoints").iterdir():
        path.write_bytes(b"")
    tiny.train(run_dir, "trainer.max_epochs=3", "resume=auto")  # nothing whole is left: from the start
    assert tiny.same(tiny.state(run_dir), tiny.state(undisturbed))


def test_a_finished_run_is_left_alone_and_another_recipe_is_refused(undisturbed: Path) -> None:
    before = (undisturbed / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    outcome = tiny.train(undisturbed, "trainer.max_epochs=3", "resume=auto", "name=other", "data.num_workers=1")
    assert outcome.figures["psnr"] == pytest.approx(float(table(undisturbed)[2]["val/psnr"]))
    with pytest.raises(UsageError, match=r"max_epochs: 3 there, 4 now"):
        tiny.train(undisturbed, "trainer.max_epochs=4", "resume=auto")
    with pytest.raises(UsageError, match="already holds a training"):
        tiny.train(undisturbed, "trainer.max_epochs=3")
    assert (undisturbed / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


def test_a_kill_after_the_last_epoch_costs_nothing(undisturbed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(undisturbed, copy)
    stored = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**stored, "finished": False, "figures": {}}))
    outcome = tiny.train(copy, "trainer.max_epochs=3", "resume=auto")
    assert outcome.figures == stored["figures"]
    assert json.loads((copy / "run.json").read_text())["finished"]
    assert tiny.same(tiny.state(copy), tiny.state(undisturbed))


def test_what_tells_recipes_apart() -> None:
    def fingerprint(*overrides: str) -> str:
        return runs.run_of(compose("train", ["data=reside_indoor", *overrides])).fingerprint

    for same in ("name=other", "run_dir=/elsewhere", "resume=auto", "logger=tensorboard", "data.num_workers=3"):
        assert fingerprint(same) == fingerprint(), same
    for other in ("callbacks=ema", "trainer.devices=2", "data.crop_size=16", "data.root=/elsewhere"):
        assert fingerprint(other) != fingerprint(), other


def test_a_run_that_time_ended_is_not_finished(undisturbed: Path, tmp_path: Path) -> None:
    tiny.train(tmp_path / "run", "trainer.max_epochs=3", "+trainer.max_time=00:00:00:00")
    assert not json.loads((tmp_path / "run" / "run.json").read_text())["finished"]
    assert json.loads((undisturbed / "run.json").read_text())["finished"]


def test_auto_finds_the_newest_unfinished_run_of_the_same_recipe(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "outputs" / "train"
    new = root / "x" / "2026-01-09_00-00-00"
    for i, (name, finished) in enumerate([("a", False), ("b", False), ("c", True)]):
        folder = root / name / f"2026-01-0{i + 1}_00-00-00"
        shutil.copytree(undisturbed, folder)
        stored = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**stored, "finished": finished}))
        os.utime(folder / "run.json", (1e9 + i, 1e9 + i))
    run = runs.run_of(tiny.config(new, "trainer.max_epochs=3", "name=else"))
    assert runs.find_run(run, new).parent.name == "b"
    assert runs.find_run(run, tmp_path / "given") == tmp_path / "given"
    assert runs.find_run(runs.run_of(tiny.config(new, "trainer.max_epochs=4")), new) == new
    # Nor does it take one in which somebody elsewhere may train, and says so.
    lock = root / "b" / "2026-01-02_00-00-00" / "run.lock"
    lock.write_text(json.dumps({"pid": 7, "host": "elsewhere", "start": "then", "since": "then"}))
    assert runs.find_run(run, new, say=True).parent.name == "a"
    said = capsys.readouterr().out
    assert "process 7 on elsewhere" in said
    assert str(lock) in said
    lock.unlink()
    # Going on elsewhere takes away the folder that was made for this start.
    new.mkdir(parents=True)
    (new / "config.yaml").write_text("")
    tiny.train(new, "trainer.max_epochs=3", "resume=auto")
    assert not new.exists()


def test_init_takes_weights_and_resume_refuses_what_is_no_training(undisturbed: Path, tmp_path: Path) -> None:
    weights = undisturbed / "checkpoints" / "best.ckpt"
    tiny.train(
        tmp_path / "tuned", f"init='{weights}'", "trainer.max_epochs=1", "model.optimizer.lr=1e-12", "model.optimizer.weight_decay=0"
    )
    start, end = tiny.state(undisturbed, "best"), tiny.state(tmp_path / "tuned")
    parameters = [key for key in start if "running" not in key and "num_batches" not in key]
    assert all(torch.allclose(start[key], end[key], atol=1e-8) for key in parameters)
    optimizer = torch.load(tmp_path / "tuned" / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    assert next(iter(optimizer["state"].values()))["step"] == 2  # of its own two batches
    torch.save({"state_dict": start}, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match="use init="):
        tiny.train(tmp_path / "b", f"resume='{tmp_path / 'weights.pth'}'")
    with pytest.raises(UsageError, match="another network"):
        tiny.train(tmp_path / "c", "model=aodnet", f"resume='{weights}'")
    (tmp_path / "torn.ckpt").write_bytes(weights.read_bytes()[:999])
    with pytest.raises(UsageError, match=r"torn\.ckpt"):
        tiny.train(tmp_path / "d", f"resume='{tmp_path / 'torn.ckpt'}'")
    with pytest.raises(UsageError, match="weights of another network"):
        tiny.train(tmp_path / "e", "model=aodnet", f"init='{weights}'")


def test_resume_from_a_file_goes_on_past_its_run(undisturbed: Path, tmp_path: Path) -> None:
    tiny.train(tmp_path / "longer", "trainer.max_epochs=4", f"resume='{undisturbed / 'checkpoints' / 'last.ckpt'}'")
    assert [row["epoch"] for row in table(tmp_path / "longer")] == ["3"]


def test_best_follows_the_highest_psnr_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([20.0, 30.0, 10.0])
    monkeypatch.setattr(saving, "float", lambda value: next(scores), raising=False)
    tiny.train(tmp_path / "run", "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=1")
    assert tiny.same(tiny.state(tmp_path / "run", "best"), tiny.state(tmp_path / "run", "previous"))


def test_a_kill_before_last_is_renamed_has_the_best_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def killed(source: Any, target: Any) -> None:
        if Path(target).name == "last.ckpt":
            raise RuntimeError("power cut")
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(RuntimeError, match="power cut"):
        tiny.train(tmp_path / "run", "model=aodnet", "trainer.max_epochs=1")
    assert tiny.same(tiny.state(tmp_path / "run", "best"), tiny.state(tmp_path / "run", "new"))


def test_frozen_statistics_stay_and_the_rest_of_the_last_epochs_trains(tmp_path: Path) -> None:
    tiny.train(tmp_path / "run", "trainer.max_epochs=6", "norm.freeze_after=4", "schedule.scale=false", "schedule.warmup=0")
    before, after = tiny.state(tmp_path / "run", "previous"), tiny.state(tmp_path / "run", "last")
    statistics = [key for key in before if "running" in key]
    assert statistics
    assert all(torch.equal(before[key], after[key]) for key in statistics)
    assert not torch.equal(before["network.layers.0.blocks.0.norm.weight"], after["network.layers.0.blocks.0.norm.weight"])


@pytest.mark.parametrize("model", ["aodnet", "gcanet"])
def test_the_baselines_train_too(model: str, tmp_path: Path) -> None:
    tiny.train(tmp_path / "run", f"model={model}", "debug=fast", "trainer.max_epochs=1", "data.crop_size=32")
    assert float(table(tmp_path / "run")[0]["train/mse"]) > 0


def test_tensorboard_writes_its_events(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tiny.train(tmp_path / "run", "logger=tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {"train/loss", "train/l1", "val/psnr", "lr"} <= set(events.Tags()["scalars"])
    assert (tmp_path / "run" / "metrics.csv").is_file()


def test_a_missing_tensorboard_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dehaze_zoo.training.loggers.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install"):
        tiny.train(tmp_path / "run", "logger=tensorboard")


# ---------------------------------------------------------------------------------- in processes of their own, as from a shell


ENV = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")} | {"OMP_NUM_THREADS": "1"}


def verb(run_dir: Path, *overrides: str, before: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    words = ["dehaze_zoo.train", *tiny.overrides_of(*overrides), f"run_dir={run_dir}"]
    start = [sys.executable, "-m", *words]
    if before:
        start = [
            sys.executable,
            "-c",
            f"{before}\nimport runpy, sys\nsys.argv = {words}\nrunpy.run_module('dehaze_zoo.train', run_name='__main__')",
        ]
    return subprocess.run(start, capture_output=True, text=True, timeout=120, env={**ENV, **env})


def test_two_ranks_see_the_samples_and_validation_images_of_one(tmp_path: Path) -> None:
    """AOD-Net has no batch norm: gradients over two ranks are those of the whole batch."""
    same = ["model=aodnet", "callbacks.grid.pictures=2"]
    done = verb(tmp_path / "two", *same, "trainer=ddp_cpu")
    assert done.returncode == 0, done.stderr
    tiny.train(tmp_path / "one", *same)
    one, two = table(tmp_path / "one"), table(tmp_path / "two")
    assert len(two) == len(one) == 2
    for a, b in zip(one, two, strict=True):
        assert a["step"] == b["step"]
        assert float(a["train/loss"]) == pytest.approx(float(b["train/loss"]), rel=1e-4)
    assert float(one[1]["val/psnr"]) == pytest.approx(float(two[1]["val/psnr"]), abs=1e-3)  # 3 images: 2 and 1, none twice
    assert float(one[1]["val/ssim"]) == pytest.approx(float(two[1]["val/ssim"]), abs=1e-4)
    weights = tiny.state(tmp_path / "one"), tiny.state(tmp_path / "two")
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-5) for key in weights[0])
    assert {path.name for path in (tmp_path / "two").iterdir()} >= {"config.yaml", "run.json", "metrics.csv", "images", "checkpoints"}


def test_wandb_runs_offline_without_an_account_and_says_how_to_sync(tmp_path: Path) -> None:
    away = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    done = verb(tmp_path / "run", "logger=wandb", **away)
    assert done.returncode == 0, done.stderr
    said = next(line for line in done.stdout.splitlines() if "wandb sync" in line)
    folder = Path(said.rpartition("wandb sync ")[2])
    assert folder.is_dir()
    assert list(folder.glob("*.wandb"))
    assert list((folder / "files" / "media").rglob("*.png"))  # the grid of pictures
    assert len(table(tmp_path / "run")) == 2
