"""Every layout of file that holds weights, by content; and files that hold none, or other ones, or harm."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import parity
from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.checkpoints.reading import load_into, read_metadata, read_object, read_state_dict
from dehaze_zoo.checkpoints.shipped import models_with_shipped_weights, shipped_weights
from dehaze_zoo.checkpoints.writing import write_safetensors
from dehaze_zoo.errors import UsageError
from dehaze_zoo.networks.registry import build_model

State = dict[str, Tensor]


def weights() -> State:
    torch.manual_seed(5)
    return build_model("aodnet").state_dict()


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "bare, as GCANet's and AOD-Net's": lambda state: state,
    "gUNet's": lambda state: {"state_dict": prefixed(state, "module."), "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}},
    "MPRNet's": lambda state: {"epoch": 3, "state_dict": state},
    "KTDN's": lambda state: {"model": prefixed(state, "module.")},
    "RIDCP's": lambda state: {"params": state},
    "ours": lambda state: {"state_dict": {**prefixed(state, "network."), "teacher.weight": torch.ones(2)}, "epoch": 3, "loops": {"a": [1]}},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"  # the extension says nothing
    torch.save(LAYOUTS[layout](weights()), path, _use_new_zipfile_serialization=zipped)
    read = read_state_dict(path)
    assert set(read) == set(weights())
    net = create_model("aodnet", path)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in weights().items())


def test_the_authors_gunet_file(tmp_path: Path) -> None:
    path = tmp_path / "gunet_t.pth"
    torch.save({"state_dict": prefixed(parity.state("gunet", "gunet_t"), "module.")}, path)
    net = create_model("gunet_t", path)
    with torch.no_grad():
        assert parity.error(net(parity.reference("gunet", "gunet_t/x")), parity.reference("gunet", "gunet_t/y")) < 1e-5


def test_safetensors_of_others_and_half_precision(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    save_file(prefixed({key: value.half() for key, value in weights().items()}, "module."), path)
    net = create_model("aodnet", path)
    assert all(p.dtype == torch.float32 for p in net.parameters())
    assert torch.equal(net.get_parameter("e_conv1.bias"), weights()["e_conv1.bias"].half().float())


def test_our_safetensors_bring_their_design(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    net = build_model("gunet_t", depth=1, width=8).eval()
    write_safetensors(net, path, "gunet_t", {"depth": 1, "width": 8})
    assert read_metadata(path) == {"model": "gunet_t", "overrides": {"depth": 1, "width": 8}}
    hazy = torch.rand(1, 3, 9, 9)
    assert torch.equal(create_model("gunet_t", path)(hazy), net(hazy))
    with pytest.raises(UsageError, match="missing"):  # what the caller asks for goes before
        create_model("gunet_t", path, depth=2)
    assert os.listdir(tmp_path) == ["weights"]


class Tied(nn.Module):
    """One layer under two names; all keys begin like somebody's prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.ModuleDict({"network": nn.Linear(2, 2)})
        self.module["again"] = self.module["network"]


def test_a_tensor_under_two_names_is_stored_once_and_found_again(tmp_path: Path) -> None:
    net, other = Tied(), Tied()
    write_safetensors(net, tmp_path / "tied", "tied")
    assert set(read_state_dict(tmp_path / "tied")) == {"module.network.weight", "module.network.bias"}
    load_into(other, tmp_path / "tied")
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in other.state_dict().items())


class Importing(nn.Linear):
    @staticmethod
    def import_state_dict(state: State) -> State:
        return {key.removeprefix("old_"): value for key, value in state.items() if key != "dead"}


def test_a_network_translates_what_its_authors_wrote(tmp_path: Path) -> None:
    torch.save(
        {"model": {"module.old_weight": torch.ones(2, 2), "module.old_bias": torch.ones(2), "module.dead": torch.ones(1)}}, tmp_path / "a"
    )
    net = Importing(2, 2)
    load_into(net, tmp_path / "a")
    assert bool((net.weight == 1).all())


def test_plain_objects_come_as_they_are(tmp_path: Path) -> None:
    torch.save(torch.arange(1024.0), tmp_path / "vector")  # RIDCP's matching weights
    assert torch.equal(read_object(tmp_path / "vector"), torch.arange(1024.0))
    with pytest.raises(UsageError, match="vector: holds no state dict"):
        read_state_dict(tmp_path / "vector")


class Harm:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def spoil(kind: str, path: Path, marker: Path) -> None:
    if kind == "missing":
        return
    if kind == "hostile pickle":
        path.write_bytes(pickle.dumps(Harm(marker)))
    elif kind.startswith("hostile"):
        torch.save({"state_dict": Harm(marker)}, path, _use_new_zipfile_serialization=kind == "hostile zip")
    elif kind == "a whole network":
        torch.save(nn.Linear(2, 2), path)
    elif kind.startswith("truncated"):
        if kind == "truncated safetensors":
            save_file(weights(), path)
        else:
            torch.save(weights(), path, _use_new_zipfile_serialization=kind == "truncated zip")
        path.write_bytes(path.read_bytes()[:-3000])
    elif kind == "no tensors":
        torch.save({"epoch": 3, "state_dict": {"lr": 0.1}}, path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.write_bytes({"text": b"hello, this is text", "empty": b"", "noise": bytes(range(7, 256)), "json": b'{"a": 1, "b": {}}'}[kind])


BAD = ["missing", "hostile pickle", "hostile zip", "hostile legacy", "a whole network", "truncated zip", "truncated legacy"]
BAD += ["truncated safetensors", "no tensors", "a folder", "text", "empty", "noise", "json"]


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_named_and_nothing_in_them_runs(kind: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "weights.pth", tmp_path / "harm"
    spoil(kind, path, marker)
    with pytest.raises(UsageError) as caught:
        create_model("aodnet", path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 5
    assert not marker.exists()


def test_another_networks_weights_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": build_model("gunet_t").state_dict()}, path)
    with pytest.raises(UsageError) as caught:
        create_model("gunet_s", path)
    said = str(caught.value)
    assert str(path) in said
    assert "missing: layers.0.blocks.2.norm.weight" in said
    assert "and 205 more" in said  # 16 blocks of 13 entries each, 3 named
    assert len(said.splitlines()) <= 5

    torch.save({**weights(), "e_conv6.weight": torch.ones(1), "e_conv1.bias": torch.ones(4)}, path)
    with pytest.raises(UsageError) as caught:
        create_model("aodnet", path)
    said = str(caught.value)
    assert "extra: e_conv6.weight" in said
    assert "misshapen: e_conv1.bias (4,) in the file, (3,) in the model" in said
    assert "missing" not in said


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"out\.safetensors: cannot be written"):
        write_safetensors(build_model("aodnet"), tmp_path / "file" / "out.safetensors", "aodnet")


def test_shipped_weights_are_offered_or_missed_by_name() -> None:
    assert shipped_weights("identity") is None
    with pytest.raises(UsageError, match=r"'identity' come with the package \(with weights: "):
        create_model("identity", "shipped")
    with pytest.raises(UsageError, match="no model is called 'gunett'"):
        create_model("gunett", "shipped")
    for name in models_with_shipped_weights():
        assert not create_model(name, "shipped").training
