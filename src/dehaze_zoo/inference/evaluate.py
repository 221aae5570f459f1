"""Judging a network on pairs: figures per image and protocol, their means, and a few pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from dehaze_zoo.data.decoder import decoder_stamp
from dehaze_zoo.data.grid import error_map, write_grid
from dehaze_zoo.inference.reporting import ahead, failure, progress_bar, say_failures, write_csv, write_json
from dehaze_zoo.inference.restore import choose_device, load_network, restore
from dehaze_zoo.metrics.protocols import Protocol as Measure
from dehaze_zoo.metrics.protocols import choose_protocols
from dehaze_zoo.outcome import Outcome

if TYPE_CHECKING:
    from omegaconf import DictConfig


class Pair(TypedDict):
    """One pair of a data set."""

    hazy: Tensor
    """(3, H, W) float in [0, 1]."""
    clear: Tensor
    name: str


class Pairs(Protocol):
    """A data set of pairs at full size; reading one may raise ImageError."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Pair: ...


def evaluate(cfg: DictConfig, run_dir: Path) -> Outcome:
    """The verb: writes metrics.json, per_image.csv, report.json and images/ into ``run_dir``; code 1 where a pair failed.

    Raises UsageError for an unknown protocol or split, a data set that is not there, or a checkpoint that does not fit.
    """
    from dehaze_zoo.made import made

    measures = choose_protocols(cfg.protocol)
    pairs = made(cfg.data).pairs(cfg.split)
    design = dict(cfg.model.network)
    name = str(design.pop("name"))
    network = load_network(name, cfg.checkpoint, choose_device(cfg.trainer.accelerator), **design)
    rows, failed = judge(network, pairs, measures, f"evaluate {name}")
    write_json(run_dir / "report.json", {"done": len(pairs) - len(failed), "failed": failed})
    say_failures(failed)
    if not rows:
        return Outcome(1)
    about = {
        "model": name,
        "checkpoint": None if cfg.checkpoint is None else str(cfg.checkpoint),
        "data": str(cfg.data.set),
        "split": cfg.split,
        "decoder": decoder_stamp(),
    }
    summaries = [{**about, **summary} for summary in summarise(rows)]
    write_json(run_dir / "metrics.json", summaries if cfg.protocol == "all" else summaries[0])
    write_csv(run_dir / "per_image.csv", rows if cfg.protocol == "all" else [{k: v for k, v in r.items() if k != "protocol"} for r in rows])
    write_examples(run_dir / "images", network, name, pairs, cfg.examples)
    console = Console()
    console.print(table(summaries))
    console.print(f"figures, per image too, and pictures: {escape(str(run_dir))}", highlight=False, soft_wrap=True)
    return Outcome(int(bool(failed)), {"psnr": summaries[0]["psnr"], "ssim": summaries[0]["ssim"]})


def judge(
    network: nn.Module, pairs: Pairs, measures: Sequence[Measure], title: str = "evaluate"
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Figures of every pair, the next one being read meanwhile: rows {"image", "protocol", "psnr", "ssim"}, and failures.

    Runs where the network lives. A pair that cannot be read or restored is a failure {"file", "why"} and the rest goes on.
    """
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    with progress_bar() as bar:
        task = bar.add_task(title, total=len(pairs))
        for index, read in ahead(pairs.__getitem__, range(len(pairs))):
            name = f"pair {index}"
            try:
                pair = read.result()
                name = pair["name"]
                restored, clear = _restored(network, pair)
                figures = [{"protocol": m.name, **{key: value.item() for key, value in m(restored, clear).items()}} for m in measures]
                rows += [{"image": name, **row} for row in figures]
            except Exception as error:  # whatever one pair does to a decoder or a network, the others go on
                failed.append(failure(name, error))
            bar.advance(task)
    return rows, failed


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The means over the images, a summary a protocol: {"protocol", "images", "psnr", "ssim"}."""
    summaries = []
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        own = [row for row in rows if row["protocol"] == protocol]
        means = {key: float(np.mean([row[key] for row in own])) for key in own[0] if key not in ("image", "protocol")}
        summaries.append({"protocol": protocol, "images": len(own), **means})
    return summaries


def table(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """Summaries as a table for the terminal, a line each."""
    sheet = Table("model", "data", "protocol")
    for title in ("images", "PSNR, dB", "SSIM"):
        sheet.add_column(title, justify="right")
    for s in summaries:
        sheet.add_row(s["model"], f"{s['data']} ({s['split']})", s["protocol"], str(s["images"]), f"{s['psnr']:.3f}", f"{s['ssim']:.4f}")
    return sheet


def picture_row(networks: Mapping[str, nn.Module], pair: Pair) -> list[tuple[str, npt.NDArray[Any]]]:
    """A row for a grid: hazy, what each network makes of it, clear, and the last network's error map."""
    row: list[tuple[str, npt.NDArray[Any]]] = [("hazy", _as_array(pair["hazy"]))]
    for name, network in networks.items():
        row.append((name, _as_array(_restored(network, pair)[0][0])))
    name, restored = row[-1]
    clear = _as_array(pair["clear"])
    return [*row, ("clear", clear), (f"error of {name}, white = 0.25", error_map(restored, clear))]


def write_examples(folder: Path, network: nn.Module, name: str, pairs: Pairs, count: int) -> None:
    """Picture rows of ``count`` pairs spread evenly over the set, a file each; pairs that fail are left out."""
    for index in sorted({round(i) for i in np.linspace(0, len(pairs) - 1, min(count, len(pairs)))}):
        try:
            pair = pairs[index]
            row = picture_row({name: network}, pair)
        except Exception:  # judge() has reported it
            continue
        write_grid(folder / f"{'_'.join(Path(pair['name']).with_suffix('').parts)}.png", [row])


def _restored(network: nn.Module, pair: Pair) -> tuple[Tensor, Tensor]:
    """The restored and the clear picture, (1, 3, H, W), where the network lives."""
    device = next(network.parameters(), torch.zeros(0)).device
    return restore(network, pair["hazy"][None].to(device)), pair["clear"][None].to(device)


def _as_array(picture: Tensor) -> npt.NDArray[np.float32]:
    return np.asarray(picture.cpu().permute(1, 2, 0).contiguous().numpy())
