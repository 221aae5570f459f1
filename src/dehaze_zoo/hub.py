"""python -m dehaze_zoo.hub: push a network to the Hugging Face hub (repo=USER/NAME checkpoint=FILE); ``load`` takes it back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dehaze_zoo.cli import Outcome, launch
from dehaze_zoo.errors import UsageError

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import nn

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def push(
    network: nn.Module, repo: str, model: str, overrides: Mapping[str, Any] | None = None, card: str = "", private: bool = False
) -> str:
    """Uploads weights (safetensors), config.json and a model card to ``repo`` ("user/name"), made if need be; returns its address.

    ``model`` and ``overrides`` are what the network was built with. Needs a login (huggingface-cli login, or HF_TOKEN). Raises
    UsageError without a login or a connection, or for a name that the hub does not take.
    """
    from huggingface_hub import HfApi

    from dehaze_zoo.checkpoints.writing import write_safetensors

    try:
        with TemporaryDirectory() as folder:
            write_safetensors(network, Path(folder, WEIGHTS), model, overrides)
            Path(folder, CONFIG).write_text(
                json.dumps({"library": "dehaze_zoo", "model": model, "overrides": dict(overrides or {})}, indent=1)
            )
            Path(folder, CARD).write_text(card or _card(repo, model), encoding="utf-8")
            api = HfApi()
            address = str(api.create_repo(repo, private=private, exist_ok=True))
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"dehaze_zoo {model}")
    except UsageError:
        raise
    except Exception as error:  # the hub's client has a dozen errors for no token, no network and wrong names
        raise _told(error, f"{repo} could not be pushed", "Log in (huggingface-cli login, or HF_TOKEN) and check the connection") from error
    return address


def load(repo: str, revision: str | None = None) -> nn.Module:
    """The network in ``repo``, as ``create_model`` gives it; fetched once and kept in the hub's own cache. Nothing in it is executed.

    Raises UsageError where it cannot be fetched, is not from here, or does not fit the network that it names.
    """
    from huggingface_hub import hf_hub_download

    from dehaze_zoo.checkpoints.create import create_model
    from dehaze_zoo.checkpoints.reading import read_metadata

    try:
        weights = hf_hub_download(repo, WEIGHTS, revision=revision)
    except Exception as error:
        raise _told(
            error, f"{repo} could not be fetched", "Check the name and the connection; what was fetched before is found offline"
        ) from error
    about = read_metadata(weights)
    if not about:
        raise UsageError(f"{repo}: its {WEIGHTS} was not pushed from here: it does not say which network it is for.")
    return create_model(about["model"], weights)


def _told(error: Exception, what: str, remedy: str) -> UsageError:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return UsageError(f"{what}: {type(error).__name__}: {first[:160]}\n{remedy}.")


def _card(repo: str, model: str) -> str:
    from dehaze_zoo.networks.registry import model_info

    info = model_info(model)
    return f"""---
library_name: dehaze_zoo
pipeline_tag: image-to-image
tags: [dehazing, {model}]
---
# {repo.rpartition("/")[2]}

{model} ({info.parameters:,} parameters) for image dehazing. Design: {info.paper}. {info.citation}

```python
from dehaze_zoo import hub

net = hub.load("{repo}")  # hazy (B, 3, H, W) RGB in [0, 1] to restored
```
"""


def job(cfg: DictConfig, run_dir: Path) -> Outcome:
    """Pushes what ``checkpoint`` holds, or the weights in the package, to ``repo``."""
    if cfg.repo is None:
        raise UsageError("repo= is needed: where to push to, as in repo=user/gunet_t")
    from dehaze_zoo.inference.restore import load_for_others

    network, name, design, weights = load_for_others(cfg.model.network, cfg.checkpoint)
    card = weights.with_suffix(".md") if weights is not None else None
    print(
        push(network, cfg.repo, name, design, card.read_text(encoding="utf-8") if card is not None and card.is_file() else "", cfg.private)
    )
    return Outcome()


if __name__ == "__main__":
    launch("hub", job)
