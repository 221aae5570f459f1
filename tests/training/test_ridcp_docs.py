"""The commands of docs/ridcp.md are ones that our verbs take, and its links between them fit."""

from __future__ import annotations

import shlex

import pytest
from omegaconf import OmegaConf

from dehaze_zoo.cli import compose
from support import ROOT

TEXT = (ROOT / "docs" / "ridcp.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in TEXT.splitlines() if line.startswith("    python -m dehaze_zoo.")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes(command: str) -> None:
    words = shlex.split(command)[2:]
    OmegaConf.to_container(compose(words[0].removeprefix("dehaze_zoo."), words[1:]), resolve=True)


def test_the_page_names_every_step() -> None:
    verbs = [shlex.split(command)[2] for command in COMMANDS]
    assert {"dehaze_zoo.train", "dehaze_zoo.ridcp_matching", "dehaze_zoo.predict"} <= set(verbs)
