"""predict alpha=...: the strength of RIDCP's matching, one or several."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import parity
from dehaze_zoo import predict
from dehaze_zoo.checkpoints.writing import write_safetensors
from dehaze_zoo.cli import run_verb
from dehaze_zoo.data.images import read_picture
from dehaze_zoo.errors import UsageError
from dehaze_zoo.inference.alpha import WIDEST, alpha_strip, picture_strip, use_alpha
from dehaze_zoo.networks.registry import build_model
from dehaze_zoo.networks.ridcp import RIDCP

DESIGN = {"codebook_size": 32, "width": 32, "depth": 1}


def network(matching: bool = True) -> RIDCP:
    torch.manual_seed(3)
    net = build_model("ridcp", **DESIGN).eval()
    assert isinstance(net, RIDCP)
    with torch.no_grad():  # codes where the features are, so that alpha changes some
        net.quantiser.embedding.weight.copy_(net.unquantised(parity.image(1, 32, 32))[0].flatten(1).t()[:32])
        for parameter in net.out_conv.parameters():
            parameter.mul_(5)
    if matching:
        net.set_matching(torch.linspace(-0.1, 0.1, 32), alpha=3.0)
    return net


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    (folder / "in").mkdir()
    for name, matching in (("with", True), ("without", False)):
        write_safetensors(network(matching), folder / f"{name}.safetensors", "ridcp", DESIGN)
    pixels = parity.image(7, 40, 50)[0].permute(1, 2, 0).numpy()
    Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(folder / "in" / "a.png")
    return folder


def run(desk: Path, out: Path, *more: str, weights: str = "with") -> Any:
    words = [
        "model=ridcp",
        "trainer=cpu",
        f"checkpoint={desk / weights}.safetensors",
        f"input={desk / 'in'}",
        f"output={out}",
        f"run_dir={out}",
    ]
    assert run_verb("predict", predict.job, [*words, *more]) == 0
    return np.asarray(Image.open(out / "a.png")).astype(int)


def test_one_alpha_is_the_networks_own_call(desk: Path, tmp_path: Path) -> None:
    image = torch.from_numpy(read_picture(desk / "in" / "a.png").pixels.copy()).permute(2, 0, 1)[None]
    results = {}
    for name, alpha in (("default", None), ("alpha=0", 0.0), ("alpha=21.25", 21.25)):
        got = run(desk, tmp_path / name, *([] if alpha is None else [name]))
        with torch.no_grad():
            wanted = network()(image, alpha=3.0 if alpha is None else alpha)[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255
        assert np.abs(got - wanted).max() < 0.6
        results[name] = got
    assert np.abs(results["alpha=0"] - results["alpha=21.25"]).max() > 1
    assert not (tmp_path / "alpha=0" / "a_alpha.png").exists()


def test_several_make_a_strip_and_leave_the_result_alone(desk: Path, tmp_path: Path) -> None:
    plain = run(desk, tmp_path / "plain")
    assert np.array_equal(run(desk, tmp_path / "strip", "alpha=[0,21.25]"), plain)
    strip = np.asarray(Image.open(tmp_path / "strip" / "a_alpha.png"))
    assert strip.shape == (40 + 18 + 8, 3 * 50 + 4 * 4, 3)
    with Image.open(desk / "in" / "a.png") as hazy:
        assert np.array_equal(strip[22:62, 4:54], np.asarray(hazy))
    for place, alpha in ((58, 0), (112, 21.25)):
        single = run(desk, tmp_path / f"one{alpha}", f"alpha={alpha}")
        assert np.abs(strip[22:62, place : place + 50].astype(int) - single).max() <= 1


def test_a_strip_puts_alpha_back(desk: Path) -> None:
    net = network()
    assert use_alpha(net, [0, 7]) == [0, 7]
    picture_strip(net, read_picture(desk / "in" / "a.png"), [0, 7])
    assert net.quantiser.alpha == 3
    assert use_alpha(net, 7) == []
    assert net.quantiser.alpha == 7


def test_a_strip_holds_no_large_pictures(desk: Path) -> None:
    hazy = np.zeros((1000, 4 * WIDEST, 3), np.uint8)
    tracemalloc.start()
    sheet = alpha_strip(network(), hazy, range(8), hazy.copy)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sheet.shape == (250 + 18 + 8, 9 * WIDEST + 10 * 4, 3)
    assert peak < 4 * hazy.nbytes


def test_wrong_alphas_are_told(desk: Path, tmp_path: Path) -> None:
    for words, weights, why in (
        (["alpha=7"], "without", "no matching weights"),
        (["alpha=[0,7]"], "without", "no matching weights"),
        (["alpha=strong"], "with", "must be a number"),
        (["alpha=[]"], "with", "must be a number"),
        (["alpha=nan"], "with", "finite"),
    ):
        with pytest.raises(UsageError, match=why):
            run(desk, tmp_path / "out", *words, weights=weights)
    with pytest.raises(UsageError, match="RIDCP's"):
        use_alpha(build_model("aodnet"), 7)
