"""The results store: only added to, whole after a kill, and refused where it is not what it should be."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dehaze_zoo.benchmark.store import VERSION, Score, Store
from dehaze_zoo.errors import UsageError


def test_what_is_put_in_comes_out(tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "store")
    first, second = store.job("k1", {"model": "dcp"}), store.job("k2", {})
    scores = [Score("1.png", "gunet", "psnr", 20.5), Score("1.png", "", "niqe", 3.25)]
    store.add(first, scores)
    store.add_cost("c", {"model": "dcp"}, {"macs": None, "sizes": {"256": {"latency_ms": 1.5}}})
    store.close()
    again = Store(tmp_path / "a" / "store")
    assert again.job("k1", {"model": "dcp"}) == first
    assert sorted(again.scores(first)) == sorted(scores)
    assert again.scores(second) == []
    assert again.cost("c") == {"macs": None, "sizes": {"256": {"latency_ms": 1.5}}}
    assert again.cost("d") is None


def test_a_row_that_differs_is_refused_and_the_rest_of_its_batch_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    job = store.job("k", {})
    first, other, more = Score("1.png", "gunet", "psnr", 20.5), Score("1.png", "gunet", "psnr", 21.0), Score("3.png", "gunet", "psnr", 1.0)
    assert store.add(job, [first]) == []
    assert store.add(job, [first]) == []  # two programs at once may do the same work
    refused = store.add(job, [other, more, Score("4.png", "", "niqe", float("nan"))])
    assert refused[0][0] == other
    assert "holds 20.5, 21.0 was measured" in refused[0][1]
    assert [(score.image, why) for score, why in refused[1:]] == [("4.png", "the figure is nan")]
    assert store.scores(job) == [first, more]


def test_a_full_disk_and_a_store_that_is_held_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    job = store.job("k", {})
    store._db.execute("PRAGMA max_page_count = 1")  # what it has
    with pytest.raises(UsageError, match=r"results\.sqlite cannot be used: .*full.*\nMake room"):
        store.add(job, [Score(f"{number}.png", "gunet", "psnr", 1.0) for number in range(10_000)])
    assert store.scores(job) == []
    store._db.execute("PRAGMA busy_timeout = 0")
    with sqlite3.connect(tmp_path / "results.sqlite") as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UsageError, match=r"cannot be used: .*locked"):
            store.job("l", {})
        with pytest.raises(UsageError, match=r"cannot be used: .*locked"):
            store.scores(job)


def test_figures_are_those_of_the_parameters_given(tmp_path: Path) -> None:
    blind, psnr = Score("1.png", "", "niqe", 3.0), Score("1.png", "gunet", "psnr", 20.0)
    Store(tmp_path).add(1, [blind, psnr])  # as older stores hold them
    first, second = (Store(tmp_path, {"niqe": mark}) for mark in ("f00", "ba7"))
    assert first.scores(1) == [psnr]
    assert first.add(1, [blind._replace(value=4.0)]) == second.add(1, [blind._replace(value=5.0)]) == []
    assert [sorted(store.scores(1)) for store in (first, second)] == [[blind._replace(value=value), psnr] for value in (4.0, 5.0)]


@pytest.mark.parametrize("change", ["UPDATE scores SET value = 99", "DELETE FROM scores", "DELETE FROM jobs", "UPDATE jobs SET key = 'x'"])
def test_nothing_in_it_can_be_changed(tmp_path: Path, change: str) -> None:
    store = Store(tmp_path)
    store.add(store.job("k", {}), [Score("1.png", "gunet", "psnr", 20.5)])
    store.close()
    with pytest.raises(sqlite3.IntegrityError, match="append-only"), sqlite3.connect(tmp_path / "results.sqlite") as db:
        db.execute(change)


def test_a_newer_version_s_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "results.sqlite") as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = (tmp_path / "results.sqlite").read_bytes()
    with pytest.raises(UsageError, match="newer dehaze_zoo"):
        Store(tmp_path)
    assert (tmp_path / "results.sqlite").read_bytes() == before


def test_files_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "results.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(UsageError, match="is no results store"):
        Store(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        Store(tmp_path / "file" / "store")


def test_a_kill_in_the_middle_of_writing_leaves_it_whole(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from dehaze_zoo.benchmark.store import Score, Store\n"
        "store = Store(Path(sys.argv[1])); job = store.job('k', {})\n"
        "for batch in range(10**6):\n"
        "    store.add(job, [Score(f'{batch}_{i}', 'gunet', 'psnr', float(batch)) for i in range(50)])\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    end = time.monotonic() + 30
    while time.monotonic() < end and not (tmp_path / "results.sqlite").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    store = Store(tmp_path)
    scores = store.scores(store.job("k", {}))
    assert scores
    assert len(scores) % 50 == 0  # whole batches
    store.add(store.job("k", {}), [Score("next", "gunet", "psnr", 1.0)])
    with sqlite3.connect(tmp_path / "results.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
