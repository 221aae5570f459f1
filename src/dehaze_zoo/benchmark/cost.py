"""What a network costs: parameters, multiply-adds, time and memory by size of picture, on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dehaze_zoo.inference.memory import peak_bytes

MACS_SIDE = 256
"""Pixels; the field's size for counting."""


def measure_cost(network: nn.Module, device: torch.device, sizes: Sequence[int], rounds: int, seconds: float) -> dict[str, Any]:
    """Parameters, MACs at 256x256, and for each size (a square's side, pixels) warm latency, throughput and peak memory.

    Times in ms: median and quartiles of at most ``rounds`` runs after one that is not counted, or as many as end within ``seconds`` (three
    at least, where one alone does not take longer than that). ``peak_mib``: the most that its tensors hold at once, in 2^20 bytes.
    """
    figures: dict[str, Any] = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "macs": macs(network, device),
        "device": device_name(device),
        "sizes": {},
    }
    for side in sizes:
        hazy = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)

        def run(hazy: torch.Tensor = hazy) -> None:
            with torch.no_grad():
                network(hazy)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        first = _timed(run)
        taken: list[float] = []
        while len(taken) < rounds and (sum(taken) < seconds or len(taken) < 3) and (first < seconds or not taken):
            taken.append(_timed(run))
        low, middle, high = statistics.quantiles(taken, n=4, method="inclusive") if len(taken) > 1 else taken * 3
        figures["sizes"][str(side)] = {
            "latency_ms": middle * 1e3,
            "latency_q1_ms": low * 1e3,
            "latency_q3_ms": high * 1e3,
            "runs": len(taken),
            "megapixels_per_s": side * side / 1e6 / middle,
            "peak_mib": peak_bytes(network, hazy) / 2**20,
        }
    return figures


def macs(network: nn.Module, device: torch.device) -> int | None:
    """Multiply-adds of convolutions and matrix products for one picture of 256x256; None where there are none (or no count).

    torch counts a multiply-add as two operations (FLOPs = 2 MACs); normalisations, activations and plain arithmetic are not counted.
    """
    plain = sdpa_kernel(SDPBackend.MATH)  # as matrix products: attention in one kernel is not counted by every torch
    with plain, FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, MACS_SIDE, MACS_SIDE, device=device))
    return counter.get_total_flops() // 2 or None


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def pareto(points: dict[str, tuple[float, float]]) -> set[str]:
    """Names whose (cost, quality) nobody beats: none is as cheap and better, or as good and cheaper."""
    return {
        name
        for name, (cost, quality) in points.items()
        if not any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in points.values())
    }


def _timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
