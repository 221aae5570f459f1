"""Faster forms of a network for restoring: the same numbers in fewer, larger steps.

``fold``: batch norms within the convolutions before them, and what a network's own ``deployed()`` fuses, channels last. ``compile``:
that, through torch.compile with its weights frozen. ``bf16``: that in half the bits, which changes the picture by 1/100 or so and is
never chosen unasked. ``auto`` starts with fold and, where the pictures still to come will pay for it, compiles, measures and takes the
fastest.

A network with ``rounding_decides = True`` picks codes, which other rounding would pick otherwise: of it nothing but what its own
``deployed()`` does is done, no other layout, no compilation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dehaze_zoo.data.images import Picture
from dehaze_zoo.errors import UsageError, near_misses
from dehaze_zoo.networks.blocks.forms import in_channels_last
from dehaze_zoo.networks.blocks.tiles import OfTheWhole

FORMS = ("auto", "none", "fold", "compile", "bf16")
EQUAL = 1e-4
"""The most that a form chosen unasked may differ from the plain one, of the range 1."""
PAYS = 120.0
"""Seconds of work ahead from which on compiling (half a minute or more) is tried."""
STREAK = 3
"""Pictures of one size in a row from which on compiling, which is for that size alone, is tried unasked."""
_SAMPLE = 512
_SMALLEST_UNIT = 3  # layers


class Form:
    """The form in use, ``network``, and what is to be said of it. Made by ``deploy``."""

    def __init__(self, plain: nn.Module, optimize: str) -> None:
        self.plain, self.optimize, self.name, self.said = plain, optimize, "none", ""
        self.network = plain
        self.warm_up = 0.0
        """Seconds spent on compiling and measuring."""
        self.difference: float | None = None
        """To the plain form, where measured."""
        self.last: tuple[int, int] | None = None
        self.streak = 0
        if optimize != "none":
            folded = fold(plain)
            sample = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
            self.difference = difference(plain, folded, sample)
            if self.difference <= EQUAL:
                self.network, self.name = folded, "fold"
        if optimize == "compile":
            candidate = compiled(self.network)
            if candidate is self.network:
                self.said = f"optimize=compile: compiling is not for this network; going on with optimize={self.name}"
            else:
                self._take("compile", candidate)
        elif optimize == "bf16":
            self._take("bf16", InBf16(self.network))

    def _take(self, name: str, network: nn.Module) -> None:
        self.network, self.name, self.difference = network, name, None

    def consider(self, took: float, left: int, picture: Picture, side: int | None) -> None:
        """After a picture that took so many seconds with ``left`` to come: measures what was asked for, or finds a faster form."""
        if self.optimize in ("compile", "bf16") and self.difference is None:
            self.difference = difference(self.plain, self.network, _sample(picture, side))
            self.said = f"optimize={self.name}: differs from the plain network by up to {self.difference:.1e} of the range"
            if isinstance(self.network, Compiled) and self.network.failure:
                self.said = self.network.failure
        elif self.optimize == "auto" and not self.warm_up:
            shape = picture.size if side is None else (min(side, picture.size[0]), min(side, picture.size[1]))
            self.streak, self.last = (self.streak + 1 if shape == self.last else 1), shape
            if self.streak >= STREAK and took * left > PAYS:
                start = time.perf_counter()
                part = picture.part(slice(0, shape[0]), slice(0, shape[1]))
                self._choose(torch.from_numpy(part).permute(2, 0, 1)[None].contiguous())
                self.warm_up = time.perf_counter() - start

    def _choose(self, sample: Tensor) -> None:
        forms = {self.name: (self.network, self.difference), "none": (self.plain, 0.0)}
        candidate = compiled(self.network, sample.shape)
        apart = difference(self.plain, candidate, sample)
        if isinstance(candidate, Compiled) and candidate.failure:
            self.said = candidate.failure
        elif apart <= EQUAL:
            forms["compile"] = candidate, apart
        taken = {name: seconds(network, sample) for name, (network, _) in forms.items()}
        self.name = min(taken, key=lambda name: taken[name])
        self.network, self.difference = forms[self.name]

    def report(self) -> dict[str, Any]:
        """For report.json."""
        return {"form": {"name": self.name, "differs_by": self.difference, "warm_up_seconds": round(self.warm_up, 2)}}


def deploy(network: nn.Module, optimize: str = "auto") -> Form:
    """The form of ``network`` that ``optimize`` asks for. Raises UsageError for an unknown one."""
    if optimize not in FORMS:
        raise UsageError(f"optimize={optimize}: no such form. {near_misses(str(optimize), FORMS)}")
    return Form(network, optimize)


def fold(network: nn.Module) -> nn.Module:
    """A copy in eval mode, without gradients, its batch norms folded and its own fusions done; on a CPU with weights in channels_last."""
    own: Callable[[], nn.Module] | None = getattr(network, "deployed", None)
    folded = (own() if own is not None else fold_batch_norms(deepcopy(network).eval())).requires_grad_(False)
    if not _rounding_decides(network) and any(parameter.device.type == "cpu" for parameter in folded.parameters()):
        in_channels_last(folded).register_forward_pre_hook(_channels_last)
    return folded


def _rounding_decides(network: nn.Module) -> bool:
    return bool(getattr(network, "rounding_decides", False))


def _channels_last(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Any, ...]:
    return (arguments[0].contiguous(memory_format=torch.channels_last), *arguments[1:])


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Folds, in place, each BatchNorm2d whose input is a convolution's output, as seen in one pass over a small picture."""
    made: dict[int, tuple[Tensor, str]] = {}
    pairs: dict[str, str] = {}

    def look(name: str) -> Callable[..., None]:
        def note(module: nn.Module, arguments: tuple[Tensor, ...], result: Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                made[id(result)] = (result, name)  # held, so that no other tensor gets its id
            elif id(arguments[0]) in made:
                pairs[name] = made[id(arguments[0])][1]

        return note

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [module.register_forward_hook(look(name)) for name, module in network.named_modules() if isinstance(module, kinds)]
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        network(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(next(network.parameters())))
    for hook in hooks:
        hook.remove()
    for norm, conv in pairs.items():
        folded = fuse_conv_bn_eval(network.get_submodule(conv), network.get_submodule(norm))  # type: ignore[type-var, arg-type]
        _replace(network, conv, folded)
        _replace(network, norm, nn.Identity())
    return network


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)


class InBf16(nn.Module):
    """A network under bfloat16 autocast, float32 in and out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.tiling = network, getattr(network, "tiling", None)

    def forward(self, hazy: Tensor) -> Tensor:
        with torch.autocast(hazy.device.type, torch.bfloat16):
            return self.network(hazy).to(hazy.dtype)  # type: ignore[no-any-return]


class Compiled(nn.Module):
    """A network through torch.compile, or, where that fails, as it was; ``failure`` then says so in a line.

    As one graph, but while tiles share what it measures over the whole (by hooks, which would compile it anew for each picture) in
    ``units``, a seventh slower. Nothing is compiled before it is called. Each further shape costs a compilation; with ``only``, others
    than that one go through the network as it was.
    """

    def __init__(self, network: nn.Module, only: torch.Size | None = None) -> None:
        super().__init__()
        self.tiling, self.only = getattr(network, "tiling", None), only
        self.network, self.failure = deepcopy(network), ""
        self.graph = [torch.compile(deepcopy(network))]  # in a list: no part, whose modules would count twice
        self.of_the_whole = [part for part in self.network.modules() if isinstance(part, OfTheWhole)]
        for unit in units(self.network):
            unit.compile()

    def forward(self, hazy: Tensor) -> Tensor:
        if self.failure:
            return self.network(hazy)  # type: ignore[no-any-return]
        if self.only not in (None, hazy.shape) and hasattr(torch.compiler, "set_stance"):
            with torch.compiler.set_stance("force_eager"):
                return self.network(hazy)  # type: ignore[no-any-return]
        shared = any(part._forward_hooks for part in self.of_the_whole)
        network = self.network if shared else self.graph[0]
        try:
            from torch._inductor import config  # a second, which who never compiles need not wait

            with config.patch(freezing=True):  # weights are packed once; as an option of torch.compile it comes too late for that
                restored: Tensor = network(hazy)
            return restored
        except Exception as error:  # no C++ compiler, or whatever else its dozen layers run into
            why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            self.failure = f"torch.compile does not work here ({why[:100]}); going on without it"
            for unit in units(self.network):
                unit._compiled_call_impl = None
            return self.network(hazy)  # type: ignore[no-any-return]


def compiled(network: nn.Module, only: torch.Size | None = None) -> nn.Module:
    """The network through torch.compile, or itself where there is nothing worth it."""
    return network if _rounding_decides(network) or not units(network) else Compiled(network, only)


def units(module: nn.Module) -> list[nn.Module]:
    """What to compile: the largest parts without an ``OfTheWhole``, which tiles exchange, and with more than a few layers."""
    leaves = [part for part in module.modules() if not any(True for _ in part.children())]
    if len(leaves) < _SMALLEST_UNIT:
        return []
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)) or any(isinstance(part, OfTheWhole) for part in leaves):
        return [unit for child in module.children() for unit in units(child)]
    return [module]


@torch.no_grad()
def difference(plain: nn.Module, form: nn.Module, hazy: Tensor) -> float:
    """The largest difference of two forms' pictures, clamped as the verbs do."""
    hazy = hazy.to(next(plain.parameters(), hazy).device)
    return float((plain(hazy).clamp(0, 1) - form(hazy).clamp(0, 1)).abs().max())


@torch.no_grad()
def seconds(form: nn.Module, hazy: Tensor, rounds: int = 3) -> float:
    """The least of a few times that ``form`` takes, after one that is not counted."""
    hazy, taken = hazy.to(next(form.parameters(), hazy).device), []
    for counted in range(rounds + 1):
        start = time.perf_counter()
        form(hazy)
        if hazy.is_cuda:
            torch.cuda.synchronize(hazy.device)
        if counted:
            taken.append(time.perf_counter() - start)
    return min(taken)


def _sample(picture: Picture, side: int | None) -> Tensor:
    """The middle of a picture, as large as a tile but not larger than need be."""
    spans = []
    for length in picture.size:
        span = min(length, side or length, _SAMPLE)
        spans.append(slice((length - span) // 2, (length - span) // 2 + span))
    return torch.from_numpy(picture.part(*spans)).permute(2, 0, 1)[None].contiguous()
