"""Files that bear their name only when they are whole; and paths as words of a command line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A passing name beside ``path`` to write under: renamed to it at the end, removed where that is not reached.

    A failure of any kind goes on to the caller and leaves what ``path`` was before. The folder must exist.
    """
    aside = passing_name(path)
    try:
        yield aside
        os.replace(aside, path)
    finally:
        with suppress(OSError):  # renamed, never begun, or not ours to remove
            aside.unlink()


def passing_name(path: Path) -> Path:
    """Hidden, this process's own, and no longer than file systems take."""
    return path.with_name(f".{path.name[:100]}.{os.getpid()}.part")


def quoted(value: str) -> str:
    """A value that Hydra takes as it is, whatever characters it holds."""
    # Hydra's quoted strings: a quote is escaped, and so are backslashes before a quote or the end; OmegaConf's: "${" is an interpolation.
    value = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", value)
    value = re.sub(r"(\\*)'", lambda m: m[1] * 2 + r"\'", value)
    return "'" + re.sub(r"(\\+)$", lambda m: m[1] * 2, value) + "'"
