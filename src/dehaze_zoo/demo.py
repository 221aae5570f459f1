"""python -m dehaze_zoo.demo: train gunet_t on synthetic haze for three minutes (two cores), compare it with DCP and the hazy input."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dehaze_zoo.errors import UsageError

OVER_HAZY, OVER_DCP = 6.0, 2.0
"""dB that the trained network must be ahead on held-out scenes."""

DATA = ["data=synthetic", "data.picture_size=[120,160]"]
"""What all are judged on: pictures as small as the training's (configs/experiment/demo.yaml)."""

SCENES = 5
"""Rows of the picture."""


def demo(folder: Path) -> bool:
    """Trains, evaluates and draws into ``folder`` through the verbs; True where the trained network is ahead by what it should be.

    Leaves train/, evaluate/<model>/, demo.json (seconds, figures of each model) and demo.png. Raises UsageError as the verbs do.
    """
    from dehaze_zoo import evaluate
    from dehaze_zoo.cli import run_verb

    began = time.perf_counter()
    # A process of its own, as it starts another itself: one training rank a core (experiment/demo.yaml).
    if subprocess.run([sys.executable, "-m", "dehaze_zoo.train", "experiment=demo", f"run_dir={folder / 'train'}"]).returncode:
        raise UsageError("the training failed: see above.")
    training = time.perf_counter() - began
    trained = folder / "train" / "checkpoints" / "best.ckpt"
    figures = []
    for model, checkpoint in (("identity", []), ("dcp", []), ("gunet_t", [f"checkpoint={trained}"])):
        run_dir = folder / "evaluate" / model
        if run_verb("evaluate", evaluate.job, [f"model={model}", *DATA, "examples=0", f"run_dir={run_dir}", *checkpoint]):
            raise UsageError(f"evaluating {model} failed: see {run_dir / 'report.json'}")
        figures.append(json.loads((run_dir / "metrics.json").read_text()))
    draw(folder / "demo.png", trained)
    seconds = time.perf_counter() - began
    spent = {"training_seconds": round(training), "seconds": round(seconds)}
    (folder / "demo.json").write_text(json.dumps({**spent, "figures": figures}, indent=1))
    return _show(folder, figures, spent)


def draw(file: Path, trained: Path) -> None:
    """Held-out scenes, one a row: hazy, DCP, the trained gunet_t, clear, and where gunet_t is off."""
    from dehaze_zoo.cli import compose
    from dehaze_zoo.data.grid import write_grid
    from dehaze_zoo.inference.evaluate import picture_row
    from dehaze_zoo.inference.restore import load_network
    from dehaze_zoo.made import made

    pairs = made(compose("evaluate", DATA).data).pairs("test")
    networks = {"dcp": load_network("dcp"), "gunet_t": load_network("gunet_t", trained)}
    write_grid(file, [picture_row(networks, pairs[i]) for i in range(min(SCENES, len(pairs)))])


def _show(folder: Path, figures: list[dict[str, Any]], spent: dict[str, int]) -> bool:
    from rich.console import Console
    from rich.table import Table

    psnr = {entry["model"]: entry["psnr"] for entry in figures}
    about = figures[0]
    table = Table(title=f"{about['images']} held-out synthetic pairs, protocol {about['protocol']}")
    for column, side in (("", "left"), ("PSNR, dB", "right"), ("SSIM", "right"), ("over hazy, dB", "right")):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    titles = {"identity": "hazy input", "dcp": "dark channel prior", "gunet_t": "gunet_t, trained here"}
    for entry in figures:
        ahead = entry["psnr"] - psnr["identity"]
        table.add_row(titles[entry["model"]], f"{entry['psnr']:.2f}", f"{entry['ssim']:.4f}", f"{ahead:+.2f}")
    over_hazy, over_dcp = psnr["gunet_t"] - psnr["identity"], psnr["gunet_t"] - psnr["dcp"]
    good: bool = over_hazy >= OVER_HAZY and over_dcp >= OVER_DCP
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"pictures   {folder / 'demo.png'}\nfigures    {folder / 'evaluate'}\nweights    {folder / 'train' / 'checkpoints' / 'best.ckpt'}\n"
        f"all of it  {folder}, in {spent['seconds']} s, {spent['training_seconds']} of them training",
        markup=False,
    )
    if not good:
        console.print(
            f"[red]The trained network is {over_hazy:.2f} dB over the hazy input and {over_dcp:.2f} dB over DCP; "
            f"it should be {OVER_HAZY:g} and {OVER_DCP:g} or more.[/]"
        )
    return good


def main() -> int:
    folder = Path("outputs", "demo", time.strftime("%Y-%m-%d_%H-%M-%S")).absolute()
    try:
        demo(folder)  # a network behind its mark is said below the table; the demo itself has done its work
        return 0
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
