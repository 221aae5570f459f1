"""Files written aside: whole under their name, or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dehaze_zoo.files import written_aside


def test_the_name_comes_last(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with written_aside(path) as aside:
        aside.write_text("new")
        assert aside.parent == tmp_path
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("begun", [True, False])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException], begun: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), written_aside(path) as aside:  # noqa: PT012
        if begun:
            aside.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_renamed_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no"), written_aside(tmp_path / "a.txt") as aside:
        aside.write_text("new")
    assert list(tmp_path.iterdir()) == []


def test_long_names(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 250 + ".txt")
    with written_aside(path) as aside:
        aside.write_text("new")
    assert path.read_text() == "new"
