"""What `prepare` makes is used where it fits the files and never where it does not."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
import warnings
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import data_minis as minis
from dehaze_zoo import prepare
from dehaze_zoo.cli import compose
from dehaze_zoo.data import cache as caching
from dehaze_zoo.data.cache import Cache, open_cache
from dehaze_zoo.data.datamodule import PairDataModule
from dehaze_zoo.data.diagnosis import diagnose
from dehaze_zoo.data.layouts import find_pairs
from dehaze_zoo.data.manifest import StaleError, manifest_path, read_manifest, write_manifest
from dehaze_zoo.data.packed import TornError, read_packed, write_packed
from dehaze_zoo.data.samplers import Token
from dehaze_zoo.data.table import PairTable
from dehaze_zoo.errors import ImageError, UsageError

SHARED: dict[str, Any] = {"batch_size": 4, "samples_per_epoch": 10, "crop_size": 16, "num_workers": 0}


def its(tmp_path: Path) -> PairTable:
    minis.reside_indoor(tmp_path)
    found = find_pairs("reside_indoor", tmp_path, "train")
    return PairTable.of(found.hazy, found.clear, found.pairs)


# ------------------------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("name", minis.MINIS)
def test_a_table_gives_the_pairs_it_was_made_of(tmp_path: Path, name: str) -> None:
    make, set_name, expected = minis.MINIS[name]
    make(tmp_path)
    for split in expected:
        found = find_pairs(set_name, tmp_path, split)
        table = PairTable.of(found.hazy, found.clear, found.pairs)
        assert list(table) == list(found.pairs)
        assert table[-1] == found.pairs[-1]
        assert table[1:3] == found.pairs[1:3]
        assert len(table) == expected[split]
        with pytest.raises(IndexError):
            table[len(table)]


def test_names_of_any_bytes(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff\xe9 \xc3\xa4.png")
    minis.folders(tmp_path / "hazy", tmp_path / "gt", [(odd, odd), ("雾 1.png", "雾 1.png")])
    found = find_pairs("folder", tmp_path, "train")
    write_manifest(tmp_path / "m", tmp_path, found)
    assert list(read_manifest(tmp_path / "m", tmp_path)) == list(found.pairs)


# --------------------------------------------------------------------------------------------------------------- manifests


def test_a_manifest_is_the_folders_until_they_change(tmp_path: Path) -> None:
    minis.reside_outdoor(tmp_path / "set")
    found = find_pairs("reside_outdoor", tmp_path / "set", "train")
    done: list[tuple[int, int]] = []
    write_manifest(tmp_path / "m", tmp_path / "set", found, lambda i, n: done.append((i, n)))
    assert done[-1] == (6, 6)  # four hazy pictures in two parts, two clear ones
    assert list(read_manifest(tmp_path / "m", tmp_path / "set")) == list(found.pairs)
    (tmp_path / "set").rename(tmp_path / "moved")
    moved = read_manifest(tmp_path / "m", tmp_path / "moved")
    assert all(pair.hazy.is_file() and pair.clear.is_file() for pair in moved)
    _, arrays = read_packed(tmp_path / "m")
    assert arrays["lengths"].tolist() == [path.stat().st_size for path in moved.files()]
    assert len({bytes(digest) for digest in arrays["digests"]}) == 6
    moved[0].hazy.rename(moved[0].hazy.with_name("0009_1_1.jpg"))
    with pytest.raises(StaleError, match="older than the folders"):
        read_manifest(tmp_path / "m", tmp_path / "moved")


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "half"])
def test_a_damaged_file_is_known(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "m"
    write_packed(path, {"a": 1}, {"numbers": np.arange(1000), "none": np.zeros((0, 16), np.uint8)}, [np.ones(7, np.uint8)] * 3)
    about, arrays = read_packed(path)
    assert about == {"a": 1}
    assert np.array_equal(arrays["numbers"], np.arange(1000))
    assert arrays["none"].shape == (0, 16)
    assert arrays["stream"].tolist() == [1] * 21
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[500] ^= 1
    path.write_bytes(bytes({"cut": data[:-9], "flipped": data, "other": b"x" * 4000, "half": data[:50]}[damage]))
    with pytest.raises(TornError):
        read_packed(path)


def test_training_starts_from_the_manifest_and_notices_when_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minis.reside_indoor(tmp_path)
    data = PairDataModule(set="reside_indoor", root=str(tmp_path), **SHARED)
    plain = [data.training_set()[Token(0, i, i)] for i in range(6)]
    for split in ("train", "test"):
        write_manifest(data.home()[0] / f"reside_indoor-{split}.manifest", tmp_path, data.searched(split))
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setattr(PairDataModule, "searched", lambda *_: pytest.fail("the folders were searched"))
        again = [data.training_set()[Token(0, i, i)] for i in range(6)]
        assert len(data.pairs("val")) == len(data.pairs("test")) == 6
    assert all(torch.equal(a["hazy"], b["hazy"]) and a["name"] == b["name"] for a, b in zip(plain, again, strict=True))
    (tmp_path / "ITS" / "hazy" / "11_1_0.91179.png").unlink()
    with pytest.warns(UserWarning, match=r"older than the folders.*prepare"):
        assert len(data.training_set()) == 5


@pytest.mark.parametrize(("name", "below", "splits"), [("ots_parts", "OTS", ["train"]), ("nh_haze", "NH-HAZE", ["train", "val", "test"])])
def test_the_pictures_own_folder_may_be_the_root(tmp_path: Path, name: str, below: str, splits: list[str]) -> None:
    """Where the manifests' folder lies among the pictures, it neither makes them stale nor is a stranger there."""
    make, set_name, expected = minis.MINIS[name]
    make(tmp_path)
    root = tmp_path / below
    where = [f"data={set_name}", f"data.root='{root}'"]
    assert prepare.job(compose("prepare", where), tmp_path).figures.items() >= expected.items()
    assert (root / ".dehaze_zoo").is_dir()
    data = PairDataModule(set=set_name, root=str(root), **SHARED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [len(data._found(split).pairs) for split in splits] == [expected[split] for split in splits]
    assert diagnose(set_name, root).sound


@pytest.mark.parametrize("place", ["ITS/hazy", "ITS/hazy/prepared", "ITS/clear", "ITS/linked"])
def test_a_manifest_among_the_pictures_is_refused_since_it_would_be_stale_at_once(tmp_path: Path, place: str) -> None:
    minis.reside_indoor(tmp_path)
    (tmp_path / "ITS" / "linked").symlink_to("hazy")
    found = find_pairs("reside_indoor", tmp_path, "train")
    with pytest.raises(UsageError, match=r"data.prepared=.* lies among the pictures"):
        write_manifest(manifest_path(tmp_path / place, "reside_indoor", "train"), tmp_path, found)
    assert not (tmp_path / "ITS" / "hazy" / "prepared").exists()
    path = manifest_path(tmp_path / "ITS" / "hazy" / ".hidden", "reside_indoor", "train")
    write_manifest(path, tmp_path, found)
    assert len(read_manifest(path, tmp_path)) == 6


def test_no_manifest_is_written_over_missing_partners(tmp_path: Path) -> None:
    minis.flat_sots(tmp_path)
    (tmp_path / "gt" / "1401.png").unlink()
    with pytest.raises(UsageError, match="3 of 6 hazy pictures"):
        write_manifest(tmp_path / "m", tmp_path, find_pairs("reside_indoor", tmp_path, "test"))
    assert not (tmp_path / "m").exists()


# ------------------------------------------------------------------------------------------------------------------- cache


@pytest.mark.parametrize("name", ["reside_indoor", "reside_outdoor", "in_gt", "nh_haze", "own"])
def test_samples_from_the_cache_are_those_from_the_files(tmp_path: Path, name: str) -> None:
    make, set_name, _ = minis.MINIS[name]
    make(tmp_path)
    holdout: dict[str, Any] = {"holdout": 0.3} if set_name == "folder" else {}
    made = [PairDataModule(set=set_name, root=str(tmp_path), cache=c, **holdout, **SHARED).training_set() for c in (False, True)]
    for position in range(12):
        token = Token(1, position, position % len(made[0]))
        files, cached = (dataset[token] for dataset in made)
        assert torch.equal(files["hazy"], cached["hazy"])
        assert torch.equal(files["clear"], cached["clear"])
        assert files["name"] == cached["name"]


def test_resides_border_in_the_cache(tmp_path: Path) -> None:
    minis.folders(tmp_path / "train" / "hazy", tmp_path / "train" / "gt", [("1_1_0.9.png", "1.png")], (460, 620), (480, 640))
    minis.folders(tmp_path / "test" / "hazy", tmp_path / "test" / "gt", [("1400_1.png", "1400.png")])
    files, cached = (PairDataModule(set="reside_indoor", root=str(tmp_path), cache=c, **SHARED).training_set() for c in (False, True))
    assert torch.equal(files[Token(0, 0, 0)]["clear"], cached[Token(0, 0, 0)]["clear"])


def test_a_cache_is_opened_as_it_is_or_packed_anew_and_says_why(tmp_path: Path) -> None:
    table, path = its(tmp_path), tmp_path / "c"
    assert open_cache(path, table)[1] == "there was none"
    assert open_cache(path, table)[1] == ""
    first = path.read_bytes()
    path.write_bytes(first[: len(first) // 2])
    assert "cut off" in open_cache(path, table)[1]
    flipped = bytearray(first)
    flipped[200] ^= 1  # in the first picture
    path.write_bytes(flipped)
    assert "checksum of its picture 0" in open_cache(path, table)[1]
    half = bytearray(first)
    end = 64 + sum(table_sizes(table))
    half[end // 2 : end] = bytes(end - end // 2)  # a copy that stopped half-way, its length kept
    path.write_bytes(half)
    assert "checksum" in open_cache(path, table)[1]
    assert path.read_bytes() == first
    os.utime(table[0].hazy, ns=(1, 1))
    assert "older than its pictures" in open_cache(path, table)[1]
    minis.picture(table[0].hazy, 99, (30, 36))
    cache, why = open_cache(path, table)
    assert "older than its pictures" in why
    assert cache.picture(0).size == (30, 36)
    other = PairTable.of(table.hazy, table.clear, list(table)[1:])
    assert "other pictures" in open_cache(path, other)[1]


def table_sizes(table: PairTable) -> list[int]:
    return [24 * 32 * 3] * len(table.files())


def test_another_decoders_pixels_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = its(tmp_path)
    open_cache(tmp_path / "c", table)
    monkeypatch.setattr(caching, "decoder_stamp", lambda: {"probe": "another"})
    assert "another decoder" in open_cache(tmp_path / "c", table)[1]


def test_a_worker_is_sent_the_path_not_the_pictures(tmp_path: Path) -> None:
    cache, _ = open_cache(tmp_path / "c", its(tmp_path))
    sent = pickle.dumps(cache)
    assert len(sent) < 300
    assert np.array_equal(pickle.loads(sent).picture(2).pixels, cache.picture(2).pixels)


Usage = namedtuple("Usage", "total used free")


def test_a_full_or_read_only_disk_is_a_message_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, home = its(tmp_path / "set"), tmp_path / "home"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: Usage(10, 9, 1))
        with pytest.raises(UsageError, match=r"takes about 0.0 GB, the disk has 0.0 GB free.\n.*data.prepared=DIR"):
            open_cache(home / "c", table)
    for code, call in ((errno.ENOSPC, "fsync"), (errno.EROFS, "replace")):
        with monkeypatch.context() as patch:

            def fails(*_: Any, code: int = code) -> None:
                raise OSError(code, os.strerror(code))

            patch.setattr(os, call, fails)
            with pytest.raises(UsageError, match=rf"could not be written: {os.strerror(code)}.\nNothing of it was kept"):
                open_cache(home / "c", table)
        assert list(home.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="could not be written"):
        write_manifest(tmp_path / "file" / "m", tmp_path / "set", find_pairs("reside_indoor", tmp_path / "set", "train"))


def test_an_interrupted_or_failing_packing_leaves_the_old_one(tmp_path: Path) -> None:
    table = its(tmp_path)
    open_cache(tmp_path / "c", table)
    before = (tmp_path / "c").read_bytes()
    table[3].hazy.write_bytes(table[3].hazy.read_bytes()[:100])
    with pytest.raises(ImageError, match="is damaged"):
        open_cache(tmp_path / "c", table)
    assert (tmp_path / "c").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_one_of_several_packs_and_the_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, packs, whys, start = its(tmp_path), [], [], threading.Barrier(3)
    pack = caching._pack

    def slowly(*given: Any) -> None:
        packs.append(given[0])
        time.sleep(0.3)
        pack(*given)

    def opens() -> None:
        start.wait()
        whys.append(open_cache(tmp_path / "home" / "c", table)[1])

    monkeypatch.setattr(caching, "_pack", slowly)
    threads = [threading.Thread(target=opens) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert packs == [tmp_path / "home" / "c"]
    assert capsys.readouterr().out.count("another process packs it; waiting") == 2
    assert sorted(whys) == ["", "", "there was none"]


def test_what_a_killed_packer_left_is_deleted(tmp_path: Path) -> None:
    table, home = its(tmp_path / "set"), tmp_path / "home"
    killed = multiprocessing.get_context("fork").Process(
        target=open_cache, args=(home / "a.cache", table, False, lambda done, total: os.kill(os.getpid(), signal.SIGKILL))
    )
    killed.start()
    killed.join()
    (left,) = home.iterdir()
    assert left.name.startswith(".a.cache.")
    (home / ".b.cache.1.part").touch()  # another set's
    (home / ".a.cache.old.1.part").touch()
    open_cache(home / "a.cache", table)
    assert {path.name for path in home.iterdir()} == {"a.cache", ".b.cache.1.part", ".a.cache.old.1.part"}


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    import cv2

    table = its(tmp_path)
    cv2.imwrite(str(table[0].hazy), np.zeros((24, 32, 3), np.uint16))
    with pytest.raises(ImageError, match="16 bits"):
        open_cache(tmp_path / "c", table)


# -------------------------------------------------------------------------------------------------------------------- verb


def test_the_verb_prepares_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    minis.reside_indoor(tmp_path / "set")
    home = tmp_path / "pre pared"
    where = [f"data.root='{tmp_path / 'set'}'", f"data.prepared='{home}'", f"run_dir='{tmp_path}'"]
    outcome = prepare.job(compose("prepare", ["data=reside_indoor", "data.cache=true", *where]), tmp_path)
    assert outcome.figures == {"train": 6, "test": 6}
    assert {path.name for path in home.iterdir()} == {f"reside_indoor-{end}" for end in ("train.manifest", "test.manifest", "train.cache")}
    assert not (tmp_path / "set" / ".dehaze_zoo").exists()
    assert Cache(home / "reside_indoor-train.cache").picture(0).size == (24, 32)
    with pytest.raises(UsageError, match="made on the fly"):
        prepare.job(compose("prepare", ["data=synthetic"]), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no test pairs found"):
        prepare.job(compose("prepare", ["data=haze4k", f"data.root='{tmp_path / 'empty'}'"]), tmp_path)
