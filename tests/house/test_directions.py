"""One direction and no circles: which room of the house may import which (design.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from support import ROOT

PACKAGE = ROOT / "src" / "dehaze_zoo"
STANDS_ON = {
    "errors": set(),
    "outcome": set(),
    "files": set(),
    "made": {"errors"},
    "lock": {"errors", "files"},
    "networks": {"errors"},
    "metrics": {"errors"},
    "data": {"errors", "files", "lock"},
    "losses": {"errors", "metrics"},
    "checkpoints": {"errors", "files", "networks"},
    "training": {"errors", "outcome", "files", "made", "lock", "networks", "metrics", "data", "losses", "checkpoints"},
    "inference": {"errors", "outcome", "files", "made", "networks", "checkpoints", "data", "metrics"},
    "benchmark": {"errors", "outcome", "files", "made", "inference", "metrics", "data", "networks", "checkpoints"},
}
FRAMEWORKS = {"pytorch_lightning", "lightning", "hydra", "omegaconf", "wandb"}
GROUND = ("networks", "metrics", "data", "losses", "checkpoints", "errors", "outcome", "files")
KNOWS_LIGHTNING = "data/datamodule.py"


def imports(file: Path) -> set[str]:
    """Full names of everything a file imports, at its top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_each_file_imports_only_what_its_room_stands_on(file: Path) -> None:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    room = parts[0]
    if room not in STANDS_ON or parts[-1] == "__main__":
        assert len(parts) == 1 or parts[0] == "configs" or parts[-1] == "__main__", f"{room} is a room without a place in STANDS_ON"
        return  # the entry points stand on all
    rooms = {name.split(".")[1] for name in imports(file) if name.startswith("dehaze_zoo.")}
    assert rooms <= STANDS_ON[room] | {room}
    if room in GROUND and file.relative_to(PACKAGE).as_posix() != KNOWS_LIGHTNING:
        assert not {name.split(".")[0] for name in imports(file)} & FRAMEWORKS


def test_the_rule_would_notice(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    import pytorch_lightning\n    from dehaze_zoo.training import module\n")
    assert {"pytorch_lightning", "dehaze_zoo.training"} <= imports(bad)
