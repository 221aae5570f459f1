"""Where numbers stop being finite: the first module to blame, a dump of the batch, and its replay (train's key replay=FILE)."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dehaze_zoo.checkpoints.reading import read_object
from dehaze_zoo.errors import UsageError
from dehaze_zoo.files import quoted, written_aside

if TYPE_CHECKING:
    from dehaze_zoo.training.module import DehazingModule

FOLDER = "not_finite"


def finite(tensors: list[Tensor]) -> bool:
    """Whether every element of every tensor is finite, by the norms of all at once: one number is fetched from the device."""
    return not tensors or bool(torch.isfinite(torch.stack(torch._foreach_norm(tensors)).sum()))


def first_offender(module: DehazingModule, batch: Mapping[str, Any]) -> str:
    """Runs the step's forward and backward again, watched; says in a line what is not finite first.

    In this order: the batch, a weight, the output of a module whose inputs are finite, a loss term, a gradient. Leaves gradients zeroed
    and running statistics as this pass moved them. Every rank must call it alike (a SyncBN inside talks to the others).
    """
    module.compiled = False  # compiled code would not be watched
    for name, value in batch.items():
        if isinstance(value, Tensor) and not torch.isfinite(value).all():
            return f"the batch's {name}"
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"the weight {name}, before this step"
    found: list[str] = []
    with _watched(module, found), module.trainer.precision_plugin.forward_context():
        terms = module.losses_of(batch)
    found += [f"the loss term {name}" for name, term in terms.items() if not torch.isfinite(term)]
    if not found:
        torch.stack(list(terms.values())).sum().backward()  # the tensors of the forward pass are still watched
        found += [f"the gradient of {name}" for name, p in module.named_parameters() if p.grad is not None and not finite([p.grad])]
    module.zero_grad()
    return found[0] if found else "nothing when repeated: the step's sums are not reproducible, or a scaled gradient overflowed"


@contextmanager
def _watched(root: nn.Module, found: list[str]) -> Iterator[None]:
    """Notes in ``found`` which module's output, or its gradient in the backward pass to come, is the first that is not finite."""

    def gradient(name: str, value: Tensor) -> None:
        if not torch.isfinite(value).all():
            found.append(f"the gradient at the output of {name}")

    def output(name: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
        tensors = [tensor for tensor in (outputs if isinstance(outputs, (list, tuple)) else [outputs]) if isinstance(tensor, Tensor)]
        label = f"{name} ({type(module).__name__})"
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            found.append(f"the output of {label}")
        for tensor in tensors:
            if tensor.requires_grad:
                tensor.register_hook(partial(gradient, label))

    handles = [module.register_forward_hook(partial(output, name)) for name, module in root.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def dump(module: DehazingModule, batch: Mapping[str, Any], batch_idx: int) -> Path:
    """Writes the batch, the network's weights and the place to run_dir/not_finite/, as plain data; returns the file."""
    epoch, rank = module.current_epoch, module.global_rank
    target = Path(module.trainer.default_root_dir) / FOLDER / f"epoch{epoch:04d}_batch{batch_idx:05d}_rank{rank}.pt"
    target.parent.mkdir(parents=True, exist_ok=True)
    held = {name: value.cpu() if isinstance(value, Tensor) else list(value) for name, value in batch.items()}
    with written_aside(target) as aside:
        torch.save({"batch": held, "epoch": epoch, "batch_idx": batch_idx, "rank": rank, "state_dict": module.state_dict()}, aside)
    return target


def replay_command(file: Path, before: Mapping[str, str]) -> str:
    """The command that looks at a dump again, for a shell: this run's own, less where it writes and what it resumes.

    ``before``: the files of the runs that this one did first (or was given), by key; they are not done again.
    """
    left_out = ("run_dir=", "resume=", "replay=", "init=", "launcher=", "launcher.", *(f"{key}=" for key in before))
    own = [arg for arg in sys.argv[1:] if ("=" in arg or arg[:1] == "~") and not arg.lstrip("+").startswith(left_out)]
    as_quoted = "DEHAZE_ZOO_QUOTED" in os.environ  # this run is a job of another's, whose words are Hydra's already
    paths = {**before, "replay": str(file)}
    words = [*own, *(f"{key}={quoted(path) if as_quoted else path}" for key, path in paths.items())]
    return "DEHAZE_ZOO_QUOTED=1 " * as_quoted + shlex.join(["python", "-m", "dehaze_zoo.train", *words])


def replay(module: DehazingModule, file: Path) -> str:
    """Repeats the dumped batch on ``module`` (with its trainer) and says what is not finite first. Raises UsageError for another file."""
    held = read_object(file)
    if not isinstance(held, dict) or not {"batch", "epoch", "batch_idx", "rank", "state_dict"} <= set(held):
        raise UsageError(f"replay={file}: is no dumped batch. They lie in run_dir/{FOLDER}/.")
    module.setup("fit")
    try:
        module.load_state_dict(held["state_dict"])
    except RuntimeError as error:
        raise UsageError(f"replay={file}: the batch was dumped by another network. Repeat the settings of its run.") from error
    module.trainer.fit_loop.epoch_progress.current.completed = held["epoch"]
    module.to(module.trainer.strategy.root_device)
    module.place()
    batch = {name: value.to(module.device) if isinstance(value, Tensor) else value for name, value in held["batch"].items()}
    module.set_norms(held["epoch"])
    module.draw_as(held["batch_idx"], held["rank"])
    return first_offender(module, batch)
