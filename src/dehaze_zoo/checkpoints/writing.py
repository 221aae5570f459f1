"""Writing weights as safetensors: data only, readable anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from dehaze_zoo.checkpoints.reading import first_names
from dehaze_zoo.errors import UsageError
from dehaze_zoo.files import written_aside


def write_safetensors(net: nn.Module, path: str | Path, model: str, overrides: Mapping[str, Any] | None = None) -> None:
    """Writes the weights of ``net``, with the registered name and design overrides it was built with, aside and then under ``path``.

    Tensors held under several names are written once. Raises UsageError where the file cannot be written.
    """
    path = Path(path)
    state = net.state_dict()
    tensors = {key: state[key].detach().cpu().contiguous() for key, first in first_names(net).items() if key == first}
    metadata = {"format": "pt", "model": model, "overrides": json.dumps(dict(overrides or {}))}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            aside.write_bytes(save(tensors, metadata))  # save_file's own files only their owner may read
    except Exception as error:
        raise UsageError(f"{path}: cannot be written ({error}).") from error
