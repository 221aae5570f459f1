"""From the store's scores to what reports show: rows of the leaderboard, comparisons, per-image figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dehaze_zoo.benchmark.cost import pareto
from dehaze_zoo.benchmark.published import PROTOCOL, published
from dehaze_zoo.benchmark.scoring import DENSITY, Judge
from dehaze_zoo.benchmark.statistics import compare, estimate, ranks
from dehaze_zoo.benchmark.store import Score
from dehaze_zoo.benchmark.subjects import JudgedSet
from dehaze_zoo.data.decoder import decoder_stamp, stamp_text, stamps_apart, stamps_differ
from dehaze_zoo.data.layouts import LAYOUTS

BLIND = "no_reference"
"""In the column protocol: measures that need no clear picture, tables of their own."""

DENSITIES = ("light", "medium", "dense")
"""Thirds of the set's pictures by how much haze they hold (scoring.haze_density)."""

FIRST_COLUMNS = (
    "model", "data", "protocol", "images", "psnr", "psnr_low", "psnr_high", "ssim", "rank", "parameters", "macs", "latency_ms",
)  # fmt: skip

COSTS = ("parameters", "macs", "latency_ms")


@dataclass
class Entry:
    """A method on a set, and its scores."""

    label: str
    judged: JudgedSet
    scores: dict[int, Sequence[Score]]
    """By the training's seed, or its number where that is not known."""
    job_keys: list[str]
    shown: set[str] = field(default_factory=set)
    """Images whose pictures the reports show."""
    cost: Mapping[str, Any] | None = None
    """None for finished pictures, and where cost is not measured."""
    pictures_only: bool = False
    decoder: Mapping[str, Any] = field(default_factory=decoder_stamp)
    """Stamp of the decoder that read the pictures."""
    beside: str | None = None
    """The label of the same method read by this machine's decoder, for an entry that another one read: it is shown, marked, not ranked."""


@dataclass
class Board:
    rows: list[dict[str, Any]] = field(default_factory=list)
    """In the order of data, protocol, rank and figure; the keys are those of leaderboard.csv."""
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    per_image: list[dict[str, Any]] = field(default_factory=list)


def make_board(entries: Sequence[Entry], judge: Judge) -> Board:
    """Everything of this call. An entry without a single score has no row."""
    board = Board()
    for judged in {entry.judged.label: entry.judged for entry in entries}.values():
        own = [entry for entry in entries if entry.judged.label == judged.label]
        density = _density(own)
        names = [p.name for p in judge.protocols] if judged.paired else []
        for protocol in [*names, BLIND]:
            metrics = [metric for metric in judge.metrics if metric.needs_clear != (protocol == BLIND)]
            if metrics:
                _add_table(board, own, judged, protocol, [metric.name for metric in metrics], metrics[0].higher_is_better, density)
    return board


def _add_table(
    board: Board, entries: Sequence[Entry], judged: JudgedSet, protocol: str, metrics: Sequence[str], up: bool, density: Mapping[str, float]
) -> None:
    """The rows of one set under one protocol; the first metric ranks them."""
    kept = "" if protocol == BLIND else protocol
    by_seed = {e.label: {seed: _by_metric(scores, kept, judged) for seed, scores in e.scores.items()} for e in entries}
    figures = {label: {metric: _mean_over_seeds(seeds, metric) for metric in metrics} for label, seeds in by_seed.items()}
    firsts = {label: by_metric[metrics[0]] for label, by_metric in figures.items() if by_metric[metrics[0]]}
    ranked = {entry.label: firsts[entry.label] for entry in entries if entry.beside is None and entry.label in firsts}
    comparisons = compare(ranked, judged.scenes)
    means = {label: float(np.mean(list(scores.values()))) for label, scores in ranked.items()}
    placed = ranks(means, comparisons, up)
    thirds = _thirds(density) if protocol != BLIND else {}
    rows = []
    for entry in entries:
        if entry.label not in firsts:
            continue
        row: dict[str, Any] = dict.fromkeys(FIRST_COLUMNS)
        row |= {"model": entry.label, "data": judged.label, "protocol": protocol, "images": len(firsts[entry.label])}
        row["of_images"], row["scenes"] = len(judged.images), len({judged.scenes[image] for image in firsts[entry.label]})
        row |= {"rank": placed.get(entry.label), "kind": "pictures only" if entry.pictures_only else "network"}
        for metric in metrics:
            scores = figures[entry.label][metric]
            if scores:
                found = estimate(np.array(list(scores.values())), [judged.scenes[image] for image in scores])
                row |= {metric: found.mean, f"{metric}_low": found.low, f"{metric}_high": found.high}
        row |= _spread(firsts[entry.label], by_seed[entry.label], metrics[0], thirds, up)
        row |= _cost(entry.cost)
        if protocol == PROTOCOL and (theirs := published(entry.label, judged.label)) is not None:
            row |= {"published_psnr": theirs.psnr, "published_ssim": theirs.ssim, "gap_psnr": row["psnr"] - theirs.psnr}
            row["published_images"] = LAYOUTS[judged.label].splits["test"].pairs
        row["decoder"] = stamp_text(entry.decoder)
        if stamps_differ(entry.decoder, decoder_stamp()):
            row["decoder_differs"] = stamps_apart(entry.decoder, decoder_stamp())
        rows.append(row)
    fronts = on_fronts(rows, metrics[0], up)
    for row in rows:
        row["pareto"] = fronts[row["model"]]
    rows.sort(key=lambda row: (row["rank"] is None, row["rank"], -row[metrics[0]] if up else row[metrics[0]]))
    board.rows += rows
    apart = {row["model"]: row["decoder_differs"] for row in rows if row.get("decoder_differs")}
    for entry in entries:  # what another decoder read is compared with itself alone: what stands in a store changes no rank
        if entry.beside in firsts and entry.label in firsts:
            comparisons += compare({label: firsts[label] for label in (entry.beside, entry.label)}, judged.scenes)
    board.comparisons += [
        {
            "data": judged.label, "protocol": protocol, "metric": metrics[0], "a": c.a, "b": c.b, "images": c.images, "scenes": c.scenes,
            "difference": c.difference.mean, "low": c.difference.low, "high": c.difference.high, "p": c.p, "p_holm": c.p_holm,
            "differ": c.differ, "test": c.test, "decoders_differ": apart.get(c.a) or apart.get(c.b) or "",
        }
        for c in comparisons
    ]  # fmt: skip
    for entry in entries:
        for seed, by_image in by_seed[entry.label].items():
            for image, scores in by_image.items():
                about: dict[str, Any] = {"model": entry.label, "data": judged.label, "protocol": protocol, "seed": seed, "image": image}
                about |= {"scene": judged.scenes[image], "density": density.get(image), "decoder": entry.decoder.get("probe")}
                board.per_image.append({**about, **{metric: scores[metric] for metric in metrics if metric in scores}})


def _by_metric(scores: Sequence[Score], protocol: str, judged: JudgedSet) -> dict[str, dict[str, float]]:
    """{image: {metric: value}} of the images that are asked for now; the store may hold more."""
    found: dict[str, dict[str, float]] = {}
    for score in scores:
        if score.protocol == protocol and score.metric != DENSITY and score.image in judged.images:
            found.setdefault(score.image, {})[score.metric] = score.value
    return found


def _mean_over_seeds(seeds: Mapping[int, Mapping[str, Mapping[str, float]]], metric: str) -> dict[str, float]:
    """Each image's score, the mean over the trainings; images that every one of them has that has any."""
    held = _with_scores(seeds, metric)
    common = sorted(set.intersection(*(set(scores) for scores in held))) if held else []
    return {image: float(np.mean([scores[image] for scores in held])) for image in common}


def _with_scores(seeds: Mapping[int, Mapping[str, Mapping[str, float]]], metric: str) -> list[dict[str, float]]:
    """{image: score} of each training; one that failed everywhere is left out."""
    held = [{image: scores[metric] for image, scores in by_image.items() if metric in scores} for by_image in seeds.values()]
    return [scores for scores in held if scores]


def _density(entries: Sequence[Entry]) -> dict[str, float]:
    """Of each image; a property of the set, so any method's scores tell."""
    return {
        s.image: s.value
        for e in entries
        if e.beside is None
        for scores in e.scores.values()
        for s in scores
        if s.metric == DENSITY and s.image in e.judged.images
    }


def _thirds(density: Mapping[str, float]) -> dict[str, set[str]]:
    ordered = sorted(density, key=lambda image: (density[image], image))
    parts = np.array_split(np.arange(len(ordered)), len(DENSITIES))
    return {name: {ordered[i] for i in part} for name, part in zip(DENSITIES, parts, strict=True)}


def _spread(
    scores: Mapping[str, float],
    seeds: Mapping[int, Mapping[str, Mapping[str, float]]],
    metric: str,
    thirds: Mapping[str, set[str]],
    up: bool,
) -> dict[str, Any]:
    """What the mean hides: the worst image, the worst twentieth, thirds by density, and how far trainings lie apart."""
    worst = (min if up else max)(scores, key=lambda image: scores[image])
    values = np.array(list(scores.values()))
    found: dict[str, Any] = {
        f"{metric}_worst": scores[worst],
        "worst_image": worst,
        f"{metric}_worst_5_percent": float(np.quantile(values, 0.05 if up else 0.95)),
    }
    for name, images in thirds.items():
        part = [scores[image] for image in images if image in scores]
        found[f"{metric}_{name}"] = float(np.mean(part)) if part else None
    if len(seeds) > 1:
        means = [np.mean([own[image] for image in scores]) for own in _with_scores(seeds, metric)]
        found |= {"seeds": len(means), "of_seeds": len(seeds)}
        found[f"{metric}_sd_of_seeds"] = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return found


def _cost(cost: Mapping[str, Any] | None) -> dict[str, Any]:
    """Columns of cost; latency and memory at the first size."""
    if cost is None:
        return {}
    found: dict[str, Any] = {"parameters": cost["parameters"], "macs": cost["macs"], "device": cost["device"]}
    for number, (side, size) in enumerate(cost["sizes"].items()):
        if number == 0:
            found |= {"latency_side": int(side), "latency_ms": size["latency_ms"]}
            found |= {"latency_q1_ms": size["latency_q1_ms"], "latency_q3_ms": size["latency_q3_ms"], "peak_mib": size["peak_mib"]}
        found |= {f"megapixels_per_s_{side}": size["megapixels_per_s"], f"peak_mib_{side}": size["peak_mib"]}
    return found


def on_fronts(rows: Sequence[Mapping[str, Any]], metric: str, up: bool) -> dict[str, str]:
    """{model: the costs whose Pareto front it is on beside this metric, by spaces}; rows of one table."""
    known = [(row, row[metric] if up else -row[metric]) for row in rows if row.get(metric) is not None]
    fronts = {cost: pareto({row["model"]: (float(row[cost]), good) for row, good in known if row.get(cost) is not None}) for cost in COSTS}
    return {row["model"]: " ".join(cost for cost in COSTS if row["model"] in fronts[cost]) for row in rows}
