"""Writes the tables and figures of README.md between their markers: `python docs/tables.py` (a test runs it with --check).

Every figure comes from the code, the configs or docs/demo.json (`make demo` leaves it in outputs/demo, with its picture).
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from urllib.parse import urlparse

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf

import dehaze_zoo
from dehaze_zoo.benchmark.cost import macs
from dehaze_zoo.data.sets import LAYOUTS, Split

ROOT = Path(__file__).resolve().parents[1]


def models() -> str:
    """Registered networks: parameters, multiply-adds at 256x256 and where they come from."""
    lines = ["| `model=` | parameters | MACs at 256×256 | from | licence of the authors' weights |", "|---|--:|--:|---|---|"]
    for name in dehaze_zoo.list_models():
        info = dehaze_zoo.model_info(name)
        paper = f"[{info.paper}]({info.url})" if info.url else info.paper
        lines.append(f"| {name} | {info.parameters:,} | {_gmacs(name)} | {paper} | {info.licence or '–'} |")
    return "\n".join(
        [*lines, "", "MACs: multiply-adds of convolutions and matrix products, counted by torch for one image, in units of 10⁹."]
    )


def _gmacs(name: str) -> str:
    counted = macs(dehaze_zoo.create_model(name), torch.device("cpu"))
    return f"{counted / 1e9:.2f} G" if counted else "–"


def losses() -> str:
    """The yaml files of configs/loss with the formula and source that open their classes' documentation."""
    lines = ["| `loss=` | of prediction p and target t; source |", "|---|---|"]
    for file in sorted((ROOT / "configs" / "loss").glob("*.yaml")):
        documentation = inspect.getdoc(get_class(OmegaConf.load(file)._target_)) or ""
        said = " ".join(documentation.partition("\n\n")[0].split()).replace("|", "\\|")
        lines.append(f"| {file.stem} | {said} |")
    return "\n".join(lines)


def data() -> str:
    """Published sets: splits, source, licence."""
    lines = ["| `data=` | what | train / test pairs | from | licence |", "|---|---|--:|---|---|"]
    lines.append("| synthetic | ray-cast scenes with exact depth, endless, seeded, made on the fly | ∞ | built in | MIT |")
    lines.append("| ridcp_haze | RIDCP's degradations (haze, darkness, noise, JPEG) over scenes or your pictures | ∞ | built in | MIT |")
    lines.append("| clear | your clear pictures alone, for trainings that reconstruct | yours | you | yours |")
    for name, layout in LAYOUTS.items():
        counts = " / ".join(_count(layout.splits.get(name)) for name in ("train", "test"))
        source = f"[{urlparse(layout.source).netloc}]({layout.source})" if layout.source else "you"
        lines.append(f"| {name} | {layout.title} | {counts} | {source} | {layout.licence or 'yours'} |")
    return "\n".join(lines)


def _count(split: Split | None) -> str:
    return "–" if split is None else f"{split.pairs:,}" if split.pairs else "yours"


def haze() -> str:
    """The haze parameters of data=synthetic with their comments."""
    text = (ROOT / "configs" / "data" / "synthetic.yaml").read_text(encoding="utf-8")
    block = re.search(r"^haze:.*\n((?:  .*\n)+)", text, re.MULTILINE)
    assert block is not None
    lines = ["| key | value | meaning |", "|---|---|---|"]
    for key, value in OmegaConf.create(text).haze.items():
        comment = re.search(rf"^ *{key}:.*?# *(.*)$", block[1], re.MULTILINE)
        lines.append(f"| `data.haze.{key}` | {value} | {comment[1] if comment else ''} |")
    return "\n".join(lines)


def demo() -> str:
    """The figures of the run that docs/demo.json and docs/demo.png come from."""
    run = json.loads((ROOT / "docs" / "demo.json").read_text(encoding="utf-8"))
    titles = {"identity": "hazy input", "dcp": "dark channel prior", "gunet_t": "gunet_t, trained by the demo"}
    first = run["figures"][0]
    lines = [f"| {first['images']} held-out synthetic pairs, protocol {first['protocol']} | PSNR, dB | SSIM |", "|---|--:|--:|"]
    lines += [f"| {titles[f['model']]} | {f['psnr']:.2f} | {f['ssim']:.4f} |" for f in run["figures"]]
    spent = f"in {run['seconds']} s on two CPU cores, {run['training_seconds']} of them training"
    return "\n".join([*lines, "", f"Measured by `make demo` {spent}."])


def rendered(text: str) -> str:
    """README's text with the parts between its markers made anew."""
    for part in (demo, models, losses, data, haze):
        found = re.search(rf"(<!-- {part.__name__}:begin[^>]*-->\n)(.*?)<!-- {part.__name__}:end -->", text, re.DOTALL)
        assert found is not None, f"README.md has lost its markers of {part.__name__}"
        text = f"{text[: found.end(1)]}\n{part()}\n\n{text[found.end(2) :]}"
    return text


def main() -> int:
    readme = ROOT / "README.md"
    before = readme.read_text(encoding="utf-8")
    after = rendered(before)
    if "--check" in sys.argv:
        return int(before != after)
    readme.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
