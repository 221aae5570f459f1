"""Every yaml of the config tree composes, names classes that exist with arguments that they take, and can be instantiated."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from torch import nn

from dehaze_zoo.cli import compose, config_root
from dehaze_zoo.errors import UsageError
from dehaze_zoo.training.build import build_module, build_trainer
from dehaze_zoo.training.placement import place

ROOT = config_root()
VERBS = sorted(path.stem for path in ROOT.glob("*.yaml") if path.stem != "common")
OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in ROOT.glob("*/*.yaml"))
LIGHT = ("schedule", "norm", "loss", "callbacks", "logger", "data", "trainer")


def composed(option: str) -> Any:
    """The whole config of the first verb that has the option's group."""
    group = option.partition("=")[0]
    for verb in sorted(VERBS, key=lambda verb: verb != "train"):
        if f"- {group}:" in (ROOT / f"{verb}.yaml").read_text():
            return compose(verb, [option])
    raise AssertionError(f"no verb has the group {group}: nobody can choose {option}")


def targets(node: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a resolved config that names a class or function, and its place."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield where, node
        for key, value in node.items():
            yield from targets(value, f"{where}.{key}")


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_defaults_compose_and_resolve(verb: str) -> None:
    OmegaConf.to_container(compose(verb, []), resolve=True)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_names_what_exists_and_takes_these_arguments(option: str) -> None:
    plain = OmegaConf.to_container(composed(option), resolve=True)
    for where, node in targets(plain):
        made = get_object(node["_target_"])
        given = {key for key in node if not key.startswith("_")}
        given -= {"network", "recipe"} if where == ".model" else {"weight"} if where.startswith(".loss.") else set()
        accepted = inspect.signature(made).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
            assert given <= set(accepted), f"{where}: {made} has no {given - set(accepted)}"


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.partition("=")[0] in LIGHT])
def test_an_option_can_be_instantiated(option: str, tmp_path: Path) -> None:
    group, _, name = option.partition("=")
    cfg = composed(option)
    if group in ("schedule", "norm", "data"):
        instantiate(cfg[group])
    elif group == "loss" and name != "perceptual":  # which needs weights
        instantiate({key: value for key, value in OmegaConf.to_container(cfg.loss[name], resolve=True).items() if key != "weight"})  # type: ignore[union-attr]
    elif group == "callbacks":
        assert all(instantiate(node) for node in cfg.callbacks.values())
    elif group == "logger":
        assert all(instantiate(node, save_dir=str(tmp_path)) for node in cfg.logger.values())
    elif group == "trainer":
        try:
            placement = place(cfg.trainer)
        except UsageError as error:
            assert "GPU" in str(error)  # noqa: PT017  # a machine without one
            return
        assert build_trainer(cfg, tmp_path, placement).max_epochs == cfg.model.recipe.epochs


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "model").glob("*.yaml")))
def test_a_recipe_builds_its_module(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Around a network of one layer; the networks themselves are built in tests over their registry."""
    cfg = compose("train", [f"model={name}", "loss=l1"])
    if "optimizer" not in cfg.model:
        return  # nothing to train; composed above
    monkeypatch.setattr("dehaze_zoo.training.build.build_model", lambda name, **overrides: nn.Conv2d(3, 3, 1))
    cfg.model.channels_last = True  # a key of every recipe
    module = build_module(cfg)
    assert module.configure_optimizers()
    assert module.layout is torch.channels_last
