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
"""1 less the slope of the straight line from clear values to hazy ones, which is the mean transmission where haze is even."""

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

    With hazy = t clear + (1 - t) airlight and one t, least squares finds exactly 1 - t.
    """
    x, y = (picture.double().flatten(1) for picture in (clear, hazy))
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return 1 - (x * y).mean(1) / x.square().mean(1).clamp_min(1e-12)
