"""The list of networks by name, filled by the family files beside this one and by installed packages.

A family registers each variant with a decorated function; nothing else names it:

    @register_model(paper="...", citation="...", licence="...", url="...")
    def gunet_t(**overrides: Any) -> GUNet: ...
"""

from __future__ import annotations

import fnmatch
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar, overload

from torch import nn

from dehaze_zoo.errors import UsageError, near_misses

Builder = Callable[..., nn.Module]
B = TypeVar("B", bound=Builder)

ENTRY_POINT_GROUP = "dehaze_zoo.models"
"""Installed packages name a module (or a function) in this group; loading it registers their networks."""


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a registered network besides its code."""

    name: str
    paper: str
    """Title, venue and year."""
    citation: str
    """Who and where, as one would cite it."""
    licence: str
    """Of the design's known weights (the authors'), not of our code."""
    url: str
    parameters: int
    """Number of trainable and frozen parameters, each counted once."""


@dataclass(frozen=True)
class _Entry:
    build: Builder
    paper: str
    citation: str
    licence: str
    url: str


_entries: dict[str, _Entry] = {}
_broken: dict[str, str] = {}


@overload
def register_model(builder: B, /, *, name: str = "", paper: str = "", citation: str = "", licence: str = "", url: str = "") -> B: ...


@overload
def register_model(*, name: str = "", paper: str = "", citation: str = "", licence: str = "", url: str = "") -> Callable[[B], B]: ...


def register_model(
    builder: B | None = None, /, *, name: str = "", paper: str = "", citation: str = "", licence: str = "", url: str = ""
) -> B | Callable[[B], B]:
    """Registers a function that builds a network, under its own name or ``name``; plain or with arguments as a decorator.

    The function takes the design's keyword overrides and returns an ``nn.Module`` that maps hazy (B, 3, H, W) in [0, 1] to
    restored, unclamped. Raises ValueError where another function holds the name.
    """

    def add(function: B) -> B:
        key = name or getattr(function, "__name__", "")
        held = _entries.get(key)
        origin = (function.__module__, function.__qualname__)
        if held is not None and (held.build.__module__, held.build.__qualname__) != origin:
            raise ValueError(f"the model name {key!r} is taken by {held.build.__module__}.{held.build.__qualname__}")
        _entries[key] = _Entry(function, paper, citation, licence, url)
        return function

    return add if builder is None else add(builder)


@cache
def _load_families() -> None:
    """Imports every family once. A file that fails is remembered and named when its network is asked for."""
    package = importlib.import_module("dehaze_zoo.networks")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg and module.name != "registry":
            _guarded(f"dehaze_zoo.networks.{module.name}", partial(importlib.import_module, f"dehaze_zoo.networks.{module.name}"))
    for point in entry_points(group=ENTRY_POINT_GROUP):
        _guarded(point.value, partial(_load_point, point))


def _load_point(point: EntryPoint) -> None:
    loaded = point.load()
    # A module registers what it holds while it is imported; a plain function is registered under its entry's name.
    known = any(entry.build is loaded for entry in _entries.values())
    if callable(loaded) and not known:
        register_model(loaded, name=point.name)


def _guarded(what: str, load: Callable[[], Any]) -> None:
    try:
        load()
    except Exception as error:  # one broken family or plug-in must not take the others away
        _broken[what] = f"{type(error).__name__}: {error}"


def _entry(name: str) -> _Entry:
    _load_families()
    if name not in _entries:
        broken = "".join(f"\n{what} could not be imported: {why.splitlines()[0][:200]}" for what, why in _broken.items())
        raise UsageError(f"no model is called {name!r}. {near_misses(name, _entries)}{broken}")
    return _entries[name]


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered networks that match a shell pattern, sorted."""
    _load_families()
    return sorted(fnmatch.filter(_entries, pattern))


def build_model(name: str, **overrides: Any) -> nn.Module:
    """A freshly initialised network (torch's seed), in training mode. An override of None leaves the design's own value.

    Raises UsageError for an unknown name (with near misses) or an override that the design does not have.
    """
    entry = _entry(name)
    try:
        return entry.build(**{key: value for key, value in overrides.items() if value is not None})
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise UsageError(f"model {name!r}: {str(error).split(') ')[-1]}") from error


def model_info(name: str) -> ModelInfo:
    """Paper, citation, licence of the known weights and parameter count. Raises UsageError for an unknown name."""
    entry = _entry(name)
    parameters = sum(p.numel() for p in build_model(name).parameters())
    return ModelInfo(name, entry.paper, entry.citation, entry.licence, entry.url, parameters)
