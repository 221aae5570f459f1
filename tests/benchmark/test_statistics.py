"""The statistics on made-up scores whose effect is known: intervals cover it, tests find it, and nothing is found where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from dehaze_zoo.benchmark import statistics
from dehaze_zoo.benchmark.cost import pareto
from dehaze_zoo.benchmark.statistics import compare, estimate, holm, ranks

SCENES, HAZES = 30, 5


def scores_of(
    rng: np.random.Generator, offset: float = 0.0, scene_effect: np.ndarray | None = None, noise: float = 0.3
) -> dict[str, float]:
    """SCENES x HAZES decibels around 25 + offset: scenes differ by 3 dB, images within one by ``noise``."""
    effect = rng.normal(0, 3, SCENES) if scene_effect is None else scene_effect
    values = 25 + offset + np.repeat(effect, HAZES) + rng.normal(0, noise, SCENES * HAZES)
    return {f"{i // HAZES}_{i % HAZES}": float(v) for i, v in enumerate(values)}


SCENE_OF = {f"{i // HAZES}_{i % HAZES}": str(i // HAZES) for i in range(SCENES * HAZES)}
FEW = set("01234")


def test_intervals_cover_the_true_mean_as_often_as_they_say_because_scenes_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    rng = np.random.default_rng(1)
    clustered = naive = 0
    for _ in range(200):
        scores = scores_of(rng)
        values = np.array(list(scores.values()))
        held = estimate(values, [SCENE_OF[image] for image in scores])
        alone = estimate(values, list(scores))  # as if every image were a scene
        assert held.low is not None
        assert held.high is not None
        assert alone.low is not None
        assert alone.high is not None
        clustered += held.low <= 25 <= held.high
        naive += alone.low <= 25 <= alone.high
    assert 0.90 <= clustered / 200 <= 0.98
    assert naive / 200 < 0.8  # what counting ten hazes of a scene as ten witnesses does


def test_the_interval_is_the_normal_one_where_that_holds() -> None:
    values = np.random.default_rng(2).normal(30, 2, 400)
    held = estimate(values, [str(i) for i in range(400)])
    assert held.low is not None
    half = norm.ppf(0.975) * values.std() / 20
    assert held.low == pytest.approx(values.mean() - half, abs=0.02)
    assert estimate(values, [str(i) for i in range(400)]) == held  # drawn from a fixed seed


def test_scenes_of_unequal_size_weigh_by_their_images() -> None:
    held = estimate(np.array([10.0, 10, 10, 20]), ["a", "a", "a", "b"])
    assert held.mean == 12.5
    assert (held.low, held.high) == (10, 20)  # all a, all b


def test_one_scene_has_no_interval() -> None:
    assert estimate(np.array([1.0, 2, 3]), ["a"] * 3).low is None


def test_a_small_known_difference_is_found_through_large_scene_differences() -> None:
    rng = np.random.default_rng(3)
    effect = rng.normal(0, 3, SCENES)
    methods = {"better": scores_of(rng, 0.3, effect), "worse": scores_of(rng, 0.0, effect)}
    (found,) = compare(methods, SCENE_OF)
    assert (found.images, found.scenes) == (SCENES * HAZES, SCENES)
    assert found.difference.low is not None
    assert found.difference.high is not None
    assert found.difference.low < 0.3 < found.difference.high
    assert found.difference.high - found.difference.low < 0.3
    assert found.differ
    assert ranks({"better": 25.3, "worse": 25.0}, [found]) == {"better": 1, "worse": 2}
    assert ranks({"better": 25.3, "worse": 25.0}, [found], higher_is_better=False) == {"better": 2, "worse": 1}


def test_identical_methods_tie() -> None:
    scores = scores_of(np.random.default_rng(4))
    found = compare({"a": scores, "b": dict(scores), "c": {image: value - 5 for image, value in scores.items()}}, SCENE_OF)
    assert found[0].p == found[0].p_holm == 1.0
    assert found[0].difference.mean == found[0].difference.low == found[0].difference.high == 0
    assert ranks({"a": 25, "b": 25, "c": 20}, found) == {"a": 1, "b": 1, "c": 3}


@pytest.mark.parametrize("few", [False, True])
def test_nothing_is_found_where_nothing_is(few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 2)  # the intervals are not the question here
    rng = np.random.default_rng(5)
    false = 0
    for _ in range(100):
        effect = rng.normal(0, 3, SCENES)
        methods = {name: scores_of(rng, 0.0, effect) for name in "abcd"}
        if few:  # five scenes: Wilcoxon's test could never find anything
            methods = {
                name: {image: value for image, value in scores.items() if SCENE_OF[image] in FEW} for name, scores in methods.items()
            }
        found = compare(methods, SCENE_OF)
        assert {c.test for c in found} == {"t" if few else "wilcoxon"}
        false += any(c.differ for c in found)
    assert false <= 12  # of 100, at a level of 5 % for all six pairs of a table together


def test_methods_far_apart_do_not_share_a_rank_for_want_of_scenes() -> None:
    rng = np.random.default_rng(6)
    scores = {image: value for image, value in scores_of(rng).items() if SCENE_OF[image] in FEW}
    methods = {name: {image: value - i + rng.normal(0, 0.3) for image, value in scores.items()} for i, name in enumerate("abcde")}
    placed = ranks({name: -i for i, name in enumerate(methods)}, compare(methods, SCENE_OF))
    assert placed == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}


def test_only_common_images_are_compared() -> None:
    (found,) = compare({"a": {"x": 1.0, "y": 2.0}, "b": {"y": 1.0, "z": 9.0}}, {"x": "x", "y": "y", "z": "z"})
    assert (found.images, found.difference.mean) == (1, 1.0)
    assert compare({"a": {"x": 1.0}, "b": {"y": 1.0}}, {"x": "x", "y": "y"}) == []


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_pareto_front_by_hand() -> None:
    points = {
        "cheap": (1.0, 10.0),
        "good": (5.0, 30.0),
        "dear": (6.0, 29.0),
        "twin": (5.0, 30.0),
        "middle": (3.0, 20.0),
        "poor": (3.0, 5.0),
    }
    assert pareto(points) == {"cheap", "good", "twin", "middle"}
