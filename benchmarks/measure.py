"""Times and memory of functions that do the same work, in one run and in turn, so that a ratio means something on a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

Work = Callable[[], object]


def seconds(candidates: dict[str, Work], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """``rounds`` times of each candidate, one after another in every round; a first round is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for counted in range(rounds + 1):
        for name, work in candidates.items():
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if counted:
                taken[name].append(time.perf_counter() - start)
    return taken


def peak_bytes(work: Work, device: torch.device) -> int:
    """The most that tensors made during ``work`` hold at once (a library's own scratch space on a CPU is not seen)."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    held = peak = 0
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def spread(values: list[float], factor: float = 1e3, digits: int = 0) -> str:
    """Median [quartiles], of seconds in milliseconds unless ``factor`` says otherwise."""
    low, middle, high = (f"{value * factor:.{digits}f}" for value in np.percentile(values, (25, 50, 75)))
    return f"{middle} [{low}, {high}]"


def ratio(base: list[float], other: list[float]) -> str:
    """Median [quartiles] of base / other, round by round: neighbours in time share what a busy machine does to them."""
    return spread([b / o for b, o in zip(base, other, strict=True)], factor=1, digits=2)


def stamp(device: torch.device, dtype: torch.dtype) -> str:
    """What the figures hold for."""
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{place}, {str(dtype).removeprefix('torch.')}, torch {torch.__version__}"
