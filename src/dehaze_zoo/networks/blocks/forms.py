"""What the networks' forms for evaluation (``deployed()``) are made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Part = TypeVar("Part", bound=nn.Module)
Network = TypeVar("Network", bound=nn.Module)


def replace_all(network: nn.Module, kind: type[Part], made: Callable[[Part], nn.Module]) -> None:
    """Puts ``made(part)`` in the place of every part of that kind, in place."""
    for parent in list(network.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, kind):
                setattr(parent, name, made(part))


def in_channels_last(network: Network) -> Network:
    """``network``, its four-dimensional weights in channels_last."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # torch's stubs lack this call
