"""What tests of several rooms share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def shared_dir() -> Path:
    """The folder shared/ beside the checkout; skips the test where it is absent."""
    shared = ROOT.parent / "shared"
    if not (shared / "parity").is_dir():
        pytest.skip("needs ../shared (real weights and pictures that the repository does not hold)")
    return shared
