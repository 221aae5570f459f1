"""The hub, against one that is a folder: what is pushed comes back equal, and being offline is a message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from dehaze_zoo import hub
from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.checkpoints.writing import write_safetensors
from dehaze_zoo.cli import compose
from dehaze_zoo.errors import UsageError

SMALL: dict[str, Any] = {"width": 8, "depth": 1}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """huggingface_hub's three calls that we make, on a folder; the client's own argument names."""
    folder = tmp_path / "store"

    class Api:
        def create_repo(self, repo_id: str, *, private: bool = False, exist_ok: bool = False) -> str:
            assert "/" in repo_id
            (folder / repo_id).mkdir(parents=True, exist_ok=exist_ok)
            return f"https://huggingface.co/{repo_id}"

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
            shutil.copytree(folder_path, folder / repo_id, dirs_exist_ok=True)

    def download(repo_id: str, filename: str, *, revision: str | None = None) -> str:
        if not (folder / repo_id / filename).is_file():
            raise FileNotFoundError(f"404: {repo_id}/{filename}")
        return str(folder / repo_id / filename)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return folder


def test_pushed_and_loaded_it_is_the_same_network(store: Path) -> None:
    torch.manual_seed(0)
    network = create_model("gunet_t", **SMALL)
    assert hub.push(network, "me/small", "gunet_t", SMALL) == "https://huggingface.co/me/small"
    assert sorted(path.name for path in (store / "me" / "small").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert json.loads((store / "me/small/config.json").read_text())["overrides"] == SMALL
    assert 'hub.load("me/small")' in (store / "me/small/README.md").read_text()
    hazy = torch.rand(1, 3, 20, 30)
    with torch.no_grad():
        assert torch.equal(hub.load("me/small")(hazy), network(hazy))


def test_the_verb_takes_the_design_and_the_card_from_beside_the_weights(store: Path, tmp_path: Path) -> None:
    write_safetensors(create_model("gunet_t", **SMALL), tmp_path / "mine.safetensors", "gunet_t", SMALL)
    (tmp_path / "mine.md").write_text("# My card")
    cfg: Any = compose("hub", ["repo=me/mine"])
    cfg.checkpoint = str(tmp_path / "mine.safetensors")
    assert hub.job(cfg, tmp_path).code == 0
    assert (store / "me/mine/README.md").read_text() == "# My card"
    assert sum(p.numel() for p in hub.load("me/mine").parameters()) < 100_000


def test_what_is_not_there_or_not_ours_is_named(store: Path) -> None:
    with pytest.raises(UsageError, match="me/none could not be fetched"):
        hub.load("me/none")
    (store / "me" / "theirs").mkdir(parents=True)
    save_file({"x": torch.zeros(3)}, store / "me" / "theirs" / "model.safetensors")
    with pytest.raises(UsageError, match="not pushed from here"):
        hub.load("me/theirs")


def test_offline_is_a_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real client, told to stay offline."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    network = create_model("gunet_t", **SMALL)
    for act in (lambda: hub.load("me/never-fetched"), lambda: hub.push(network, "me/x", "gunet_t", SMALL)):
        with pytest.raises(UsageError, match="could not be") as caught:
            act()
        assert len(str(caught.value).splitlines()) == 2
