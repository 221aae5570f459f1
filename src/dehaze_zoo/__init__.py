"""dehaze_zoo: image-dehazing networks on the same data, losses and protocols. Everything heavy is imported when first asked for."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dehaze_zoo.checkpoints.create import create_model
    from dehaze_zoo.inference.dehaze import dehaze
    from dehaze_zoo.networks.registry import list_models, model_info, register_model

# Huge pages for large tensors, where Linux has them: a whole picture on a CPU takes a third of the time, most of which went into getting
# memory page by page. torch looks at its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"
__all__ = ["create_model", "dehaze", "list_models", "model_info", "register_model"]

_HOMES = {
    "create_model": "dehaze_zoo.checkpoints.create",
    "dehaze": "dehaze_zoo.inference.dehaze",
    "list_models": "dehaze_zoo.networks.registry",
    "model_info": "dehaze_zoo.networks.registry",
    "register_model": "dehaze_zoo.networks.registry",
}


_MODULES = ("hub", "losses")  # of the public face, too heavy to be imported with it


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"dehaze_zoo.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'dehaze_zoo' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
