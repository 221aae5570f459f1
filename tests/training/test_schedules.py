"""The published schedules at their own length and scaled, and plan.csv."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path

import pytest

from dehaze_zoo.cli import compose
from dehaze_zoo.errors import UsageError
from dehaze_zoo.training.placement import place
from dehaze_zoo.training.plan import write_plan
from dehaze_zoo.training.schedules import ConstantSchedule, GUNetSchedule, MPRNetSchedule, NormSchedule


def rows(run_dir: Path, *overrides: str) -> list[dict[str, str]]:
    run_dir.mkdir(exist_ok=True)
    cfg = compose("train", [f"run_dir='{run_dir}'", *overrides])
    with open(write_plan(cfg, run_dir), newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("model", ["gunet_t", "gunet_s", "gunet_b", "gunet_d"])
def test_the_plan_is_gunets_published_one_for_all_1001_epochs(model: str, tmp_path: Path) -> None:
    plan = rows(tmp_path / "run", f"model={model}", "data=reside_indoor")
    assert [int(row["epoch"]) for row in plan] == list(range(1001))
    lr = {"gunet_t": 16e-4, "gunet_s": 16e-4, "gunet_b": 4e-4, "gunet_d": 4e-4}[model]
    low = lr / 100
    for epoch, row in enumerate(plan):
        cosine = low + 0.5 * (lr - low) * (1 + math.cos(math.pi * (epoch - 50) / 950))
        assert float(row["lr"]) == pytest.approx(low + epoch * (lr - low) / 50 if epoch < 50 else cosine, rel=1e-12)
        assert float(row["weight_decay"]) == pytest.approx(0.005 * (1 + math.cos(math.pi * epoch / 1000)), abs=1e-17)
        assert row["batch_norm"] == ("frozen" if epoch > 800 else "batch")


def test_the_plan_needs_no_torch_no_data_and_holds_over_ranks(tmp_path: Path) -> None:
    code = (
        "import sys, runpy\n"
        "sys.argv = ['train', 'model=gunet_b', 'data=reside_indoor', 'plan=true', 'trainer=ddp', 'trainer.devices=8']\n"
        f"sys.argv += ['run_dir={tmp_path}/p']\n"
        "try: runpy.run_module('dehaze_zoo.train', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code\n"
        "assert not {'torch', 'pytorch_lightning', 'cv2'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    with open(tmp_path / "p" / "plan.csv", newline="") as file:
        norms = [row["batch_norm"] for row in csv.DictReader(file)]
    assert norms == ["sync"] * 801 + ["frozen"] * 200  # 64 samples over 8 GPUs: 8 each, below 16
    assert not (tmp_path / "p" / "checkpoints").exists()


@pytest.mark.parametrize("epochs", [1, 2, 3, 10, 100, 1500])
@pytest.mark.parametrize("scale", [True, False])
def test_marks_move_with_the_length_and_never_divide_by_zero(epochs: int, scale: bool, tmp_path: Path) -> None:
    schedule = GUNetSchedule(max_epochs=epochs, scale=scale)
    norm = NormSchedule(max_epochs=epochs, scale=scale, length=1001, freeze_after=800)
    rates = [schedule.lr(epoch, 1.0) for epoch in range(epochs)]
    assert all(0.01 <= rate <= 1 for rate in rates)
    assert max(rates) == (1 if scale or epochs > 50 else rates[-1])
    assert all(0 <= schedule.weight_decay(epoch, 1.0) <= 1 for epoch in range(epochs))
    first_frozen = next((epoch for epoch in range(epochs) if norm.frozen(epoch)), None)
    mark = 800 * epochs // 1001 if scale else 800
    assert first_frozen == (mark + 1 if mark + 1 < epochs else None)
    if scale and epochs > 1:
        assert rates[-1] == pytest.approx(0.01)


def test_the_plan_scales_with_max_epochs_unless_told_not_to(tmp_path: Path) -> None:
    scaled = rows(tmp_path / "a", "trainer.max_epochs=100")
    assert float(scaled[4]["lr"]) == pytest.approx(1.6e-3)  # 50 * 100 // 1001 = 4 epochs of warm-up
    assert [row["batch_norm"] for row in scaled].index("frozen") == 80  # 800 * 100 // 1001 = 79 is the last
    kept = rows(tmp_path / "b", "trainer.max_epochs=100", "schedule.scale=false")
    assert float(kept[50]["lr"]) == pytest.approx(1.6e-3)
    assert {row["batch_norm"] for row in kept} == {"batch"}


def test_mprnets_warm_up_and_cosine() -> None:
    schedule = MPRNetSchedule(max_epochs=250)
    rates = [schedule.lr(epoch, 2e-4) for epoch in range(250)]
    assert rates[:3] == pytest.approx([2e-4 / 3, 4e-4 / 3, 2e-4])
    for epoch in range(3, 250):
        after = epoch + 1 - 3  # of the N - 3 epochs left
        assert rates[epoch] == pytest.approx(1e-6 + 0.5 * (2e-4 - 1e-6) * (1 + math.cos(math.pi * after / 247)))
    assert rates[-1] == pytest.approx(1e-6)
    for epochs in (1, 2, 3):
        short = MPRNetSchedule(max_epochs=epochs)
        assert short.lr(0, 2e-4) == 2e-4
        assert all(1e-6 <= short.lr(epoch, 2e-4) <= 2e-4 for epoch in range(epochs))


def test_constant_stays_and_no_epoch_at_all_is_refused() -> None:
    assert ConstantSchedule(max_epochs=9).lr(8, 0.1) == 0.1
    with pytest.raises(UsageError, match="max_epochs=0"):
        ConstantSchedule(max_epochs=0)


@pytest.mark.parametrize("model", ["dcp", "identity"])
def test_what_has_nothing_to_train_says_so(model: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to train"):
        rows(tmp_path / "run", f"model={model}")


def test_placement_of_ranks_and_what_it_refuses() -> None:
    cpu = place({"accelerator": "cpu", "devices": 2, "num_nodes": 1})
    assert (cpu.ranks, cpu.gpus, cpu.batch_per_device(8)) == (2, 0, 4)
    with pytest.raises(UsageError, match="batch_size=3"):
        cpu.batch_per_device(3)
    with pytest.raises(UsageError, match="batch_size=1"):
        cpu.batch_per_device(1)
    planned = place({"accelerator": "gpu", "devices": 4, "num_nodes": 2}, plan=True)
    assert planned.gpus == 8
    assert place({"accelerator": "auto", "devices": 1, "num_nodes": 1}).ranks == 1


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="trainer=cpu"):
        place({"accelerator": "gpu", "devices": "auto", "num_nodes": 1})
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UsageError, match="sees 1 GPU"):
        place({"accelerator": "gpu", "devices": 2, "num_nodes": 1})
    assert place({"accelerator": "gpu", "devices": "auto", "num_nodes": 1}).devices == 1
