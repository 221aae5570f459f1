"""ridcp_matching: counts against counting by hand, the search against the network's own codes, what the verb leaves and refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import parity
from dehaze_zoo import ridcp_matching
from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.checkpoints.writing import write_safetensors
from dehaze_zoo.cli import run_verb
from dehaze_zoo.errors import UsageError
from dehaze_zoo.inference.matching import Features, divergence, frequency_gap, match
from dehaze_zoo.networks.blocks.quantiser import code_use
from dehaze_zoo.networks.registry import build_model
from dehaze_zoo.networks.ridcp import PUBLISHED_ALPHA, RIDCP, VQGAN, design_of

DESIGN = {"codebook_size": 32, "width": 32}


@pytest.fixture(scope="module")
def networks() -> tuple[VQGAN, RIDCP]:
    torch.manual_seed(3)
    stage1, stage2 = build_model("ridcp_vqgan", **DESIGN).eval(), build_model("ridcp", depth=1, **DESIGN).eval()
    assert isinstance(stage1, VQGAN)
    assert isinstance(stage2, RIDCP)
    with torch.no_grad():  # codes where the features are, so that many are used
        features = torch.cat([stage2.unquantised(parity.image(i, 32, 32))[0].flatten(1).t() for i in range(4)])
        stage1.quantiser.embedding.weight.copy_(features[torch.randperm(len(features))[:32]])
    stage2.start_from(stage1)
    return stage1, stage2


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, networks: tuple[VQGAN, RIDCP]) -> Path:
    """Weights of both stages, clear and hazy pictures."""
    folder = tmp_path_factory.mktemp("desk")
    write_safetensors(networks[0], folder / "stage1.safetensors", "ridcp_vqgan", DESIGN)
    torch.save({"state_dict": {f"network.{key}": value for key, value in networks[1].state_dict().items()}}, folder / "stage2.ckpt")
    for kind, fade in (("clear", 0.0), ("hazy", 0.6)):
        (folder / kind).mkdir()
        for i in range(3):
            pixels = parity.image(20 + i, 40 + 8 * i, 56)[0].permute(1, 2, 0).numpy()
            Image.fromarray(np.rint(255 * (pixels * (1 - fade) + 0.8 * fade)).astype(np.uint8)).save(folder / kind / f"{i}.png")
    return folder


def test_use_gap_and_divergence_by_hand() -> None:
    clear, hazy = torch.tensor([6, 2, 0]), torch.tensor([1, 2, 1])
    assert frequency_gap(clear, hazy) == pytest.approx(torch.tensor([0.25 - 0.75, 0.5 - 0.25, 0.25]))
    p, q = np.array([7, 3, 1]) / 11, np.array([2, 3, 2]) / 7
    assert divergence(clear, hazy) == pytest.approx(float((p * np.log(p / q)).sum()))
    assert divergence(clear, clear) == pytest.approx(0, abs=1e-12)


@torch.no_grad()
def test_the_search_counts_what_the_network_itself_would_choose(networks: tuple[VQGAN, RIDCP], desk: Path) -> None:
    stage1, stage2 = networks
    found = match(
        Features(stage1, sorted((desk / "clear").iterdir()), 1000),
        Features(stage2, sorted((desk / "hazy").iterdir()), 1000),
        [0.0, 3.0, 200.0],
    )
    pictures = {
        kind: [torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] / 255 for path in sorted((desk / kind).iterdir())]
        for kind in ("clear", "hazy")
    }
    wanted = torch.stack([torch.bincount(stage1.encode(image).flatten(), minlength=32) for image in pictures["clear"]]).sum(0)
    assert torch.equal(found.clear, wanted)
    again = create_model("ridcp", None, depth=1, **DESIGN)
    assert isinstance(again, RIDCP)
    again.load_state_dict(stage2.state_dict())
    again.set_matching(found.gap, 1.0)
    for alpha, use in zip(found.alphas, found.hazy, strict=True):
        by_codes = torch.stack([torch.bincount(again.codes(image, alpha=alpha).flatten(), minlength=32) for image in pictures["hazy"]]).sum(
            0
        )
        assert torch.equal(use, by_codes)
    assert not torch.equal(found.hazy[0], found.hazy[-1])
    assert found.divergences[found.best] == min(found.divergences)
    assert code_use(stage2.quantiser, stage2.unquantised(pictures["hazy"][0][..., :32, :32])).sum() == 64


def words(desk: Path, *more: str, **replaced: Any) -> list[str]:
    own = {"checkpoint": desk / "stage2.ckpt", "stage1": desk / "stage1.safetensors", "clear": desk / "clear", "hazy": desk / "hazy"}
    own |= replaced
    return [
        "trainer=cpu",
        "highest=40",
        "step=10",
        "shown=0",
        *(f"{key}={value}" for key, value in own.items() if value is not None),
        *more,
    ]


def test_the_verb_leaves_weights_figures_and_a_report(desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hazy").mkdir()
    for path in (desk / "hazy").iterdir():
        (tmp_path / "hazy" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "hazy" / "torn.png").write_bytes((desk / "hazy" / "0.png").read_bytes()[:60])
    out = tmp_path / "out"
    assert (
        run_verb("ridcp_matching", ridcp_matching.job, words(desk, f"run_dir={out}", "shown=2", "strip=[0,20]", hazy=tmp_path / "hazy"))
        == 1
    )  # a picture was torn
    report = json.loads((out / "report.json").read_text())
    assert [entry["file"] for entry in report["failed"]] == [str(tmp_path / "hazy" / "torn.png")]
    tried = [point["alpha"] for point in report["curve"]]
    assert tried == sorted(tried)
    assert {0, 10, 20, 30, 40} < set(tried)
    assert sum(abs(alpha - report["alpha"]) < 3 for alpha in tried) >= 2  # finer around the best
    assert report["alpha"] == min(report["curve"], key=lambda point: float(point["kl"]))["alpha"]
    assert report["kl"] <= report["kl_at_0"]
    net = create_model("ridcp", out / "ridcp_matched.safetensors")  # its design is in the file
    assert isinstance(net, RIDCP)
    assert net.quantiser.alpha == report["alpha"]
    vector = load_file(out / "matching.safetensors")
    assert torch.equal(vector["frequency_gap"], net.quantiser.frequency_gap)
    assert float(vector["frequency_gap"].sum()) == pytest.approx(0, abs=1e-6)
    assert vector["frequency_gap"].any()
    for name in ("kl_curve", "codes_used"):
        assert np.asarray(Image.open(out / f"{name}.png")).std() > 5
    strips = sorted(path.name for path in out.glob("*_alpha.png"))
    assert strips == ["0_alpha.png", "1_alpha.png"]
    with Image.open(out / "0_alpha.png") as strip:
        assert strip.size == (3 * 56 + 4 * 4, 40 + 18 + 8)  # hazy and two alphas
    assert "alpha=[0,7,14,21,28]" in capsys.readouterr().out
    # Joined to the bare checkpoint again, they are the same.
    joined = tmp_path / "joined"
    own = ["trainer=cpu", f"checkpoint={desk / 'stage2.ckpt'}", f"matching={out / 'matching.safetensors'}", f"run_dir={joined}"]
    assert run_verb("ridcp_matching", ridcp_matching.job, own) == 0
    one, other = (load_file(folder / "ridcp_matched.safetensors") for folder in (joined, out))
    assert all(torch.equal(one[key], value) for key, value in other.items())


def test_the_authors_vector_is_joined_in_the_papers_sign(desk: Path, tmp_path: Path) -> None:
    vector = torch.linspace(-1e-3, 1e-3, 32)
    torch.save(vector, tmp_path / "weight.pth")
    own = ["trainer=cpu", f"checkpoint={desk / 'stage2.ckpt'}", f"matching={tmp_path / 'weight.pth'}", f"run_dir={tmp_path / 'out'}"]
    assert run_verb("ridcp_matching", ridcp_matching.job, own) == 0
    net = create_model("ridcp", tmp_path / "out" / "ridcp_matched.safetensors")
    assert isinstance(net, RIDCP)
    assert torch.equal(net.quantiser.frequency_gap, -vector)
    assert net.quantiser.alpha == PUBLISHED_ALPHA
    torch.save(torch.zeros(7), tmp_path / "short.pth")
    with pytest.raises(UsageError, match="do not fit a codebook of 32"):
        run_verb("ridcp_matching", ridcp_matching.job, [*own[:2], f"matching={tmp_path / 'short.pth'}", f"run_dir={tmp_path / 'no'}"])


def test_stage_1_is_found_beside_the_training_or_done_without(desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "best.ckpt").write_bytes((desk / "stage2.ckpt").read_bytes())
    few = ["highest=1", "step=1"]
    without = words(desk, *few, f"run_dir={tmp_path / 'a'}", stage1=None, checkpoint=run / "checkpoints" / "best.ckpt")
    assert run_verb("ridcp_matching", ridcp_matching.job, without) == 0
    assert "stage 2's own encoder" in capsys.readouterr().out
    (run / "config.yaml").write_text(f"stage1: {desk / 'stage1.safetensors'}\n")
    assert run_verb("ridcp_matching", ridcp_matching.job, [*without, f"run_dir={tmp_path / 'b'}"]) == 0
    assert "stage 2's own encoder" not in capsys.readouterr().out


def test_pictures_of_one_stem_each_have_a_strip(desk: Path, tmp_path: Path) -> None:
    (tmp_path / "hazy").mkdir()
    for name in ("a.png", "a.bmp", "b.png"):
        Image.open(desk / "hazy" / "0.png").save(tmp_path / "hazy" / name)
    few = ["highest=1", "step=1", "shown=3", "strip=[0]", f"run_dir={tmp_path / 'out'}"]
    assert run_verb("ridcp_matching", ridcp_matching.job, words(desk, *few, hazy=tmp_path / "hazy")) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*_alpha.png")) == ["a.bmp_alpha.png", "a.png_alpha.png", "b_alpha.png"]


def test_wrong_use_is_told(desk: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.png").write_bytes(b"no picture")
    stranger = tmp_path / "stranger.safetensors"
    write_safetensors(build_model("ridcp_vqgan", codebook_size=16, width=32), stranger, "ridcp_vqgan", {"codebook_size": 16, "width": 32})
    for own, why in (
        (words(desk, hazy=tmp_path / "empty"), "hazy=.*no pictures"),
        (words(desk, hazy=tmp_path / "torn"), "none of the 1 pictures"),
        (words(desk, hazy=None), "hazy= is needed"),
        (words(desk, checkpoint=None), "checkpoint= is needed"),
        (words(desk, checkpoint=desk / "stage1.safetensors"), "another network"),
        (words(desk, stage1=stranger), r"codebook \(16 codes\) is not that of the checkpoint \(32 codes\)"),
        (words(desk, "step=0"), "a positive step"),
        (words(desk, "highest=1e9"), "more than 10000 alphas"),
        (words(desk, "model=ridcp_vqgan", checkpoint=desk / "stage1.safetensors"), "has no matching weights"),
    ):
        with pytest.raises(UsageError, match=why):
            run_verb("ridcp_matching", ridcp_matching.job, [*own, f"run_dir={tmp_path / 'out'}"])


def test_the_design_is_read_from_the_weights(networks: tuple[VQGAN, RIDCP]) -> None:
    assert design_of(networks[0].state_dict()) == DESIGN
    assert design_of(networks[1].state_dict()) == {**DESIGN, "depth": 1}
    with pytest.raises(UsageError, match="no codebook"):
        design_of({"a": torch.zeros(1)})
    assert math.isclose(networks[1].quantiser.alpha.item(), 0)
