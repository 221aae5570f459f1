"""A network as one file for other programs, checked against the network on three sizes before it gets its name."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.markup import escape
from torch import Tensor, nn

from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.checkpoints.writing import write_safetensors
from dehaze_zoo.errors import UsageError, near_misses
from dehaze_zoo.files import written_aside
from dehaze_zoo.inference.reporting import write_json
from dehaze_zoo.inference.restore import load_for_others
from dehaze_zoo.outcome import Outcome

if TYPE_CHECKING:
    from omegaconf import DictConfig

SIZES = ((61, 83), (40, 120), (264, 296))
"""Of the pictures that an export is checked on: odd, of another shape than it was made with, and large enough for RIDCP's pieces.

Not smaller: there DCP's dark channel has the same value at several pixels, and it is any of these that a program takes for the airlight.
"""
CLOSE = 1e-3
"""The most that an exported network may differ by, of the range 1; other programs add in another order."""

ANY_SIZE = ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)

Run = Callable[[Tensor], Tensor]


def export(cfg: DictConfig, run_dir: Path) -> Outcome:
    """The verb: writes ``cfg.output``, and export.json with the differences found into ``run_dir``. Raises UsageError."""
    network, name, design, _ = load_for_others(cfg.model.network, cfg.checkpoint)
    found = export_network(network, cfg.format, Path(cfg.output), name, design)
    write_json(run_dir / "export.json", {"model": name, "format": cfg.format, "output": str(cfg.output), "differs_by": found})
    worst = max(found.values())
    equal = f"{name} as {cfg.format}, equal to the network on {', '.join(found)} within {worst:.1e}"
    Console(soft_wrap=True).print(f"{equal}: {escape(str(Path(cfg.output).absolute()))}", highlight=False)
    return Outcome(0, {"differs_by": worst})


def export_network(network: nn.Module, form: str, path: Path, name: str, design: dict[str, Any]) -> dict[str, float]:
    """Writes ``network``, built as ``name`` with ``design``, to ``path`` as onnx, torch or safetensors; returns the differences by size.

    All take (B, 3, H, W) float32 in [0, 1] of any H and W, B = 1 in the graphs, and return it restored, unclamped. The file is checked
    under a passing name first. Raises UsageError for an unknown form, what the form cannot hold, and a file that does not agree.
    """
    if form not in WRITERS:
        raise UsageError(f"format={form}: no such format. {near_misses(form, WRITERS)}")
    if path.is_dir():
        raise UsageError(f"output={path} is a folder. Name the file to write.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            run = WRITERS[form](network.eval(), aside, name, design)
            found = _compare(network, run, name, form)
            worst = max(found, key=lambda size: found[size])
            if not found[worst] <= CLOSE:
                raise UsageError(f"{name} as {form} differs by {found[worst]:.1e} on {worst}; nothing was written. Another format may do.")
    except OSError as error:
        raise UsageError(f"output={path} cannot be written: {error.strerror or error}") from error
    return found


@torch.no_grad()
def _compare(network: nn.Module, run: Run, name: str, form: str) -> dict[str, float]:
    random = torch.Generator().manual_seed(0)
    found = {}
    for height, width in SIZES:
        hazy = torch.rand(1, 3, height, width, generator=random)
        expected = network(hazy)
        try:
            found[f"{height}x{width}"] = float((run(hazy) - expected).abs().max())
        except Exception as error:  # a graph that is tied to some sizes, or a runtime without an operator
            raise UsageError(f"{name} as {form} fails on {height}x{width}: {_reason(error)}\nNothing was written.") from error
    return found


def _write_onnx(network: nn.Module, path: Path, name: str, design: dict[str, Any]) -> Run:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # what torch writes ONNX with
    except ImportError as error:
        raise UsageError(f"format=onnx needs {error.name}: pip install 'dehaze_zoo[export]'") from error
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                network,
                (_example(),),
                path,
                input_names=["hazy"],
                output_names=["restored"],
                dynamic_shapes=ANY_SIZE,
                dynamo=True,
                optimize=False,  # its folding stumbles over MPRNet's halves; runtimes optimise by themselves
                external_data=False,
                verbose=False,
            )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exporter and the runtime have dozens of errors for what they lack
        raise UsageError(f"{name} cannot be held by ONNX: {_reason(error)}\nformat=torch holds it.") from error
    return lambda hazy: torch.from_numpy(session.run(None, {"hazy": hazy.numpy()})[0])


def _write_torch(network: nn.Module, path: Path, name: str, design: dict[str, Any]) -> Run:
    try:
        with _quiet(), torch.no_grad(), _any_size():
            program = torch.export.export(network, (_example(),), dynamic_shapes=ANY_SIZE)
            with path.open("wb") as file:  # by name, torch asks for the ending .pt2
                torch.export.save(program, file)
            with path.open("rb") as file:
                module = torch.export.load(file).module()
    except OSError:
        raise
    except Exception as error:
        raise UsageError(f"{name} cannot be held by torch.export: {_reason(error)}\nformat=safetensors holds it.") from error
    return module


def _write_safetensors(network: nn.Module, path: Path, name: str, design: dict[str, Any]) -> Run:
    write_safetensors(network, path, name, design)
    return create_model(name, path)


WRITERS: dict[str, Callable[[nn.Module, Path, str, dict[str, Any]], Run]] = {
    "onnx": _write_onnx,
    "torch": _write_torch,
    "safetensors": _write_safetensors,
}


def _example() -> Tensor:
    return torch.rand(1, 3, 72, 104, generator=torch.Generator().manual_seed(1))


def _reason(error: Exception) -> str:
    """The line of an exporter's page-long message that says what is the matter."""
    lines = [line.strip() for line in f"{error}\n{error.__cause__ or ''}".splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line for word in ("Error", "not supported", "No ONNX", "nsupported", "Could not"))]
    return (telling or lines or [type(error).__name__])[0][:200]


def _any_size() -> contextlib.AbstractContextManager[None]:
    """Within, torch.export ties a graph to no side of 1, nor to sides above it (where torch knows how: 2.8 and later)."""
    from torch.fx.experimental import _config

    if not hasattr(_config, "backed_size_oblivious"):
        return contextlib.nullcontext()
    # Its patch comes into being when torch is imported, so that mypy knows neither it nor what it returns.
    return _config.patch(backed_size_oblivious=True)  # type: ignore[no-any-return, attr-defined]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings, which name their own insides."""
    loud = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loud]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loud:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loud, levels, strict=True):
                logger.setLevel(level)
