"""docs/parity.md: every row names a test, and pytest finds each of them."""

from __future__ import annotations

import re
import subprocess
import sys

from support import ROOT


def test_every_difference_is_held_by_a_test_that_exists() -> None:
    table = [line for line in (ROOT / "docs" / "parity.md").read_text().splitlines() if line.startswith("| ")][1:]
    tests = [re.findall(r"`(tests/[\w/]+\.py::\w+)`", row.split("|")[-2]) for row in table]
    assert table
    assert all(tests), [row for row, named in zip(table, tests, strict=True) if not named]
    ids = sorted({test for named in tests for test in named})
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *ids], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
