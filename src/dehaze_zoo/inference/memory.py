"""How much memory there is, and how much of it a network takes for a pixel."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dehaze_zoo.networks.blocks.tiles import Tiling

MOST_ON_CPU = 1_600_000_000
"""Bytes that a network may hold at once for one picture: with torch itself and the picture, 100 megapixels stay below 4 GB."""
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
_PROBE = 192
_known: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()


def pixels_that_fit(network: nn.Module, device: torch.device, tiling: Tiling) -> int:
    """How many pixels ``network`` may work on at once: half of what is free, on a CPU at most ``MOST_ON_CPU``.

    A network that tiles change may have all of that half: better slow than another picture.
    """
    share = free_bytes(device) // 2
    if device.type == "cpu" and not tiling.caveat:
        share = min(share, MOST_ON_CPU)
    return int(share / bytes_per_pixel(network, device))


def free_bytes(device: torch.device) -> int:
    """Memory that can be had now: the GPU's, or the machine's within the limit of its container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = 4_000_000_000  # where the system does not tell
    try:
        lines = MEMINFO.read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        limit, used, account = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current", "memory.stat"))
        if limit == "max":
            return free
        held = dict(line.split() for line in account.splitlines())
        pages = int(held.get("inactive_file", 0)) + int(held.get("active_file", 0))  # of files read: given back when memory is wanted
        return min(free, int(limit) - int(used) + pages)
    except (OSError, StopIteration, ValueError):
        return free if os.name == "posix" else 4_000_000_000


def bytes_per_pixel(network: nn.Module, device: torch.device) -> float:
    """The most that the network's tensors hold at once for each pixel, measured once on a small picture, and a half more for scratch."""
    if network not in _known:
        probe = torch.rand(1, 3, _PROBE, _PROBE, generator=torch.Generator().manual_seed(0)).to(device)
        _known[network] = max(1.5 * peak_bytes(network, probe) / _PROBE**2, 24.0)
    return _known[network]


@torch.no_grad()
def peak_bytes(network: nn.Module, probe: torch.Tensor) -> int:
    """The most that tensors made by ``network`` on ``probe`` (B, 3, H, W) hold at once, where they both live."""
    if probe.is_cuda:
        torch.cuda.reset_peak_memory_stats(probe.device)
        before = torch.cuda.memory_allocated(probe.device)
        network(probe)
        return int(torch.cuda.max_memory_allocated(probe.device) - before)
    held = _Held()
    with held:
        network(probe)
    return held.peak


class _Held(TorchDispatchMode):
    """Adds up the storages that operators make, while they live (a library's own scratch space is not seen)."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return
        self.seen.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.held -= size
