"""What a step can be told: scaled rates, compiled code, another precision, accumulated and clipped gradients, averaged weights."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from dehaze_zoo.errors import UsageError
from dehaze_zoo.training.plan import write_plan

AOD = ["model=aodnet", "trainer.max_epochs=1", "data.samples_per_epoch=16"]


def loaded(run_dir: Path) -> dict[str, Any]:
    held: dict[str, Any] = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    return held


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_rates_scale_with_the_batch_on_request(tmp_path: Path) -> None:
    plain = rows(write_plan(tiny.config(tmp_path, "data.batch_size=64"), tmp_path))
    cfg = tiny.config(tmp_path, "data.batch_size=64", "trainer.accumulate_grad_batches=4", "scale_lr=true")
    scaled = rows(write_plan(cfg, tmp_path))
    assert float(scaled[1]["lr"]) == pytest.approx(2 * float(plain[1]["lr"]))  # 256 of the recipe's 128
    assert scaled[1]["weight_decay"] == plain[1]["weight_decay"]
    tiny.train(tmp_path / "run", *AOD, "scale_lr=true", "schedule=constant")
    assert float(rows(tmp_path / "run" / "metrics.csv")[0]["lr"]) == pytest.approx(1e-3 * 4 / 32)


def test_accumulated_batches_are_one_large_one(tmp_path: Path) -> None:
    tiny.train(tmp_path / "large", *AOD, "data.batch_size=8")
    tiny.train(tmp_path / "small", *AOD, "data.batch_size=2", "trainer.accumulate_grad_batches=4", "callbacks.checkpoints.every_steps=1")
    large, small = tiny.state(tmp_path / "large"), tiny.state(tmp_path / "small")
    assert all(torch.allclose(large[key], small[key], atol=1e-6) for key in large)
    assert loaded(tmp_path / "small")["global_step"] == 2


def test_a_compiled_training_ends_where_a_plain_one_does_under_the_same_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch's compiler makes of it, in minutes, benchmarks/train_step.py compares; here, that training alone goes through it."""
    seen: list[bool] = []

    def compiled_by_torch(code: Any) -> Any:
        return lambda *inputs: (seen.append(code.__self__.training), code(*inputs))[1]  # type: ignore[func-returns-value]

    monkeypatch.setattr(torch, "compile", compiled_by_torch)
    tiny.train(tmp_path / "plain", *AOD)
    tiny.train(tmp_path / "compiled", *AOD, "compile=true")
    plain, compiled = tiny.state(tmp_path / "plain"), tiny.state(tmp_path / "compiled")
    assert seen == [True] * 4  # batches; three pictures were validated without
    assert list(plain) == list(compiled)
    assert tiny.same(plain, compiled)


def test_other_precisions_train_and_are_checkpointed_in_float32(tmp_path: Path) -> None:
    tiny.train(tmp_path / "run", *AOD, "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=0.1", "trainer.deterministic=true")
    assert all(value.dtype == torch.float32 for value in tiny.state(tmp_path / "run").values())
    with pytest.raises(UsageError, match=r"optimizer\.fused=null"):
        tiny.trainer(tmp_path, "model=mprnet", "trainer.precision=16-mixed", "trainer.gradient_clip_val=1")


def test_averaged_weights_are_what_checkpoints_hold(tmp_path: Path) -> None:
    tiny.train(tmp_path / "run", *AOD, "callbacks=ema", "callbacks.ema.decay=0.9")
    held = loaded(tmp_path / "run")
    averaged, current = held["state_dict"], held["current_model_state"]
    assert list(averaged) == list(current)
    assert any(not torch.equal(averaged[key], current[key]) for key in averaged)
