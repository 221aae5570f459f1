"""leaderboard.html: one file that holds its data, pictures and script, and loads nothing from anywhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dehaze_zoo.benchmark.board import BLIND, Board, Entry, on_fronts
from dehaze_zoo.benchmark.pictures import picture_file
from dehaze_zoo.benchmark.tables import groups, shown_metrics
from dehaze_zoo.data.images import write_aside
from dehaze_zoo.metrics.protocols import PROTOCOLS

TEMPLATE = Path(__file__).with_name("page.html")


def write_page(path: Path, board: Board, entries: Sequence[Entry], store: Path) -> None:
    """The page, with every picture that the store keeps of these entries; written aside and renamed."""
    metrics = shown_metrics(board.rows)
    rows = []
    for _, _, own in groups(board):
        fronts = {m.name: on_fronts(own, m.name, m.higher_is_better) for m in metrics}
        rows += [{**row, "fronts": {name: found[row["model"]].split() for name, found in fronts.items()}} for row in own]
    content = {
        "rows": rows,
        "comparisons": board.comparisons,
        "images": board.per_image,
        "metrics": [
            {"name": m.name, "title": m.title, "unit": m.unit, "digits": m.digits, "up": m.higher_is_better, "says": m.description}
            for m in metrics
        ],
        "protocols": {name: "no clear picture needed" if name == BLIND else PROTOCOLS[name].description for name in _protocols(board)},
        "pictures": _pictures(entries, store),
    }
    data = json.dumps(content, ensure_ascii=False, allow_nan=False).replace("</", "<\\/")  # nothing in it may end the script
    write_aside(path, TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/null", data).encode())


def kept_pictures(entry: Entry, store: Path) -> Iterator[tuple[str, dict[str, Path]]]:
    """Each image that is shown of the entry, and its files in the store: hazy, restored and, in pairs, clear and error."""
    for image in (image for image in entry.judged.images if image in entry.shown):
        files = {kind: picture_file(store, entry.judged.manifest, image, kind) for kind in ("hazy", "clear")}
        files |= {kind: picture_file(store, entry.job_keys[0], image, kind) for kind in ("restored", "error")}
        if files["restored"].exists():
            yield image, {kind: file for kind, file in files.items() if file.exists()}


def _pictures(entries: Sequence[Entry], store: Path) -> dict[str, dict[str, dict[str, str]]]:
    """{data: {image: {hazy, clear, "restored MODEL", "error MODEL"}}} as data URIs."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in entries:
        for image, files in kept_pictures(entry, store):
            of_image = found.setdefault(entry.judged.label, {}).setdefault(image, {})
            for kind, file in files.items():
                key = kind if kind in ("hazy", "clear") else f"{kind} {entry.label}"
                of_image.setdefault(key, "data:image/jpeg;base64," + base64.b64encode(file.read_bytes()).decode())
    return found


def _protocols(board: Board) -> list[str]:
    return list(dict.fromkeys(row["protocol"] for row in board.rows))
