"""Reading weights, the authors' files and our own, by content and without executing anything in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dehaze_zoo.errors import UsageError

NESTS = ("state_dict", "params", "model")
"""Keys under which a file may keep its state dict: gUNet's and MPRNet's (and Lightning's, so ours); RIDCP's; KTDN's."""


def read_object(path: str | Path) -> Any:
    """What a weights file holds, as it is: tensors and plain containers, on the CPU.

    Takes safetensors (a flat dict) and torch's zip and older pickle formats, recognised by content, never by extension. Raises
    UsageError naming the file where it is missing, truncated, no weights file, or holds anything that would have to be executed.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint file")
    try:
        if _is_safetensors(path):
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
        with path.open("rb") as stream:  # a path would be judged by its extension
            return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the decoders meet in a damaged or hostile file
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            what = f"holds the Python object {refused[1]}; only tensors and plain containers are read, since others could run code"
        elif isinstance(error, PermissionError):
            what = "may not be read (permissions)"
        else:
            what = "is truncated or no weights file"
        raise UsageError(f"{path}: {what}.\nGive a .pth, .ckpt or .safetensors that holds a state dict.") from error


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a weights file, its wrapping and the prefixes "module." (DataParallel) and "network." (our .ckpt) taken off.

    Raises UsageError as ``read_object`` does, and where the file holds no state dict.
    """
    held = read_object(path)
    nest = next((key for key in NESTS if isinstance(held, Mapping) and isinstance(held.get(key), Mapping)), None)
    state = {str(key): value for key, value in (held[nest] if nest else held).items()} if isinstance(held, Mapping) else {}
    state = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not state:
        raise UsageError(f"{path}: holds no state dict (a dict of tensors, bare or under {', '.join(NESTS)}).")
    if read_metadata(path):
        return state  # written by us: its keys are the network's own
    if nest == "state_dict" and any(key.startswith("network.") for key in state):
        return {key.removeprefix("network."): value for key, value in state.items() if key.startswith("network.")}
    if all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state


def read_metadata(path: str | Path) -> dict[str, Any]:
    """``{"model": name, "overrides": {...}}`` of a file by ``write_safetensors``; empty for any other. Raises as ``read_object``."""
    if not Path(path).is_file() or not _is_safetensors(Path(path)):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
        overrides = json.loads(found.get("overrides", "{}"))
    except (SafetensorError, ValueError) as error:
        raise UsageError(f"{path}: is truncated or no weights file.") from error
    return {"model": found["model"], "overrides": overrides} if "model" in found and isinstance(overrides, dict) else {}


def whole_design(path: str | Path | None, model: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides to build ``model`` with: those ``given`` (None: not given), else those that a file of ours says it was built with."""
    account = _account(path) if path is not None else {}
    stored = account["overrides"] if account.get("model") == model else {}
    return {**stored, **{key: value for key, value in given.items() if value is not None}}


def _account(path: str | Path) -> dict[str, Any]:
    """``read_metadata``'s, also of a training's .ckpt."""
    if not Path(path).is_file() or _is_safetensors(Path(path)):
        return read_metadata(path)
    held = read_object(path)
    found = held.get("design") if isinstance(held, Mapping) else None
    return dict(found) if isinstance(found, Mapping) and isinstance(found.get("overrides"), Mapping) else {}


def load_into(net: nn.Module, path: str | Path) -> None:
    """Loads a weights file into ``net``, all of it, through the network's own ``import_state_dict`` where it has one.

    A tensor that the network holds under several names may come under any one of them. Raises UsageError as ``read_object`` does,
    and where keys are missing, too many or of another shape (then ``net`` is unchanged).
    """
    state = read_state_dict(path)
    translate = getattr(net, "import_state_dict", None)
    if translate is not None:
        state = translate(state)
    wanted = net.state_dict()
    for key, first in first_names(net).items():
        if key not in state and first in state:
            state[key] = state[first]
    missing = [key for key in wanted if key not in state]
    extra = [key for key in state if key not in wanted]
    shapes = [
        f"{key} {tuple(state[key].shape)} in the file, {tuple(wanted[key].shape)} in the model"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    if missing or extra or shapes:
        lines = [f"{path}: these are the weights of another network than {type(net).__name__} as asked for."]
        lines += [f"{what}: {_few(keys)}" for what, keys in (("missing", missing), ("extra", extra), ("misshapen", shapes)) if keys]
        raise UsageError("\n".join([*lines, "Give its own checkpoint, or the model= (and overrides) that this file was trained with."]))
    net.load_state_dict(state)


def first_names(net: nn.Module) -> dict[str, str]:
    """For each key of the state dict, the first key that holds the same tensor (mostly itself)."""
    seen: dict[int, str] = {}
    return {key: seen.setdefault(id(value), key) for key, value in net.state_dict(keep_vars=True).items()}


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"  # 8 bytes of header length, then the header, which is JSON


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
