"""What scores of pictures say about methods, and what they do not: intervals, paired tests, ranks.

Pictures of one scene (SOTS indoor has ten hazes of each) are no independent witnesses: everything here counts scenes. Scores are
arrays (images,), ``scenes`` an array of the same length that names each image's scene.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RESAMPLES = 10_000
LEVEL = 0.05
"""Of the Holm-corrected test, and 1 - this of the intervals."""


@dataclass(frozen=True)
class Estimate:
    """A mean over images and its 95 % interval; no interval where there are fewer than two scenes."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """How far method ``a`` is above ``b`` on the images that both have."""

    a: str
    b: str
    images: int
    scenes: int
    difference: Estimate
    p: float
    """Two-sided, of the scenes' mean differences, by ``test``."""
    test: str
    """wilcoxon: the signed-rank test. t: the paired t-test, where so few scenes could not pass the other, corrected, whatever they show."""
    p_holm: float = 1.0
    """The same, corrected for all pairs that were compared."""

    @property
    def differ(self) -> bool:
        return self.p_holm < LEVEL


def estimate(scores: Floats, scenes: Sequence[str], seed: int = 0) -> Estimate:
    """The mean and its percentile bootstrap interval, whole scenes drawn with replacement."""
    sums, counts = _by_scene(scores, scenes)
    mean = float(np.mean(scores))
    if len(sums) < 2:
        return Estimate(mean, None, None)
    rng, at_once = np.random.default_rng(seed), max(1, 1_000_000 // len(sums))  # so that thousands of scenes need no gigabytes
    parts = (rng.integers(len(sums), size=(min(at_once, RESAMPLES - done), len(sums))) for done in range(0, RESAMPLES, at_once))
    means = np.concatenate([sums[drawn].sum(1) / counts[drawn].sum(1) for drawn in parts])
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    return Estimate(mean, float(low), float(high))


def compare(methods: Mapping[str, Mapping[str, float]], scene_of: Mapping[str, str]) -> list[Comparison]:
    """Every pair of methods, each ``{image: score}``, on the images that both have; p-values Holm-corrected over all pairs.

    Pairs without a common image are left out.
    """
    found: list[Comparison] = []
    pairs = [(a, b) for a, b in combinations(methods, 2) if methods[a].keys() & methods[b].keys()]
    for a, b in pairs:
        common = sorted(methods[a].keys() & methods[b].keys())
        apart = np.array([methods[a][image] - methods[b][image] for image in common])
        scenes = [scene_of[image] for image in common]
        sums, counts = _by_scene(apart, scenes)
        test = "wilcoxon" if 2.0 ** (1 - len(sums)) * len(pairs) < LEVEL else "t"
        found.append(Comparison(a, b, len(common), len(sums), estimate(apart, scenes), _p_value(sums / counts, test), test))
    corrected = holm([c.p for c in found])
    return [Comparison(**{**c.__dict__, "p_holm": p}) for c, p in zip(found, corrected, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): the chance of any false difference among all stays below the level."""
    order = np.argsort(p_values, kind="stable")
    corrected, highest = np.empty(len(p_values)), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = highest
    return [float(p) for p in corrected]


def ranks(means: Mapping[str, float], comparisons: Sequence[Comparison], higher_is_better: bool = True) -> dict[str, int]:
    """1 + how many methods are better for certain (their difference is significant): those that do not differ share a rank."""
    worse_than: dict[str, int] = dict.fromkeys(means, 0)
    for c in comparisons:
        if c.differ and c.difference.mean != 0:
            a_is_better = (c.difference.mean > 0) == higher_is_better
            worse_than[c.b if a_is_better else c.a] += 1
    return {name: 1 + count for name, count in worse_than.items()}


def _by_scene(scores: Floats, scenes: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum and count of the scores of each scene."""
    _, place = np.unique(np.asarray(scenes), return_inverse=True)
    return np.bincount(place, weights=scores).astype(np.float64), np.bincount(place).astype(np.float64)


def _p_value(differences: Floats, test: str) -> float:
    from scipy.stats import ttest_1samp, wilcoxon

    if test == "t":
        if len(differences) < 2 or np.abs(differences).max() <= 1e-9:
            return 1.0
        return float(ttest_1samp(differences, 0).pvalue) if np.ptp(differences) > 1e-9 else 0.0  # all scenes differ by the same
    apart = differences[np.abs(differences) > 1e-9]  # rounding is no difference
    return float(wilcoxon(apart).pvalue) if len(apart) else 1.0
