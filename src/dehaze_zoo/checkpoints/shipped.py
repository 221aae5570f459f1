"""The weights that come with the package. Imports nothing heavy: verbs ask here before they start."""

from __future__ import annotations

from pathlib import Path

import dehaze_zoo

FOLDER = Path(dehaze_zoo.__file__).parent / "weights"


def shipped_weights(name: str) -> Path | None:
    """The file of the model's shipped weights, or None where there are none."""
    path = FOLDER / f"{name}.safetensors"
    return path if path.is_file() else None


def models_with_shipped_weights() -> list[str]:
    """Names of the models that have shipped weights, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))
