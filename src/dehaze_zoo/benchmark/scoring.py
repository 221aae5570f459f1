"""From a restored picture to its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dehaze_zoo.benchmark.store import Score
from dehaze_zoo.metrics.catalogue import Measure, Metric
from dehaze_zoo.metrics.functional import psnr, ssim
from dehaze_zoo.metrics.protocols import Protocol

DENSITY = "density"
"""1 less the usual transmission, told from how much of the clear picture's local contrast is left in the hazy one."""

CONTRAST = 6 / 255
"""Between neighbours, for the density: what rounding to grey levels does not drown."""

Wanted = frozenset[tuple[str, str]]
"""(protocol, metric); protocol "" where it does not matter."""


@dataclass(frozen=True)
class Judge:
    """All protocols and metrics of a run; ``functions`` are those of the metrics that load one."""

    protocols: Sequence[Protocol]
    metrics: Sequence[Metric]
    functions: Mapping[str, Measure]

    def wanted(self, paired: bool) -> Wanted:
        """What a picture of such a set is judged by."""
        blind = {("", metric.name) for metric in self.metrics if not metric.needs_clear}
        if not paired:
            return frozenset(blind)
        return frozenset(
            blind | {("", DENSITY)} | {(p.name, metric.name) for p in self.protocols for metric in self.metrics if metric.needs_clear}
        )

    def __call__(
        self, image: str, restored: Tensor, hazy: Tensor, clear: Tensor | None, wanted: Wanted
    ) -> tuple[list[Score], dict[str, Exception]]:
        """(1, 3, H, W) each, in [0, 1]; the figures, and what kept some metrics from theirs (too small a picture), by metric."""
        scores: list[Score] = []
        failed: dict[str, Exception] = {}

        def score(protocol: str, metric: str, measure: Measure, *pictures: Tensor) -> None:
            try:
                scores.append(Score(image, protocol, metric, float(measure(*pictures))))
            except Exception as error:  # one metric's limits are not the others'
                failed[metric] = error

        with torch.no_grad():
            if clear is not None:
                if ("", DENSITY) in wanted:
                    score("", DENSITY, haze_density, hazy, clear)
                for protocol in self.protocols:
                    self._by_protocol(protocol, restored, clear, {metric for p, metric in wanted if p == protocol.name}, score)
            for metric in self.metrics:
                if ("", metric.name) in wanted:
                    score("", metric.name, self.functions[metric.name], restored)
        return scores, failed

    def _by_protocol(self, protocol: Protocol, restored: Tensor, clear: Tensor, names: set[str], score: object) -> None:
        if not names:
            return
        assert callable(score)
        colours = [protocol.colours(picture) for picture in (restored, clear)]
        channels = [protocol.channels(picture) for picture in colours]
        for metric in self.metrics:
            if metric.name == "psnr" and metric.name in names:
                score(protocol.name, metric.name, psnr, *channels)
            elif metric.name == "ssim" and metric.name in names:
                score(protocol.name, metric.name, ssim, *(protocol.before_ssim(picture) for picture in channels))
            elif metric.name in names:
                score(protocol.name, metric.name, self.functions[metric.name], *(channels if metric.sees == "channels" else colours))


def haze_density(hazy: Tensor, clear: Tensor) -> Tensor:
    """How much haze lies between the two, (B, 3, H, W) in [0, 1]: 0 none, 1 nothing of the scene is left; returns (B,).

    1 less the median, over neighbouring pixels that differ in the clear picture, of the hazy difference to the clear one: with
    hazy = t clear + (1 - t) airlight each such ratio is t, but where depth jumps. Values themselves would not do: what is far is often
    bright, as the sky, and haze brightens it further. 0 for a clear picture without any contrast.
    """
    found = []
    for one, other in zip(hazy.mean(1), clear.mean(1), strict=True):
        y, x = (torch.cat([grey.diff(dim=0).flatten(), grey.diff(dim=1).flatten()]) for grey in (one, other))
        strong = x.abs() >= CONTRAST
        found.append(1 - (y[strong] / x[strong]).median() if bool(strong.any()) else x.new_zeros(()))
    return torch.stack(found).double()
