"""What the field has published, read from published_results.csv beside this file (the gUNet paper's table)."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROTOCOL = "gunet"
"""The protocol of that table; no other row is set beside it."""

SETS = {"RESIDE-IN": "reside_indoor", "RESIDE-OUT": "reside_outdoor", "Haze4K": "haze4k", "RS-Haze": "rs_haze"}
FILE = Path(__file__).with_name("published_results.csv")


@dataclass(frozen=True)
class Published:
    method: str
    psnr: float
    ssim: float


def published(model: str, data: str) -> Published | None:
    """The figures of that method on the whole test set, or None; case and punctuation of its name do not matter."""
    return _table().get((_plain(model), data))


@cache
def _table() -> dict[tuple[str, str], Published]:
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    (header, *rows) = csv.reader(lines)
    found = {}
    for column, title in enumerate(header):
        data = SETS.get(title.removesuffix(" psnr"))
        for row in rows:
            if data is not None and row[column]:
                found[_plain(row[0]), data] = Published(row[0], float(row[column]), float(row[column + 1]))
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
