"""What a result depends on, as hashes: by these the store knows what has been done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import dehaze_zoo

_CODE = ("networks", "metrics", "data", "checkpoints", "inference/restore.py", "benchmark/scoring.py")


def key_of(about: Mapping[str, Any]) -> str:
    """A hash of plain data, the same on every machine."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def weights_hash(network: nn.Module) -> str:
    """Of names and values of all that the network holds: the same weights in another file have the same hash."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def files_hash(files: Iterable[tuple[str, Path]]) -> str:
    """Of the names given and the contents of files; one that cannot be read counts with its name alone (it is reported when judged)."""
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(name.encode())
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError:
            digest.update(b"?")
        digest.update(b"\0")
    return digest.hexdigest()


def files_below_hash(path: Path) -> str:
    """Of a file's content, whatever its name, or of the names and contents of all files in a folder."""
    below = sorted(file for file in path.rglob("*") if file.is_file())
    return files_hash([(file.relative_to(path).as_posix(), file) for file in below] or [("", path)])


@cache
def code_version() -> str:
    """The release and a hash of the source that pictures and figures come from; a change of anything else redoes nothing."""
    package = Path(dehaze_zoo.__file__).parent
    digest = hashlib.sha256()
    for place in _CODE:
        files = sorted((package / place).rglob("*.py")) if (package / place).is_dir() else [package / place]
        for file in files:
            digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return f"{dehaze_zoo.__version__}+{digest.hexdigest()[:16]}"
