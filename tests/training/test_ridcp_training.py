"""RIDCP's two trainings: terms, whom each teaches, going on after a kill, accumulation, precision, and what is wrong use."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F

import parity
import tiny
from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.checkpoints.writing import write_safetensors
from dehaze_zoo.cli import compose
from dehaze_zoo.errors import UsageError
from dehaze_zoo.networks.blocks.quantiser import code_loss, codebook_loss, gram_loss
from dehaze_zoo.networks.registry import build_model
from dehaze_zoo.networks.ridcp import VQGAN
from dehaze_zoo.training import codes as codes_
from dehaze_zoo.training.adversarial import AdversarialModule
from dehaze_zoo.training.build import build_module
from dehaze_zoo.training.ridcp import CodebookModule, load_stage1

BOTH = ["+model.network.codebook_size=32", "+model.network.width=32"]
JUDGE = ["model.discriminator.width=8"]
STAGE1 = ["model=ridcp_vqgan", "loss=l1", *BOTH, *JUDGE]
STAGE2 = ["model=ridcp", "loss=l1", *BOTH, *JUDGE, "+model.network.depth=1", "data=ridcp_haze"]
SHORT = ["trainer.max_epochs=6", "data.samples_per_epoch=4", "data.batch_size=2", "data.val_pairs=1"]


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    net = build_model("ridcp_vqgan", codebook_size=32, width=32)
    assert isinstance(net, VQGAN)
    with torch.no_grad():  # apart, so that more than one code is used
        net.quantiser.embedding.weight.copy_(net.unquantised(parity.image(1, 32, 32))[0].flatten(1).t()[:32])
    file = tmp_path_factory.mktemp("stage1") / "stage1.safetensors"
    write_safetensors(net, file, "ridcp_vqgan", {"codebook_size": 32, "width": 32})
    return file


def recipe(stage: int, stage1: Path) -> list[str]:
    return [*STAGE1] if stage == 1 else [*STAGE2, f"stage1='{stage1}'"]


def batch(count: int = 2, seed: int = 1) -> dict[str, Any]:
    hazy = torch.cat([parity.image(seed + i, 32, 32) for i in range(count)])
    return {"hazy": hazy, "clear": hazy.flip(3), "name": [f"{i}.png" for i in range(count)]}


def table(run_dir: Path) -> list[dict[str, str]]:
    with open(run_dir / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_stage_1s_terms_are_the_published_ones() -> None:
    torch.manual_seed(0)
    module = build_module(compose("train", STAGE1)).eval()
    assert isinstance(module, AdversarialModule)
    assert module.discriminator is not None
    data = batch()
    terms = module.losses_of(data)
    made = module.network.reconstruct(data["clear"])  # type: ignore[operator]
    judge = module.discriminator
    assert terms["l1"].item() == pytest.approx((made.image - data["clear"]).abs().mean().item(), rel=1e-5)
    assert terms["codebook"].item() == pytest.approx(codebook_loss(made.features, made.vectors).item(), rel=1e-5)
    assert terms["adversarial"].item() == pytest.approx(-0.1 * judge(made.image).mean().item(), rel=1e-4)
    hinge = F.relu(1 - judge(data["clear"])).mean() + F.relu(1 + judge(made.image)).mean()
    assert terms["discriminator"].item() == pytest.approx(hinge.item(), rel=1e-4)
    assert list(terms) == ["l1", "codebook", "adversarial", "discriminator"]
    vqvae = build_module(compose("train", ["model=ridcp_vqvae", *BOTH]))
    assert list(vqvae.losses_of(data)) == ["l1", "codebook"]
    assert len(vqvae.configure_optimizers()) == 1


def test_stage_2s_terms_are_the_published_ones(stage1: Path) -> None:
    module = build_module(compose("train", recipe(2, stage1))).eval()
    assert isinstance(module, AdversarialModule)
    assert module.discriminator is not None
    data = batch()
    terms = module.losses_of(data)
    target = load_stage1(stage1).quantised(data["clear"])
    made = module.network.branches(data["hazy"], alpha=0)  # type: ignore[operator]
    judge = module.discriminator
    wanted = {
        "l1": (made.restored - data["clear"]).abs().mean(),
        "code": code_loss(made.features, target),
        "gram": gram_loss(made.features, target),
        "adversarial": -0.1 * judge(made.features).mean(),
        "discriminator": F.relu(1 - judge(target)).mean() + F.relu(1 + judge(made.features)).mean(),
    }
    assert list(terms) == list(wanted)
    for name, value in wanted.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-4), name


@pytest.mark.parametrize("stage", [1, 2])
def test_each_term_teaches_its_own(stage: int, stage1: Path) -> None:
    """The sum goes backward at once; the discriminator hears of its term alone, the generator of the others."""
    module = build_module(compose("train", recipe(stage, stage1)))
    assert isinstance(module, AdversarialModule)
    assert module.discriminator is not None
    terms = module.losses_of(batch())
    judge, generator = list(module.discriminator.parameters()), module.generator_parameters()
    for name, term in terms.items():
        taught = torch.autograd.grad(term, [*judge, *generator], retain_graph=True, allow_unused=True)
        by_judge, by_generator = taught[: len(judge)], taught[len(judge) :]
        assert any(grad is not None for grad in by_judge) == (name == "discriminator"), name
        assert any(grad is not None for grad in by_generator) == (name != "discriminator"), name
    torch.stack(list(terms.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in (*judge, *generator))


def test_the_semantic_term_pools_codes_to_vggs_grid(tmp_path: Path) -> None:
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(1)
    vgg = make_layers(cfgs["E"])
    torch.save({f"features.{key}": value for key, value in vgg.state_dict().items()}, tmp_path / "vgg19.pth")
    semantic = ["model.semantic.weight=0.1", f"model.semantic.weights='{tmp_path / 'vgg19.pth'}'"]
    module: Any = build_module(compose("train", [*STAGE1, *semantic]))
    data = batch()
    term = module.losses_of(data)["semantic"]
    made = module.network.reconstruct(data["clear"])
    norm = (data["clear"] - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    target = vgg[:27](norm)
    ours = F.relu(module.semantic.conv(F.avg_pool2d(made.vectors, 2)))
    assert term.item() == pytest.approx(0.1 * F.mse_loss(ours, target).item(), rel=1e-4)
    assert any(parameter is module.semantic.conv.weight for parameter in module.generator_parameters())
    assert not any("vgg" in key for key in module.state_dict())
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match="vgg19"):
        build_module(compose("train", [*STAGE1, "model.semantic.weight=0.1", f"model.semantic.weights='{tmp_path / 'other.pth'}'"]))


def test_missing_weights_of_the_semantic_term_say_how_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import VGG19_Weights

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(type(VGG19_Weights.DEFAULT), "get_state_dict", offline)
    with pytest.raises(UsageError, match=r"model.semantic.weight=0"):
        build_module(compose("train", [*STAGE1, "model.semantic.weight=0.1"]))


def stop_at(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original: Any = AdversarialModule.training_step

    def training_step(self: AdversarialModule, batch: Any, batch_idx: int) -> Any:
        if (self.current_epoch, batch_idx) == (epoch, 1):
            raise RuntimeError("power cut")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(AdversarialModule, "training_step", training_step)


@pytest.mark.parametrize("stage", [1, 2])
def test_three_epochs_a_kill_and_three_more_are_six(stage: int, stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage 1 goes on from the end of the third epoch, stage 2 from the midst of the fourth, where codes are half counted."""
    words = [*recipe(stage, stage1), *SHORT, "model.revive=true" if stage == 1 else "callbacks.checkpoints.every_steps=1"]
    tiny.train(tmp_path / "whole", *words)
    stop_at(3, monkeypatch)
    with pytest.raises(RuntimeError, match="power cut"):
        tiny.train(tmp_path / "cut", *words, "resume=auto")
    monkeypatch.undo()
    assert len(table(tmp_path / "cut")) == 3
    tiny.train(tmp_path / "cut", *words, "resume=auto")
    assert tiny.same(tiny.state(tmp_path / "cut"), tiny.state(tmp_path / "whole"))
    assert any(key.startswith("discriminator.") for key in tiny.state(tmp_path / "whole"))
    rows = table(tmp_path / "whole")
    assert table(tmp_path / "cut") == rows
    names = {"l1", "adversarial", "discriminator", "loss", "perplexity", "dead_codes"} | ({"codebook"} if stage == 1 else {"code", "gram"})
    assert {f"train/{name}" for name in names} <= rows[0].keys()
    for row in rows:
        dead = float(row["train/dead_codes"])
        assert 1 <= float(row["train/perplexity"]) <= 32 - dead + 1e-9
    assert float(rows[-1]["train/l1"]) < float(rows[0]["train/l1"])
    pictures = {path.name for path in (tmp_path / "whole" / "images").iterdir()}
    assert ("codes_0005.png" in pictures) == (stage == 1)
    assert "epoch_0005.png" in pictures


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path) -> None:
    """Of a VQ-VAE, whose terms are means over samples."""
    words = ["model=ridcp_vqvae", *BOTH, "trainer.max_epochs=1", "data.val_pairs=1"]
    tiny.train(tmp_path / "large", *words, "data.samples_per_epoch=4", "data.batch_size=4")
    tiny.train(tmp_path / "small", *words, "data.samples_per_epoch=4", "data.batch_size=2", "trainer.accumulate_grad_batches=2")
    large, small = tiny.state(tmp_path / "large"), tiny.state(tmp_path / "small")
    assert all(torch.allclose(large[key], small[key], atol=2e-5) for key in large)


@pytest.mark.parametrize("stage", [1, 2])
def test_accumulated_terms_of_both_optimisers_equal_one_large_batch(stage: int, stage1: Path) -> None:
    """With the discriminator's: its spectral norm is held still, each forward in training refines it."""
    module = cast(Any, build_module(compose("train", recipe(stage, stage1))))
    module.discriminator.eval()
    data, parts = batch(4), [{key: value[i : i + 2] for key, value in batch(4).items()} for i in (0, 2)]
    sides = (module.generator_parameters(), list(module.discriminator.parameters()))
    gradients = []
    for together in ([data], parts):
        for each in together:
            (torch.stack(list(module.losses_of(each).values())).sum() / len(together)).backward()
        gradients.append([torch.cat([p.grad.flatten() for p in side]) for side in sides])
        module.zero_grad()
    for large, small in zip(*gradients, strict=True):
        assert (large - small).norm() < 1e-4 * large.norm()


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_for_each_optimiser_apart(algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float]] = []
    original = torch.optim.SGD.step

    def step(self: torch.optim.SGD, *args: Any, **kwargs: Any) -> Any:
        if not args and not kwargs.get("closure"):  # the discriminator's; the generator's clips in its closure
            for optimizer in module[0]._optimizers():
                grads = torch.cat([p.grad.flatten() for group in optimizer.param_groups for p in group["params"] if p.grad is not None])
                seen.append((float(grads.norm()), float(grads.abs().max())))
        return original(self, *args, **kwargs)

    module: list[AdversarialModule] = []
    begun = AdversarialModule.on_fit_start

    def on_fit_start(self: AdversarialModule) -> None:
        module.append(self)
        begun(self)

    monkeypatch.setattr(AdversarialModule, "on_fit_start", on_fit_start)
    monkeypatch.setattr(torch.optim.SGD, "step", step)
    sgd = [f"model.{of}._target_=torch.optim.SGD" for of in ("optimizer", "discriminator_optimizer")]
    no_betas = [f"~model.{of}.betas" for of in ("optimizer", "discriminator_optimizer")]
    words = [*STAGE1, *sgd, *no_betas, "trainer.max_epochs=1", "data.val_pairs=1", "data.samples_per_epoch=2", "data.batch_size=2"]
    tiny.train(tmp_path / "run", *words, "trainer.gradient_clip_val=0.01", f"+trainer.gradient_clip_algorithm={algorithm}")
    assert len(seen) == 2
    for norm, largest in seen:
        assert (norm if algorithm == "norm" else largest) == pytest.approx(0.01, rel=1e-3)


def test_both_optimisers_step_after_the_last_batch_of_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    original = AdversarialModule.step_both

    def step(self: AdversarialModule) -> None:
        before = [next(net.parameters()).clone() for net in (self.network, self.discriminator) if net is not None]
        original(self)
        after = [next(net.parameters()) for net in (self.network, self.discriminator) if net is not None]
        assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert all(p.grad is None for net in (self.network, self.discriminator) if net is not None for p in net.parameters())
        steps.append(int(self.trainer.fit_loop.epoch_loop.batch_idx))

    monkeypatch.setattr(AdversarialModule, "step_both", step)
    words = [*STAGE1, "trainer.max_epochs=1", "data.val_pairs=1", "data.samples_per_epoch=5", "data.batch_size=1"]
    tiny.train(tmp_path / "run", *words, "trainer.accumulate_grad_batches=2")
    assert steps == [1, 3, 4]


def test_a_batch_that_is_not_finite_is_left_out_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch of the first epoch: alone, and as half of a group of two."""
    original = CodebookModule.losses_of

    def losses_of(self: CodebookModule, batch: Any) -> dict[str, torch.Tensor]:
        terms = original(self, batch)
        first = self.trainer.fit_loop.epoch_loop.batch_idx <= 0 and self.current_epoch == 0
        return {name: term * float("nan") if first else term for name, term in terms.items()}

    monkeypatch.setattr(CodebookModule, "losses_of", losses_of)
    words = [*STAGE1, "trainer.max_epochs=2", "data.val_pairs=1", "data.samples_per_epoch=2", "data.batch_size=1", "on_nan=skip"]
    for together in (1, 2):
        run_dir = tmp_path / str(together)
        tiny.train(run_dir, *words, f"trainer.accumulate_grad_batches={together}")
        assert all(torch.isfinite(value).all() for value in tiny.state(run_dir).values())
        assert float(table(run_dir)[0]["skipped"]) == 1
        assert float(table(run_dir)[1]["train/loss"]) > 0


class Scaled:
    """An AdversarialModule's step under a gradient scaler, without a Trainer."""

    def __init__(self, scaler: Any, fused: bool = False, judged: bool = True) -> None:
        self.module = cast(Any, build_module(compose("train", [*STAGE1, "model.adversarial=0.1" if judged else "model.adversarial=0"])))
        parts = (self.module.generator_parameters(), *([self.judge.parameters()] if judged else []))
        optimizers = [torch.optim.SGD(part, lr=0.1, fused=fused) for part in parts]
        self.scaler = scaler

        def step(optimizer: Any) -> None:  # as Lightning's MixedPrecision does
            if not fused:
                scaler.unscale_(optimizer)
            self.module.on_before_optimizer_step(optimizer)
            scaler.step(optimizer)
            scaler.update()

        self.module.optimizers = lambda: [SimpleNamespace(step=partial(step, each), zero_grad=each.zero_grad) for each in optimizers]
        self.module._trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler), optimizers=optimizers)

    @property
    def judge(self) -> Any:
        return self.module.discriminator

    def weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        return next(iter(self.module.generator_parameters())).detach().clone(), self.judge.first.weight.detach().clone()


def test_a_gradient_scaler_scales_both_alike_and_skips_what_overflows() -> None:
    torch.manual_seed(0)
    run = Scaled(torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1))
    module: Any = run.module
    before = run.weights()
    for _ in range(2):  # the scale has grown in between
        torch.stack(list(module.losses_of(batch()).values())).sum().backward()
        generator, judge = (next(iter(p)).grad.clone() for p in (module.generator_parameters(), run.judge.parameters()))
        module.zero_grad()
        run.scaler.scale(torch.stack(list(module.losses_of(batch()).values())).sum()).backward()
        module.step_both()
        after = run.weights()
        assert torch.allclose(after[0], before[0] - 0.1 * generator, atol=1e-4)
        assert torch.allclose(after[1], before[1] - 0.1 * judge, atol=1e-3)
        before = after
    run.scaler.scale(torch.stack(list(module.losses_of(batch()).values())).sum()).backward()
    run.judge.first.weight.grad.fill_(float("inf"))
    scale = run.scaler.get_scale()
    module.step_both()
    assert torch.equal(run.weights()[1], before[1])
    assert not torch.equal(run.weights()[0], before[0])
    assert run.scaler.get_scale() < scale


@pytest.mark.parametrize("judged", [True, False])
def test_a_refused_step_goes_through_a_scaler_and_fused_optimisers(judged: bool) -> None:
    run = Scaled(torch.amp.GradScaler("cpu", init_scale=4.0), fused=True, judged=judged)
    module: Any = run.module
    weights = next(iter(module.generator_parameters()))
    before = weights.detach().clone()
    module._fed = False
    run.scaler.scale(torch.stack([0 * p.sum() for p in module.parameters() if p.requires_grad]).sum()).backward()
    module.step_both()
    assert torch.equal(weights, before)
    module._fed = True
    run.scaler.scale(torch.stack(list(module.losses_of(batch()).values())).sum()).backward()
    module.step_both()
    assert torch.isfinite(weights).all()
    assert not torch.equal(weights, before)


def test_stage_2_is_as_wide_as_its_stage_1(stage1: Path) -> None:
    words = ["model=ridcp", "loss=l1", *JUDGE, "+model.network.depth=1", f"stage1='{stage1}'"]
    module: Any = build_module(compose("train", words))
    assert module.network.quantiser.embedding.weight.shape == (32, 256)
    assert module.discriminator.first.in_channels == 256
    with pytest.raises(UsageError, match=r"features of 256 channels.*\n.*model.discriminator.channels=null"):
        build_module(compose("train", [*words, "model.discriminator.channels=512"]))
    with pytest.raises(UsageError, match=r"width 32, this network 64.*\n.*\+model.network.width out"):
        build_module(compose("train", [*words, "+model.network.width=64"]))


@torch.no_grad()
def test_a_quiet_start_is_stage_1s_features(stage1: Path) -> None:
    hazy, own = batch()["hazy"], load_stage1(stage1)
    aside = []
    for words in ([], ["model.quiet=0.1"], ["model.quiet=0"]):
        torch.manual_seed(0)
        network = cast(Any, build_module(compose("train", [*recipe(2, stage1), *words])).network)
        aside.append(float((network.unquantised(hazy) - own.unquantised(hazy)).abs().mean()))
    assert aside[0] > 5 * aside[1] > 5 * aside[2]
    assert aside[2] == pytest.approx(0, abs=1e-6)


def test_two_ranks_train_and_count_as_one(tmp_path: Path) -> None:
    """Both optimisers' gradients are those of the whole batch, and codes are counted over all ranks."""
    words = [*STAGE1, *SHORT, "trainer.max_epochs=2", "trainer.accumulate_grad_batches=2", "data.samples_per_epoch=8", "data.val_pairs=2"]
    ranks = [*tiny.overrides_of(*words, "trainer=ddp_cpu"), f"run_dir={tmp_path / 'two'}"]
    start = [sys.executable, "-m", "dehaze_zoo.train", *ranks]
    done = subprocess.run(start, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    tiny.train(tmp_path / "one", *words)
    for one, two in zip(table(tmp_path / "one"), table(tmp_path / "two"), strict=True):
        for name in ("l1", "codebook", "adversarial", "discriminator", "perplexity", "dead_codes"):
            assert float(two[f"train/{name}"]) == pytest.approx(float(one[f"train/{name}"]), rel=1e-3), name


def test_a_checkpoint_says_what_it_is_of(stage1: Path, tmp_path: Path) -> None:
    """So that predict, evaluate and create_model need no +model.network.width."""
    words = [word for word in recipe(2, stage1) if word not in BOTH]
    tiny.train(tmp_path / "run", *words, *SHORT, "trainer.max_epochs=1")
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    net: Any = create_model("ridcp", checkpoint)
    assert net.quantiser.embedding.weight.shape == (32, 256)
    assert net.codes(parity.image(1, 8, 8)).shape == (1, 8, 8)
    assert torch.load(checkpoint, weights_only=True)["design"]["overrides"] == {"codebook_size": 32, "width": 32, "depth": 1}
    with pytest.raises(UsageError, match="another network"):
        create_model("ridcp", checkpoint, width=64)
    with pytest.raises(UsageError, match="another network"):
        create_model("ridcp_nat", checkpoint)


def test_half_precision_trains_both_stages(stage1: Path, tmp_path: Path) -> None:
    for stage in (1, 2):
        words = [*recipe(stage, stage1), *SHORT, "trainer.max_epochs=1", "trainer.precision=bf16-mixed"]
        tiny.train(tmp_path / str(stage), *words)
        assert all(torch.isfinite(value).all() for value in tiny.state(tmp_path / str(stage)).values())


def test_wrong_use_is_told(stage1: Path, tmp_path: Path) -> None:
    for words, why in (
        (STAGE2, "needs stage 1"),
        ([*STAGE2, f"stage1='{stage1}'", "+model.network.codebook_size=64"], "codebook of 32 codes, this network one of 64"),
        ([*STAGE2, f"stage1='{stage1}'", "+model.network.width=64"], "width 32, this network 64"),
        ([*STAGE1, "data.crop_size=40"], "multiples of 32"),
        (["model=ridcp_vqvae", "+model.network.width=48"], "multiple of 32"),
        ([*STAGE1, "compile=true"], "compile=true: .*parts"),
        ([*STAGE2, f"stage1='{stage1}'", "compile=true"], "compile=true: .*parts"),
    ):
        with pytest.raises(UsageError, match=why):
            tiny.train(tmp_path / "run", *words)
    other = tmp_path / "gunet.safetensors"
    write_safetensors(build_model("gunet_t"), other, "gunet_t")
    with pytest.raises(UsageError, match="holds no codebook"):
        build_module(compose("train", [*STAGE2, f"stage1='{other}'"]))


def test_dead_codes_are_revived_where_asked(tmp_path: Path) -> None:
    books = {}
    for revive, epochs in (("false", 1), ("true", 1), ("true", 2)):
        words = [*STAGE1, "data.samples_per_epoch=2", "data.batch_size=2", "data.val_pairs=1", f"model.revive={revive}"]
        folder = tmp_path / f"{revive}{epochs}"
        tiny.train(folder, *words, f"trainer.max_epochs={epochs}")
        books[revive, epochs] = tiny.state(folder, "last")["network.quantize_group.0.embedding.weight"]
    assert torch.equal(books["false", 1], books["true", 1])  # not after the last epoch
    before = float(table(tmp_path / "true2")[0]["train/dead_codes"])
    moved = (books["true", 2] - books["true", 1]).abs().amax(1) > 0.1  # features lie far from a fresh codebook
    assert int(moved.sum()) == before > 0


def test_what_a_codebook_is_used_for() -> None:
    use = torch.tensor([5, 5, 0, 10])
    assert codes_.dead_codes(use) == 1
    assert codes_.perplexity(use) == pytest.approx(2**1.5)
    assert codes_.perplexity(torch.ones(7)) == pytest.approx(7)
    net: Any = build_model("ridcp_vqgan", codebook_size=32, width=32).eval()
    sheet = codes_.code_sheet(net, torch.arange(32))
    assert sheet.shape == (6 * 9, 6 * 9, 3)
    assert sheet[:8, :8].max() > 5 * sheet[5 * 9 : 5 * 9 + 8, 9:17].max()  # the unused one comes last, dimmed
    one = net.decode_codes(torch.full((1, 4, 4), 31))[0, :, 4:-4, 4:-4].clamp(0, 1).permute(1, 2, 0)
    assert sheet[:8, :8] == pytest.approx(one.detach().numpy(), abs=1e-5)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
