"""What the processes of a distributed training tell each other."""

from __future__ import annotations

import torch
from torch import distributed


def anywhere(device: torch.device, *flags: bool) -> list[bool]:
    """Each flag, true where it is true on any rank; in a single process as it is. Every rank must call this alike."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return list(flags)
    shared = torch.tensor(flags, dtype=torch.uint8, device=device)
    distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
    return [bool(flag) for flag in shared.tolist()]


def gathered(message: str) -> list[str]:
    """Every rank's message, by rank. Every rank must call this alike."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return [message]
    messages = [""] * distributed.get_world_size()
    distributed.all_gather_object(messages, message)
    return messages
