from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import data_minis as minis
from dehaze_zoo.data.images import SUFFIXES as READABLE
from dehaze_zoo.data.layouts import (
    LAYOUTS,
    SUFFIXES,
    Pair,
    find_pairs,
    find_pictures,
    find_root,
    hold_out,
    layout_of,
    pair_folders,
    subfolders,
)
from dehaze_zoo.errors import UsageError
from support import ROOT, shared_dir


@pytest.mark.parametrize("name", minis.MINIS)
def test_every_layout_is_recognised(tmp_path: Path, name: str) -> None:
    make, set_name, expected = minis.MINIS[name]
    make(tmp_path)
    for split, count in expected.items():
        found = find_pairs(set_name, tmp_path, split)
        assert len(found.strict()) == count
        assert all(pair.hazy.is_file() and pair.clear.is_file() for pair in found.pairs)
    if "test" in expected and "val" not in expected:
        assert find_pairs(set_name, tmp_path, "val") == find_pairs(set_name, tmp_path, "test")
    for split in {"train", "test"} - set(expected):
        with pytest.raises(UsageError, match=f"data={set_name}.* no {split} pairs"):
            find_pairs(set_name, tmp_path, split)


def test_official_names_are_paired(tmp_path: Path) -> None:
    minis.reside_outdoor(tmp_path)
    indoor = {p.name: (p.clear.name, p.scene) for p in find_pairs("reside_indoor", tmp_path, "train").pairs}
    assert indoor["1_1_0.91179.png"] == ("1.png", "1")
    assert indoor["11_2_0.92179.png"] == ("11.png", "11")
    train = {p.name: p.clear.name for p in find_pairs("reside_outdoor", tmp_path, "train").pairs}
    assert train["part2/0001_0.8_0.24.jpg"] == "0001.jpg"
    test = {p.name: p.clear.name for p in find_pairs("reside_outdoor", tmp_path, "test").pairs}
    assert test == {"0001_0.8_0.2.jpg": "0001.png", "0002_1_0.12.jpg": "0002.png"}


def test_roles_in_names_and_the_longest_partner(tmp_path: Path) -> None:
    minis.folders(tmp_path / "h", tmp_path / "c", [("x_1_2.png", "x_1.png"), ("x_2.png", "x.png"), ("01_hazy.png", "01_GT.jpg")])
    assert {p.name: p.clear.name for p in pair_folders(tmp_path / "h", tmp_path / "c").pairs} == {
        "x_1_2.png": "x_1.png",
        "x_2.png": "x.png",
        "01_hazy.png": "01_GT.jpg",
    }


def test_of_two_clear_pictures_the_lossless_one(tmp_path: Path) -> None:
    minis.folders(tmp_path / "h", tmp_path / "c", [("a.jpg", "a.jpg"), ("a.jpg", "a.png")])
    assert [p.clear.name for p in pair_folders(tmp_path / "h", tmp_path / "c").pairs] == ["a.png"]


def test_missing_partners_are_named_and_the_rest_is_there(tmp_path: Path) -> None:
    minis.flat_sots(tmp_path)
    (tmp_path / "gt" / "1401.png").unlink()
    found = find_pairs("reside_indoor", tmp_path, "test")
    assert len(found.pairs) == 3
    assert [(p.kind, p.file.name) for p in found.problems] == [("missing_partner", f"1401_{k}.png") for k in (1, 10, 2)]
    with pytest.raises(UsageError, match=r"3 of 6 hazy pictures .* 1401_1.png, 1401_10.png, 1401_2.png"):
        found.strict()


def test_wrong_places_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"(?s)hazy\|haze.*gt\|clear.*no folders.*data.root"):
        find_pairs("reside_indoor", tmp_path, "test")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UsageError, match=r"Found: .*pictures"):
        find_pairs("haze4k", tmp_path, "train")
    minis.haze4k(tmp_path)
    (tmp_path / "copy").mkdir()
    minis.haze4k(tmp_path / "copy")
    with pytest.raises(UsageError, match="more than one place"):
        find_pairs("haze4k", tmp_path, "train")
    (tmp_path / "set" / "hazy").mkdir(parents=True)
    (tmp_path / "set" / "gt").mkdir()
    with pytest.raises(UsageError, match="hazy pictures holds no picture"):
        find_pairs("folder", tmp_path / "set", "test")
    with pytest.raises(UsageError, match="clear pictures does not exist"):
        pair_folders(tmp_path / "Haze4K" / "test" / "haze", tmp_path / "nowhere")


def test_links_in_a_circle_and_linked_folders(tmp_path: Path) -> None:
    minis.flat_sots(tmp_path / "there")
    (tmp_path / "there" / "hazy" / "again").symlink_to(tmp_path / "there" / "hazy")
    (tmp_path / "here").mkdir()
    for name in ("hazy", "gt"):
        (tmp_path / "here" / name).symlink_to(tmp_path / "there" / name)
    assert len(find_pairs("reside_indoor", tmp_path / "here", "test").strict()) == 6


def test_links_onto_themselves_hide_nothing(tmp_path: Path) -> None:
    """Asking whether such a link is a folder fails, with ELOOP."""
    minis.flat_sots(tmp_path)
    for folder in (tmp_path, tmp_path / "hazy", tmp_path / "gt"):
        for link, to in (("me", "me"), ("a", "b"), ("b", "a")):
            (folder / link).symlink_to(to)
    assert subfolders(tmp_path) == [tmp_path / "gt", tmp_path / "hazy"]
    assert len(find_pairs("reside_indoor", tmp_path, "test").strict()) == 6


def test_unpaired_photographs_are_found_and_refused_as_pairs(tmp_path: Path) -> None:
    minis.rtts(tmp_path)
    assert [path.name for path in find_pictures("rtts", tmp_path)] == ["AM_Bing_211.png", "AM_Google_115.png", "YD_Baidu_107.png"]
    assert find_pictures("rtts", tmp_path / "RTTS" / "JPEGImages") == find_pictures("rtts", tmp_path)
    with pytest.raises(UsageError, match="rtts has hazy photographs alone"):
        find_pairs("rtts", tmp_path, "test")
    with pytest.raises(UsageError, match="no pictures found"):
        find_pictures("rtts", tmp_path / "RTTS" / "Annotations")


def test_numbers_tell_the_splits_of_one_folder(tmp_path: Path) -> None:
    minis.nh_haze(tmp_path)
    found = {
        split: {pair.scene: pair.clear.name for pair in find_pairs("nh_haze", tmp_path, split).pairs} for split in ("train", "val", "test")
    }
    assert found == {"train": {n: f"{n}_GT.png" for n in ("01", "02", "45")}, "val": {n: f"{n}_GT.png" for n in ("46", "50")}} | {
        "test": {n: f"{n}_GT.png" for n in ("51", "55")}
    }
    for role in ("hazy", "GT"):
        (tmp_path / "NH-HAZE" / f"51_{role}.png").unlink()
        (tmp_path / "NH-HAZE" / f"55_{role}.png").unlink()
    with pytest.raises(UsageError, match=r"no test pairs .numbers 51 to 55"):
        find_pairs("nh_haze", tmp_path, "test")


def test_where_nothing_is_found_it_says_what_is_there(tmp_path: Path) -> None:
    """Too deep, too high, renamed, packed, another set, a circle of links: each named."""

    def said(root: Path, set_name: str = "reside_indoor", split: str = "test") -> str:
        with pytest.raises(UsageError) as caught:
            find_pairs(set_name, root, split)
        assert len(str(caught.value).splitlines()) <= 5
        return str(caught.value)

    minis.flat_sots(tmp_path / "a" / "b" / "c" / "d" / "e" / "f")
    assert f"lies too deep: give data.root={tmp_path / 'a' / 'b' / 'c' / 'd' / 'e'}" in said(tmp_path)
    deep = tmp_path / "a" / "b" / "c" / "d" / "e" / "f"
    assert f"lies inside a set: give data.root={deep}" in said(deep / "hazy")
    minis.folders(tmp_path / "r" / "foggy", tmp_path / "r" / "sunny", minis.SOTS_INDOOR)
    assert f"data.hazy={tmp_path / 'r' / 'foggy'} data.clear={tmp_path / 'r' / 'sunny'}" in said(tmp_path / "r")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "SOTS.zip").write_bytes(b"PK")
    assert "Not unpacked, or not wholly: SOTS.zip" in said(tmp_path / "p")
    minis.haze4k(tmp_path / "h")
    assert "looks like haze4k: use data=haze4k" in said(tmp_path / "h")
    (tmp_path / "circle" / "one").mkdir(parents=True)
    (tmp_path / "circle" / "one" / "two").symlink_to(tmp_path / "circle")
    assert "no test pairs" in said(tmp_path / "circle")
    (tmp_path / "half" / "hazy").mkdir(parents=True)
    (tmp_path / "half" / "gt").mkdir()
    minis.picture(tmp_path / "half" / "hazy" / "1400_1.png")
    assert "holds no picture" in said(tmp_path / "half")


def test_the_roots_own_name_tells_where_the_folders_below_do_not(tmp_path: Path) -> None:
    minis.haze4k(tmp_path / "train")  # train/Haze4K/test: the folders below come first
    assert len(find_pairs("haze4k", tmp_path / "train", "test").pairs) == 2
    assert find_pairs("haze4k", tmp_path / "train" / "Haze4K" / "test", "test").pairs[0].name == "1_0.6_1.26.png"
    with pytest.raises(UsageError, match=f"(?s)no train pairs.*one part of the set.*data.root={tmp_path / 'train' / 'Haze4K'}\\."):
        find_pairs("haze4k", tmp_path / "train" / "Haze4K" / "test", "train")
    minis.folders(tmp_path / "own" / "train" / "hazy", tmp_path / "own" / "train" / "gt", minis.SAME)
    assert all(len(find_pairs("folder", tmp_path / "own" / "train", split).pairs) == 3 for split in ("train", "test"))


def test_find_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEHAZE_ZOO_DATA", raising=False)
    assert find_root("haze4k", tmp_path) == tmp_path
    with pytest.raises(UsageError, match=r"(?s)haze4k.*data.root=DIR.*https://"):
        find_root("haze4k", None)
    with pytest.raises(UsageError, match="none does not exist"):
        find_root("haze4k", tmp_path / "none")
    with pytest.raises(UsageError, match=r"data.hazy=DIR data.clear=DIR"):
        find_root("folder", None)
    (tmp_path / "haze4k").mkdir()
    monkeypatch.setenv("DEHAZE_ZOO_DATA", str(tmp_path))
    assert find_root("haze4k", None) == tmp_path / "haze4k"
    with pytest.raises(UsageError, match=r"rs_haze does not exist \(\$DEHAZE_ZOO_DATA"):
        find_root("rs_haze", None)
    with pytest.raises(UsageError, match="Did you mean haze4k"):
        layout_of("haze4")


def pairs_of(scenes: int, each: int) -> list[Pair]:
    return [Pair(Path(f"h/{s}_{k}.png"), Path(f"c/{s}.png"), str(s), f"{s}_{k}.png") for s in range(scenes) for k in range(each)]


def test_whole_scenes_are_held_out() -> None:
    pairs = pairs_of(20, 3)
    train, held = hold_out(pairs, 0.1)
    assert len(held) == 6
    assert not {p.scene for p in train} & {p.scene for p in held}
    assert hold_out(pairs[::-1], 0.1)[1] == held[::-1]
    assert {p.scene for p in hold_out(pairs, [3, "7"])[1]} == {"3", "7"}
    assert len({p.scene for p in hold_out(pairs_of(2, 1), 0.1)[1]}) == 1
    for wrong, says in ((0, "share"), (1.0, "share"), (["33"], "no scene '33'"), (list(range(20)), "leaves 0 pairs")):
        with pytest.raises(UsageError, match=says):
            hold_out(pairs, wrong)
    with pytest.raises(UsageError, match="at least one scene"):
        hold_out(pairs_of(1, 5), 0.5)


def test_records_are_complete() -> None:
    published = {"reside_indoor": (13_990, 500), "reside_outdoor": (313_950, 500), "haze4k": (3_000, 1_000), "rs_haze": (51_300, 2_700)}
    published |= {"reside_6k": (6_000, 1_000), "nh_haze": (45, 5), "dense_haze": (45, 5), "o_haze": (35, 5), "i_haze": (25, 5)}
    for name, counts in published.items():
        assert (LAYOUTS[name].splits["train"].pairs, LAYOUTS[name].splits["test"].pairs) == counts
    assert (LAYOUTS["hsts"].splits["test"].pairs, LAYOUTS["rtts"].splits["test"].pairs) == (10, 4_322)
    assert {set_name for _, set_name, _ in minis.MINIS.values()} | {"rtts"} == set(LAYOUTS)
    for name, layout in LAYOUTS.items():
        assert (ROOT / "configs" / "data" / f"{name}.yaml").is_file()
        assert name == layout.name
        if name != "folder":
            assert layout.source.startswith("https://")
            assert layout.licence
            assert layout.citation
            assert all(part.pairs and part.example for part in layout.splits.values())
    assert set(READABLE) >= SUFFIXES


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, dehaze_zoo.data.layouts; print([m for m in ('torch', 'cv2', 'numpy', 'PIL', 'pytorch_lightning') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_real_subset() -> None:
    found = find_pairs("reside_indoor", shared_dir() / "data" / "sots_indoor_subset", "test")
    assert len(found.strict()) == 80
    assert {p.scene for p in found.pairs} == {str(s) for s in range(1400, 1408)}
