"""The benchmark in Weights & Biases: leaderboard, comparisons and pictures as Tables, plots, files and weights as artifacts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wandb
from PIL import Image

from dehaze_zoo.benchmark.board import COSTS, Board, Entry
from dehaze_zoo.benchmark.page import kept_pictures
from dehaze_zoo.benchmark.subjects import Method
from dehaze_zoo.benchmark.tables import columns
from dehaze_zoo.checkpoints.shipped import shipped_weights

if TYPE_CHECKING:
    from omegaconf import DictConfig

PICTURES = ("hazy", "restored", "clear", "error")


def log_to_wandb(
    cfg: DictConfig, run_dir: Path, board: Board, entries: Sequence[Entry], methods: Sequence[Method], store: Path
) -> Path | None:
    """One run with everything, in ``cfg.logger.wandb``'s project and group; offline when not logged in, and then it says how to sync.

    Returns the offline run's folder, None where it went to the server.
    """
    from omegaconf import OmegaConf

    about = cfg.logger.wandb
    mode = os.environ.get("WANDB_MODE")
    offline = mode == "offline" or (mode is None and not wandb.login(prompt=False, verify=False))
    settings: dict[str, Any] = {"mode": "offline"} if offline else {}
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    run = wandb.init(
        project=about.project, name=about.name, group=about.group, job_type="benchmark", dir=str(run_dir), config=config, **settings
    )
    folder = Path(run.dir).parent
    try:
        run.log(_tables(board, entries, store))
        run.summary.update({f"{r['model']}/{r['data']}/{r['protocol']}/psnr": r["psnr"] for r in board.rows if r.get("psnr") is not None})
        results = wandb.Artifact(f"benchmark-{run.id}", "results")
        for file in [*sorted(run_dir.glob("leaderboard.*")), run_dir / "per_image.parquet", run_dir / "comparisons.csv"]:
            results.add_file(str(file))
        run.log_artifact(results)
        for method in methods:
            shipped = None if method.folder is not None else shipped_weights(method.model)
            files = [found for member in method.members if (found := member.checkpoint or shipped) is not None]
            if files:
                weights = wandb.Artifact(f"weights-{_named(method.label)}", "model", metadata={"model": method.model})
                for number, file in enumerate(files):
                    weights.add_file(str(file), name=f"{number}_{file.name}" if len(files) > 1 else file.name)
                run.log_artifact(weights)
    finally:
        run.finish()
    if not offline:
        return None
    print(f"W&B ran offline; after `wandb login`, upload this run by: wandb sync {folder}")
    return folder


def _tables(board: Board, entries: Sequence[Entry], store: Path) -> dict[str, Any]:
    """What run.log takes: the three tables, and a plot of quality against each cost that was measured."""
    leaderboard = _table(board.rows, columns(board.rows))
    logged: dict[str, Any] = {"leaderboard": leaderboard}
    if board.comparisons:
        logged["comparisons"] = _table(board.comparisons, list(board.comparisons[0]))
    names = [name for name in columns(board.per_image) if any(row.get(name) is not None for row in board.per_image)]
    kept = {(entry.judged.label, image, entry.label): files for entry in entries for image, files in kept_pictures(entry, store)}
    per_image = wandb.Table(columns=[*names, *PICTURES], allow_mixed_types=True)
    for row in board.per_image:
        files = kept.pop((row["data"], row["image"], row["model"]), {})  # once, under the first protocol
        shown = [wandb.Image(Image.open(files[kind])) if kind in files else None for kind in PICTURES]
        per_image.add_data(*(row.get(name) for name in names), *shown)
    logged["per_image"] = per_image
    for cost in COSTS:
        rows = [row for row in board.rows if row.get(cost) is not None and row.get("psnr") is not None]
        if rows:
            points = _table(rows, ["model", cost, "psnr"])
            logged[f"psnr_against_{cost}"] = wandb.plot.scatter(points, cost, "psnr", title=f"PSNR against {cost}")
    return logged


def _table(rows: Sequence[dict[str, Any]], names: list[str]) -> wandb.Table:
    return wandb.Table(columns=[*names], data=[[row.get(name) for name in names] for row in rows], allow_mixed_types=True)


def _named(label: str) -> str:
    """An artifact's name takes letters, digits, dashes, underscores and dots."""
    return "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in label)
