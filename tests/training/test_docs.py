"""The commands of docs/training.md are ones that our verbs take."""

from __future__ import annotations

import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from dehaze_zoo.cli import compose
from support import ROOT

TEXT = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
COMMANDS = [line.partition("  #")[0].strip() for line in TEXT.splitlines() if line.startswith("python -m dehaze_zoo.train")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes(command: str) -> None:
    words = [word for word in shlex.split(command)[3:] if word != "-m"]
    swept = [override for override in OverridesParser.create().parse_overrides(words) if override.is_sweep_override()]
    assert bool(swept) == (" -m " in command.replace("python -m", ""))
    OmegaConf.to_container(
        compose("train", [word for word in words if word not in {override.input_line for override in swept}]), resolve=True
    )


def test_every_key_of_the_table_exists() -> None:
    cfg = compose("train", [])
    for key in re.findall(r"`([a-z_.]+)`", TEXT.partition("## Speed")[2].partition("\n\nDefaults")[0]):
        assert key == "callbacks" or OmegaConf.select(cfg, key, default="absent") != "absent", key
