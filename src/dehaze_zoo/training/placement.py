"""Where a run computes: CPU or GPU, and on how many. torch is asked only where the config leaves it open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dehaze_zoo.errors import UsageError


@dataclass(frozen=True)
class Placement:
    """Processes of a run: ``devices`` on each of ``nodes``, one process a device."""

    accelerator: Literal["cpu", "gpu"]
    devices: int
    nodes: int

    @property
    def ranks(self) -> int:
        return self.devices * self.nodes

    @property
    def gpus(self) -> int:
        return self.ranks if self.accelerator == "gpu" else 0

    def batch_per_device(self, batch_size: int) -> int:
        """The share of one device of a batch over all. Raises UsageError where it does not divide."""
        if batch_size < self.ranks or batch_size % self.ranks:
            raise UsageError(
                f"data.batch_size={batch_size} is over all ranks and does not divide by {self.ranks}. Choose a multiple of {self.ranks}."
            )
        return batch_size // self.ranks


def place(trainer: Mapping[str, Any], plan: bool = False) -> Placement:
    """The placement that a trainer config asks for: accelerator auto, cpu or gpu; devices a number, auto or a list of indices.

    Raises UsageError for a GPU, or more of them, than the machine has, but for a plan that names its number of devices.
    """
    accelerator, devices, nodes = trainer["accelerator"], trainer["devices"], int(trainer["num_nodes"])
    if accelerator not in ("auto", "cpu", "gpu"):
        raise UsageError(f"trainer.accelerator={accelerator}: must be auto, cpu or gpu.")
    count = devices if isinstance(devices, int) else None if devices in ("auto", -1, "-1") else len(devices)
    if count is not None and count < 1:
        count = None  # Lightning's -1: all there are
    if accelerator == "cpu":
        return Placement("cpu", count or 1, nodes)
    if plan and count is not None and (accelerator == "gpu" or count == 1):
        return Placement("gpu", count, nodes)
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if accelerator == "auto" and there == 0:
        return Placement("cpu", count or 1, nodes)
    if there == 0:
        raise UsageError("this trainer needs a GPU, and torch sees none here. Use trainer=cpu, or trainer=ddp_cpu for several processes.")
    if count is not None and count > there:
        raise UsageError(f"trainer.devices={count}, but torch sees {there} GPU(s) here. Lower trainer.devices.")
    return Placement("gpu", count or there, nodes)
