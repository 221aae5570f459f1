"""MPRNet's and KTDN's recipes: what each compares, what moves and what does not."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import parity
import tiny
from dehaze_zoo.checkpoints.writing import write_safetensors
from dehaze_zoo.cli import compose
from dehaze_zoo.errors import UsageError
from dehaze_zoo.losses import CharbonnierLoss, EdgeLoss, KnowledgeTransferLoss, L1Loss, LaplacianLoss
from dehaze_zoo.networks.registry import build_model
from dehaze_zoo.training.build import build_module
from dehaze_zoo.training.mprnet import mixed


def batch(count: int = 2, side: int = 32, seed: int = 1) -> dict[str, Any]:
    hazy = torch.cat([parity.image(seed + i, side, side) for i in range(count)])
    return {"hazy": hazy, "clear": hazy.flip(3), "name": [f"{i}.png" for i in range(count)]}


def test_mprnets_terms_are_sums_over_its_stages() -> None:
    module = build_module(compose("train", ["model=mprnet_40"]))
    data = batch()
    terms = module.losses_of(data)
    outputs = module.network.stages(data["hazy"])  # type: ignore[operator]
    assert terms["charbonnier"].item() == pytest.approx(sum(CharbonnierLoss()(o, data["clear"]).item() for o in outputs), rel=1e-5)
    assert terms["edge"].item() == pytest.approx(0.05 * sum(EdgeLoss()(o, data["clear"]).item() for o in outputs), rel=1e-5)


def test_mixup_blends_hazy_and_clear_alike_with_partners_of_the_batch() -> None:
    torch.manual_seed(0)
    hazy = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    a, b = mixed(hazy, hazy / 2, 0.6)
    assert torch.allclose(a / 2, b)
    assert not torch.allclose(a, hazy)
    assert a.amin() >= 0
    assert a.amax() <= 3
    assert torch.equal(a.amin((1, 2, 3)), a.amax((1, 2, 3)))  # one share a sample


def _of(epoch: int, module: object) -> int:
    return epoch


def test_mixup_begins_after_its_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    module = build_module(compose("train", ["experiment=mprnet_denoising", "model=mprnet_40", "trainer.max_epochs=250"]))
    calls = []

    def mix(hazy: torch.Tensor, clear: torch.Tensor, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(beta)
        return hazy, clear

    monkeypatch.setattr("dehaze_zoo.training.mprnet.mixed", mix)
    for epoch, expected in ((4, 0), (5, 1)):
        monkeypatch.setattr(type(module), "current_epoch", property(partial(_of, epoch)))
        assert set(module.losses_of(batch(1))) == {"charbonnier"}
        assert len(calls) == expected


def test_the_teacher_learns_clear_from_clear() -> None:
    module = build_module(compose("train", ["model=ktdn_teacher"])).eval()
    data = batch(1)
    terms = module.losses_of(data)
    restored = module.network(data["clear"])
    assert terms["l1"].item() == pytest.approx(L1Loss()(restored, data["clear"]).item(), rel=1e-5)
    assert terms["laplacian"].item() == pytest.approx(0.5 * LaplacianLoss()(restored, data["clear"]).item(), rel=1e-5)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    file = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    write_safetensors(build_model("ktdn"), file, "ktdn")
    return file


def student(teacher: Path) -> Any:
    return build_module(compose("train", ["model=ktdn", f"teacher='{teacher}'"]))


def test_the_student_is_pulled_to_the_teachers_features_and_the_teacher_does_not_move(teacher: Path) -> None:
    module = student(teacher)
    frozen = module._teacher[0]
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    data = batch()
    module.train()
    terms = module.losses_of(data)
    expected = KnowledgeTransferLoss()(module.network.features(data["hazy"]), frozen.features(data["clear"]))
    assert terms["knowledge_transfer"].item() == pytest.approx(expected.item(), rel=1e-3)
    optimizer = module.configure_optimizers()[0]
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
    assert all(parameter.grad is not None for parameter in module.network.parameters())
    assert not frozen.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen.parameters())
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())
    assert all(key.startswith("network.") for key in module.state_dict())


def test_nothing_of_the_teachers_forward_is_kept_for_the_backward(teacher: Path) -> None:
    module, data = student(teacher), batch(1)
    kept, alone = [0], [0]

    def counting(total: list[int]) -> Any:
        def count(tensor: torch.Tensor) -> torch.Tensor:
            total[0] += tensor.numel()
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)

    with counting(kept):
        terms = module.losses_of(data)
    # The only thing that comes from the teacher is the difference's sign, of the transferred feature's size.
    with counting(alone):
        restored, feature = module.network.restored_and_features(data["hazy"])
    assert kept[0] - alone[0] <= 2 * feature.numel() + 60 * restored.numel()
    assert terms["knowledge_transfer"].requires_grad


def test_a_student_without_a_teacher_is_told_what_to_do() -> None:
    with pytest.raises(UsageError, match="ktdn_teacher"):
        build_module(compose("train", ["model=ktdn"]))
    module = build_module(compose("train", ["model=ktdn", "loss=[l1,laplacian]"]))
    assert set(module.losses_of(batch(1))) == {"l1", "laplacian"}


def test_a_teacher_of_another_network_is_named(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    write_safetensors(build_model("aodnet"), file, "aodnet")
    with pytest.raises(UsageError, match=r"other\.safetensors"):
        build_module(compose("train", ["model=ktdn", f"teacher='{file}'"]))


@pytest.mark.parametrize(("experiment", "precision"), [("ktdn", "32-true"), ("ktdn_small", "bf16-mixed")])
def test_teacher_and_student_are_trained_in_turn_by_one_experiment(experiment: str, precision: str, tmp_path: Path) -> None:
    """Through the command line's own path; the teacher's run is a process of its own."""
    from dehaze_zoo import train
    from dehaze_zoo.cli import run_verb

    words = [*tiny.TINY, "trainer.max_epochs=1", "data.samples_per_epoch=2", "data.batch_size=2", "data.val_pairs=1"]
    words = list({text.partition("=")[0]: text for text in words}.values())
    assert run_verb("train", train.job, [f"experiment={experiment}", f"run_dir={tmp_path / 'run'}", *words]) == 0
    assert (tmp_path / "run" / "teacher" / "checkpoints" / "best.ckpt").is_file()
    config, teachers = ((folder / "config.yaml").read_text() for folder in (tmp_path / "run", tmp_path / "run" / "teacher"))
    assert str(tmp_path / "run" / "teacher" / "checkpoints" / "best.ckpt") in config
    assert f"precision: {precision}" in config
    assert f"precision: {precision}" in teachers
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
