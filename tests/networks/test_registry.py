"""The registry: names, clashes, near misses, plug-ins from outside, a broken family."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

import dehaze_zoo.networks
from dehaze_zoo.errors import UsageError
from dehaze_zoo.networks import registry
from dehaze_zoo.networks.identity import Identity
from dehaze_zoo.networks.registry import build_model, list_models, model_info, register_model


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A registry that the test may fill and load again."""
    list_models()
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "_broken", {})
    registry._load_families.cache_clear()
    yield
    registry._load_families.cache_clear()


def test_the_contracts_names_are_there() -> None:
    assert {"gunet_t", "gunet_s", "gunet_b", "gunet_d", "dcp", "aodnet", "gcanet", "identity"} <= set(list_models())
    assert list_models("gunet_?") == ["gunet_b", "gunet_d", "gunet_s", "gunet_t"]


def test_every_file_of_the_house_loads() -> None:
    list_models()
    assert not {what: why for what, why in registry._broken.items() if what.startswith("dehaze_zoo.")}


@pytest.mark.usefixtures("fresh")
def test_registering_plain_and_with_facts() -> None:
    register_model(Identity, name="plain")

    @register_model(paper="A Paper, 2030", licence="MIT")
    def with_facts() -> Identity:
        return Identity()

    register_model(paper="A Paper, 2030")(with_facts)  # the same function again: a module that is imported anew
    assert isinstance(build_model("plain"), Identity)
    assert model_info("with_facts").paper == "A Paper, 2030"


@pytest.mark.usefixtures("fresh")
def test_a_taken_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'gunet_t' is taken by dehaze_zoo\.networks\.gunet"):
        register_model(Identity, name="gunet_t")


def test_unknown_names_and_overrides_offer_what_is_near() -> None:
    with pytest.raises(UsageError, match=r"Did you mean .*gunet_t"):
        build_model("gunett")
    with pytest.raises(UsageError, match=r"'gunet_t'.*widht"):
        build_model("gunet_t", widht=3)


PLUGIN = """
from torch import nn
from dehaze_zoo import register_model

@register_model(paper="From outside")
def plugged(width=3):
    return nn.Conv2d(3, width, 1)
"""


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("value", ["hazeplug", "hazeplug:plugged"])
def test_an_installed_package_adds_a_network(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hazeplug.py").write_text(PLUGIN)
    facts = tmp_path / "hazeplug-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: hazeplug\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[dehaze_zoo.models]\nplugged = {value}\nabsent = no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "hazeplug", raising=False)
    assert "plugged" in list_models()
    assert model_info("plugged").paper == "From outside"
    assert isinstance(build_model("plugged", width=4), nn.Conv2d)
    with pytest.raises(UsageError, match="no_such_module could not be imported"):  # and the others are still there
        build_model("absent")


@pytest.mark.usefixtures("fresh")
def test_a_broken_family_takes_no_other_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_family.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.setattr(dehaze_zoo.networks, "__path__", [*dehaze_zoo.networks.__path__, str(tmp_path)])
    assert "gunet_t" in list_models()
    with pytest.raises(UsageError, match="broken_family could not be imported: ModuleNotFoundError"):
        build_model("broken")
