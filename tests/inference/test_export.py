"""Exports: each format agrees with the network on any size, and what does not agree is not left behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.checkpoints.writing import write_safetensors
from dehaze_zoo.cli import compose
from dehaze_zoo.errors import UsageError
from dehaze_zoo.inference.export import export, export_network
from dehaze_zoo.networks.registry import list_models

SMALL: dict[str, Any] = {"width": 8, "depth": 1}
ODD = ((1, 1), (5, 3), (33, 90))


@pytest.fixture(scope="module")
def gunet() -> nn.Module:
    torch.manual_seed(0)
    return create_model("gunet_t", **SMALL)


def test_onnx_runs_at_any_size_in_onnxruntime(gunet: nn.Module, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export")
    pytest.importorskip("onnxscript", reason="needs the extra export")
    found = export_network(gunet, "onnx", tmp_path / "gunet.onnx", "gunet_t", SMALL)
    assert len(found) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["gunet.onnx"]  # one file, weights inside
    session = onnxruntime.InferenceSession(tmp_path / "gunet.onnx", providers=["CPUExecutionProvider"])
    for size in ODD:
        hazy = torch.rand(1, 3, *size)
        made = torch.from_numpy(session.run(None, {"hazy": hazy.numpy()})[0])
        with torch.no_grad():
            assert (made - gunet(hazy)).abs().max() < 1e-5


def test_torch_export_runs_at_any_size(gunet: nn.Module, tmp_path: Path) -> None:
    export_network(gunet, "torch", tmp_path / "gunet.pt2", "gunet_t", SMALL)
    program = torch.export.load(tmp_path / "gunet.pt2").module()
    for size in ODD:
        hazy = torch.rand(1, 3, *size)
        with torch.no_grad():
            assert (program(hazy) - gunet(hazy)).abs().max() < 1e-6


def test_safetensors_carry_their_design_and_the_verb_reports(gunet: nn.Module, tmp_path: Path) -> None:
    write_safetensors(gunet, tmp_path / "trained.safetensors", "gunet_t", SMALL)
    cfg = compose("export", ["format=safetensors"])
    cfg.checkpoint, cfg.output = str(tmp_path / "trained.safetensors"), str(tmp_path / "out" / "gunet")
    outcome = export(cfg, tmp_path / "run")
    assert (outcome.code, outcome.figures["differs_by"]) == (0, 0.0)
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "out" / "gunet").stat().st_mode & 0o777 == 0o666 & ~umask  # as any file that its user writes
    report = json.loads((tmp_path / "run" / "export.json").read_text())
    assert set(report["differs_by"].values()) == {0.0}
    back = create_model("gunet_t", tmp_path / "out" / "gunet")  # without a word on width and depth
    hazy = torch.rand(1, 3, 20, 30)
    with torch.no_grad():
        assert torch.equal(back(hazy), gunet(hazy))


SMALL_RIDCP: dict[str, Any] = {"codebook_size": 32, "width": 32}
DESIGNS: dict[str, dict[str, Any]] = {
    "mprnet": {"width": 8, "unet_step": 4, "orsnet_step": 4, "stages": 2},
    "ridcp": {**SMALL_RIDCP, "depth": 1},
    "ridcp_nat": {**SMALL_RIDCP, "depth": 1},
}
"""Small, where the published one is large."""
ELSEWHERE = {
    *("gunet_t", "gunet_s", "gunet_b", "gunet_d"),  # above
    *("mprnet_40", "mprnet_80", "mprnet_96"),  # sizes of mprnet
    *("ridcp_vqgan", "ridcp_vqvae"),  # RIDCP's blocks; another code where two are equally near is another picture
    "identity",  # as a graph it has no output of its own
}


@pytest.mark.parametrize("name", [name for name in list_models() if name not in ELSEWHERE])
def test_networks_are_held_by_onnx_and_run_at_any_size(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And by torch.export, through which ONNX is written."""
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    pytest.importorskip("onnxscript", reason="needs the extra export")
    monkeypatch.setattr("dehaze_zoo.networks.ktdn.ENCODER", "resnet26")  # as many channels, a tenth of the steps
    if name != "dcp":  # whose airlight may be any pixel of so small a picture
        monkeypatch.setattr("dehaze_zoo.inference.export.SIZES", ((1, 5), (40, 120), (97, 61)))
    torch.manual_seed(0)
    design = DESIGNS.get(name, {})
    network: Any = create_model(name, **design)
    if name.startswith("ridcp"):  # untrained it spans thirty times a picture's range
        torch.nn.init.normal_(network.residual_conv.weight, std=1e-3)
    found = export_network(network, "onnx", tmp_path / name, name, design)
    assert len(found) == 3
    assert max(found.values()) < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_ktdn_s_averages_tie_torch_export_to_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dehaze_zoo.networks.ktdn.ENCODER", "resnet26")
    torch.manual_seed(0)
    assert max(export_network(create_model("ktdn"), "torch", tmp_path / "ktdn", "ktdn", {}).values()) < 1e-5


class Fixed(nn.Module):
    """Tied to the size it was traced with."""

    def forward(self, hazy: Tensor) -> Tensor:
        return hazy * torch.ones(104)


class Fickle(nn.Module):
    """Another result each time."""

    def forward(self, hazy: Tensor) -> Tensor:
        return hazy + torch.rand_like(hazy)


def test_what_does_not_agree_is_refused_and_leaves_nothing(gunet: nn.Module, tmp_path: Path) -> None:
    for network, form, why in (
        (Fixed(), "torch", "cannot be held|fails on"),
        (Fickle(), "torch", "differs by"),
        (gunet, "jpeg", "no such format"),
    ):
        with pytest.raises(UsageError, match=why) as caught:
            export_network(network, form, tmp_path / "x.pt2", "x", {})
        assert len(str(caught.value).splitlines()) <= 5
    with pytest.raises(UsageError, match="is a folder"):
        export_network(gunet, "torch", tmp_path, "x", {})
    assert list(tmp_path.iterdir()) == []
