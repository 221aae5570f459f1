"""What a verb's work hands back to the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its exit code (0 all done, 1 something failed and the rest was done) and its figures by name."""

    code: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
