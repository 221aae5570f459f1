"""RIDCP's controllable matching (Wu et al., CVPR 2023, section 3.3): which codes haze calls for, and how strongly to shun them."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dehaze_zoo.checkpoints.create import create_model
from dehaze_zoo.checkpoints.reading import read_object, read_state_dict
from dehaze_zoo.checkpoints.writing import write_safetensors
from dehaze_zoo.data.images import read_rgb, write_aside, write_picture
from dehaze_zoo.data.layouts import pictures
from dehaze_zoo.errors import ImageError, UsageError
from dehaze_zoo.inference.alpha import alpha_strip
from dehaze_zoo.inference.reporting import failure, progress_bar, say_failures, write_json
from dehaze_zoo.inference.restore import choose_device, restore_pixels
from dehaze_zoo.networks.blocks.quantiser import code_use
from dehaze_zoo.networks.ridcp import PUBLISHED_ALPHA, RIDCP, VQGAN, design_of, extend
from dehaze_zoo.outcome import Outcome

if TYPE_CHECKING:
    from omegaconf import DictConfig

FINER = 8
"""Parts into which the search cuts the stretch around the best alpha."""
MOST = 10_000
"""Alphas that one search tries."""
KEPT = 2**30
"""Bytes of features that are kept between the two passes over the hazy pictures; beyond, they are computed again."""


@dataclass
class Matching:
    """How often each code is used on clear pictures and, for every alpha, on hazy ones."""

    clear: Tensor
    """int64 (codes,)."""
    alphas: list[float]
    """The first is 0."""
    hazy: Tensor
    """int64 (alphas, codes)."""

    @property
    def gap(self) -> Tensor:
        """The matching weights f = P_haze - P_clear (codes,), float32, at alpha 0."""
        return frequency_gap(self.clear, self.hazy[0])

    @property
    def divergences(self) -> list[float]:
        """KL(P_clear || P_haze(alpha)) of each alpha."""
        return [divergence(self.clear, use) for use in self.hazy]

    @property
    def best(self) -> int:
        """Which alpha has the least divergence."""
        return int(np.argmin(self.divergences))


def frequency_gap(clear: Tensor, hazy: Tensor) -> Tensor:
    """P_haze - P_clear (codes,), float32, of two counts."""
    return (hazy.double() / hazy.sum().clamp_min(1) - clear.double() / clear.sum().clamp_min(1)).float()


def divergence(clear: Tensor, hazy: Tensor) -> float:
    """KL(P_clear || P_haze) of two counts (codes,), in nats; every code counts once more than it was used, so that none has zero share."""
    p, q = ((use.double() + 1) / (use.sum() + len(use)) for use in (clear, hazy))
    return float((p * (p / q).log()).sum())


class Features:
    """What an encoder makes of pictures, one after another; kept in memory as far as ``KEPT`` reaches. Unreadable ones are noted."""

    def __init__(self, network: VQGAN | RIDCP, files: Sequence[Path], longest: int) -> None:
        self.network, self.files, self.longest = network, files, longest
        self.failed: list[dict[str, str]] = []
        self._kept: dict[Path, Tensor] = {}
        self._bytes = 0

    @torch.no_grad()
    def __iter__(self) -> Iterator[Tensor]:
        device = next(self.network.parameters()).device
        bad = {entry["file"] for entry in self.failed}
        for path in self.files:
            if str(path) in bad:
                continue
            if path not in self._kept:
                try:
                    image = _read(path, self.longest).to(device)
                except ImageError as error:
                    self.failed.append(failure(path, error))
                    continue
                features = self.network.unquantised(extend(image, always=isinstance(self.network, RIDCP)))
                size = features.numel() * features.element_size()
                if self._bytes + size > KEPT:
                    yield features
                    continue
                self._kept[path], self._bytes = features, self._bytes + size
            yield self._kept[path]


def match(clear: Features, hazy: Features, alphas: Sequence[float]) -> Matching:
    """Counts codes on clear pictures by ``clear``'s network (stage 1) and on hazy ones by ``hazy``'s (stage 2), at each of ``alphas``.

    ``alphas`` from 0 up; then finer ones between the neighbours of the best.
    Raises UsageError where no picture of a kind could be read.
    """
    quantiser, use = hazy.network.quantiser, {}
    with progress_bar() as bar:
        for name, features in (("clear", clear), ("hazy", hazy)):
            counts = [code_use(quantiser, each) for each in bar.track(features, total=len(features.files), description=f"codes of {name}")]
            if not counts:
                raise UsageError(f"{name}: none of the {len(features.files)} pictures could be read. {features.failed[0]['why']}")
            use[name] = torch.stack(counts).sum(0)
        gap = frequency_gap(use["clear"], use["hazy"])

        def search(ways: Sequence[float]) -> dict[float, Tensor]:
            factors = (torch.tensor(ways, device=gap.device)[:, None] * gap).exp()
            counts = torch.zeros(len(ways), len(gap), dtype=torch.int64, device=gap.device)
            for each in bar.track(hazy, total=len(hazy.files), description="alpha"):
                counts += code_use(quantiser, each, factors)
            return dict(zip(ways, counts.cpu(), strict=True))

        def found() -> Matching:
            ways = sorted(tried)
            return Matching(use["clear"].cpu(), ways, torch.stack([tried[alpha] for alpha in ways]))

        tried = {0.0: use["hazy"].cpu(), **search([alpha for alpha in alphas if alpha != 0])}
        coarse = found()
        low, high = coarse.alphas[max(coarse.best - 1, 0)], coarse.alphas[min(coarse.best + 1, len(tried) - 1)]
        tried |= search([alpha for alpha in (low + (high - low) * i / FINER for i in range(1, FINER)) if alpha not in tried])
    return found()


def acquire(cfg: DictConfig, run_dir: Path) -> Outcome:
    """The verb: matching weights and alpha for ``cfg.checkpoint``, from pictures or from a stored vector (``cfg.matching``).

    Leaves in ``cfg.output`` <model>_matched.safetensors (the network with them), matching.safetensors (them alone), report.json,
    kl_curve.png, codes_used.png and strips of hazy pictures at several alphas. Raises UsageError for wrong settings.
    """
    output, name = Path(cfg.output), str(cfg.model.network.name)
    network, design = _load(cfg)
    network.to(choose_device(cfg.trainer.accelerator))
    if cfg.matching is not None:
        gap, alpha = _stored(cfg.matching)
        report: dict[str, Any] = {"from": str(cfg.matching)}
        failed: list[dict[str, str]] = []
    else:
        if not (math.isfinite(cfg.highest) and 0 < cfg.step <= cfg.highest):
            raise UsageError(f"highest={cfg.highest} step={cfg.step}: alphas from 0 to highest, a positive step apart.")
        if cfg.highest / cfg.step > MOST:
            raise UsageError(
                f"highest={cfg.highest} step={cfg.step}: more than {MOST} alphas, each counted over all pictures. Raise step=."
            )
        hazy = Features(network, _folder("hazy", cfg.hazy), cfg.longest)
        clear = Features(_clear_network(cfg, network), _folder("clear", cfg["clear"]), cfg.longest)
        found = match(clear, hazy, [i * cfg.step for i in range(int(cfg.highest / cfg.step + 1e-6) + 1)])
        gap, alpha, failed = found.gap, found.alphas[found.best], clear.failed + hazy.failed
        if alpha == found.alphas[-1]:
            print(f"the divergence still falls at the largest alpha: raise highest= (it is {cfg.highest:g})", flush=True)
        report = _report(found) | {"clear": len(clear.files), "hazy": len(hazy.files), "failed": failed}
        _draw(found, output)
    network.set_matching(gap.to(network.quantiser.frequency_gap.device), alpha)
    target = output / f"{name}_matched.safetensors"
    write_safetensors(network, target, name, design)
    if cfg.matching is None:
        _strips(network, hazy, cfg.shown, [*cfg.strip], output)
    _write_vector(output / "matching.safetensors", network)
    write_json(output / "report.json", {"model": name, "alpha": alpha, **report})
    say_failures(failed)
    print(f"alpha {alpha:g}; the network with its matching weights: {target.absolute()}")
    print(f"look: python -m dehaze_zoo.predict model={name} checkpoint={target} input=DIR 'alpha=[0,7,14,21,28]'", flush=True)
    return Outcome(int(bool(failed)), {"alpha": alpha, **{key: report[key] for key in ("kl", "kl_at_0") if key in report}})


def _load(cfg: DictConfig) -> tuple[RIDCP, dict[str, Any]]:
    """Stage 2 with the design that its weights are of."""
    if cfg.checkpoint is None:
        raise UsageError("checkpoint= is needed: the weights of a training with model=ridcp, or the authors' file")
    given = dict(cfg.model.network)
    name = str(given.pop("name"))
    try:
        design = {**design_of(read_state_dict(cfg.checkpoint)), **given}
    except UsageError as error:
        raise UsageError(f"checkpoint={cfg.checkpoint}: {error}") from error
    network = create_model(name, cfg.checkpoint, **design)
    if not isinstance(network, RIDCP):
        raise UsageError(f"model={name} has no matching weights; ridcp and ridcp_nat have.")
    return network, design


def _clear_network(cfg: DictConfig, network: RIDCP) -> VQGAN | RIDCP:
    """Stage 1, from stage1= or from the training that left the checkpoint; the network itself where neither is known."""
    path = cfg.stage1 or _stage1_of(Path(cfg.checkpoint))
    if path is None:
        print("clear pictures go through stage 2's own encoder; stage1=FILE names the weights of ridcp_vqgan, as published", flush=True)
        return network
    stage1 = create_model("ridcp_vqgan", path, **design_of(read_state_dict(path)))
    assert isinstance(stage1, VQGAN)
    ours, theirs = (net.quantiser.embedding.weight for net in (network, stage1))
    if ours.shape != theirs.shape or not torch.equal(ours.cpu(), theirs):
        raise UsageError(f"stage1={path}: its codebook ({len(theirs)} codes) is not that of the checkpoint ({len(ours)} codes).")
    return stage1.to(ours.device)


def _stage1_of(checkpoint: Path) -> str | None:
    """The stage 1 that a training of ours started from, by its config.yaml beside checkpoints/."""
    from omegaconf import OmegaConf

    config = checkpoint.absolute().parent.parent / "config.yaml"
    if checkpoint.parent.name != "checkpoints" or not config.is_file():
        return None
    path = OmegaConf.select(OmegaConf.load(config), "stage1")  # type: ignore[arg-type]
    return str(path) if path is not None and Path(path).is_file() else None


def _folder(key: str, folder: str | None) -> list[Path]:
    if folder is None:
        raise UsageError(
            f"{key}= is needed: a folder of {'real hazy' if key == 'hazy' else 'clear, sharp'} pictures, some 200 as published"
        )
    found = sorted(pictures(Path(folder)))
    if not found:
        raise UsageError(f"{key}={folder}: no pictures in this folder.")
    return found


def _stored(path: str) -> tuple[Tensor, float]:
    """Matching weights from our matching.safetensors, or the authors' bare vector, whose sign is the other."""
    held = read_object(path)
    if isinstance(held, dict) and {"frequency_gap", "alpha"} <= set(held):
        return held["frequency_gap"], float(held["alpha"])
    vector = next((value for value in held.values() if isinstance(value, Tensor)), None) if isinstance(held, dict) else held
    if not isinstance(vector, Tensor) or vector.squeeze().ndim != 1:
        raise UsageError(f"matching={path}: holds no matching weights, a number for each code.")
    return -vector.squeeze().float(), PUBLISHED_ALPHA


def _write_vector(path: Path, network: RIDCP) -> None:
    from safetensors.torch import save

    held = {"frequency_gap": network.quantiser.frequency_gap, "alpha": network.quantiser.alpha}
    about = {"format": "pt", "load": "python -m dehaze_zoo.ridcp_matching checkpoint=FILE matching=THIS, or RIDCP.set_matching"}
    write_aside(path, save({key: value.detach().cpu().contiguous() for key, value in held.items()}, about))


def _read(path: Path, longest: int) -> Tensor:
    """(1, 3, H, W) in [0, 1], the longer side at most ``longest`` pixels."""
    stored = read_rgb(path)
    pixels = stored / np.float32(255) if stored.dtype == np.uint8 else stored
    image = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32)).permute(2, 0, 1)[None]
    scale = longest / max(image.shape[-2:])
    return nn.functional.interpolate(image, scale_factor=scale, mode="bilinear", antialias=True) if scale < 1 else image


def _strips(network: RIDCP, hazy: Features, shown: int, alphas: list[float], output: Path) -> None:
    """<stem>_alpha.png (<name>_alpha.png where two stems are equal) of the first hazy pictures, at the size at which they were counted."""
    bad = {entry["file"] for entry in hazy.failed}
    stems = Counter(path.stem for path in hazy.files)
    for path in [path for path in hazy.files if str(path) not in bad][:shown]:
        pixels = _read(path, hazy.longest)[0].clamp(0, 1).permute(1, 2, 0).numpy()
        own = path.stem if stems[path.stem] == 1 else path.name
        write_picture(output / f"{own}_alpha.png", alpha_strip(network, pixels, alphas, partial(restore_pixels, network, pixels)))


def _report(found: Matching) -> dict[str, Any]:
    curve = [{"alpha": alpha, "kl": kl} for alpha, kl in zip(found.alphas, found.divergences, strict=True)]
    used = {"on_clear": found.clear, "on_hazy_at_0": found.hazy[0], "on_hazy": found.hazy[found.best]}
    figures = {"kl": found.divergences[found.best], "kl_at_0": found.divergences[0], "curve": curve}
    return figures | {"codes": len(found.clear), "codes_used": {name: int((use > 0).sum()) for name, use in used.items()}}


def _draw(found: Matching, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name, figure in (("kl_curve", kl_figure(found)), ("codes_used", use_figure(found))):
        figure.canvas.draw()
        data = io.BytesIO()
        Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB").save(data, "PNG")
        write_aside(output / f"{name}.png", data.getvalue())


def kl_figure(found: Matching) -> Any:
    """The curve of the search as a matplotlib figure."""
    figure, axes = _figure(6, 4)
    axes.plot(found.alphas, found.divergences, marker=".", color="tab:blue")
    best = found.alphas[found.best]
    axes.axvline(best, color="tab:red", linewidth=1, label=f"best: alpha = {best:g}")
    axes.axvline(PUBLISHED_ALPHA, color="grey", linewidth=1, linestyle=":", label=f"the authors': {PUBLISHED_ALPHA:g}")
    axes.set_xlabel("alpha")
    axes.set_ylabel("KL(clear || hazy), nats")
    axes.legend()
    return figure


def use_figure(found: Matching) -> Any:
    """Both histograms as a matplotlib figure: share of each code on clear pictures, and on hazy ones at 0 and at the best alpha."""
    figure, axes = _figure(9, 4)
    order = found.clear.argsort(descending=True, stable=True)
    best = f"{found.alphas[found.best]:g}"
    shown = (
        ("clear", found.clear, "black"),
        ("hazy, alpha 0", found.hazy[0], "tab:orange"),
        (f"hazy, alpha {best}", found.hazy[found.best], "tab:blue"),
    )
    for i, (label, use, colour) in enumerate(shown):
        share = (use[order].double() / use.sum()).numpy()
        if i == 0:
            axes.fill_between(range(len(share)), share, step="mid", color="0.8", label=label)
        else:
            axes.plot(share, color=colour, linewidth=0.8, drawstyle="steps-mid", label=label)
    axes.set_yscale("symlog", linthresh=1e-4)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("codes, the most used on clear pictures first")
    axes.set_ylabel("share of all positions")
    axes.legend()
    return figure


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()
