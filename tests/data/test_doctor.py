"""The doctor: whole miniatures pass, and each kind of damage is found, named and answered with what to do."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data_minis as minis
from dehaze_zoo import doctor, prepare
from dehaze_zoo.cli import compose, run_verb
from dehaze_zoo.data.decoder import decoder_stamp
from dehaze_zoo.data.diagnosis import Diagnosis, diagnose, spans
from dehaze_zoo.data.examine import SKETCH, alike, examine, examine_all
from dehaze_zoo.data.sets import LAYOUTS
from dehaze_zoo.errors import UsageError
from support import shared_dir


def kinds(diagnosis: Diagnosis) -> set[tuple[str, str]]:
    return {(problem.kind, Path(problem.file).name) for problem in diagnosis.problems if problem.kind != "incomplete"}


@pytest.mark.parametrize("name", [name for name in minis.MINIS if name != "own"])
def test_a_sound_miniature_of_every_layout_passes(tmp_path: Path, name: str) -> None:
    make, set_name, expected = minis.MINIS[name]
    make(tmp_path)
    diagnosis = diagnose(set_name, tmp_path)
    splits = {part.split: len(part.found.pairs) for part in diagnosis.parts}
    assert splits == expected
    assert kinds(diagnosis) == set()
    incomplete = [problem for problem in diagnosis.problems if problem.kind == "incomplete"]
    assert len(incomplete) == len(LAYOUTS[set_name].splits)  # a part of what is there, and the splits that are not
    assert diagnosis.pairs == sum(expected.values())


def test_the_real_subset_is_told_to_be_a_part() -> None:
    diagnosis = diagnose("reside_indoor", shared_dir() / "data" / "sots_indoor_subset")
    assert diagnosis.sound
    assert (diagnosis.pairs, diagnosis.expected) == (80, 500)
    assert "80 of 500 test pairs, scenes 1400-1407 (8 of 50)" in diagnosis.problems[0].what_to_do


def test_every_damage_is_named(tmp_path: Path) -> None:
    minis.flat_sots(tmp_path)
    hazy, gt = tmp_path / "hazy", tmp_path / "gt"
    minis.folders(hazy, gt, [(f"{s}_{k}.png", f"{s}.png") for s in range(1402, 1409) for k in (1, 2)])
    assert kinds(diagnose("reside_indoor", tmp_path)) == set()
    (hazy / "1400_1.png").write_bytes((hazy / "1400_1.png").read_bytes()[:150])  # cut off
    (gt / "1401.png").unlink()
    minis.picture(hazy / "1402_1.png", 5, (24, 30))
    shutil.copy(hazy / "1403_1.png", hazy / "1403_2.png")
    shutil.copy(gt / "1404.png", hazy / "1404_2.png")
    (hazy / ".DS_Store").touch()
    (hazy / "notes.txt").write_text("x")
    (gt / "Thumbs.db").write_text("x")
    (hazy / "again").symlink_to(hazy)
    (hazy / "1405_2.png").unlink()
    (hazy / "1405_1.png").unlink()
    (hazy / "1406_2.png").write_bytes(b"")
    (hazy / "1407_2.png").unlink()
    (hazy / "1407_2.png").symlink_to(tmp_path / "nowhere.png")
    shutil.copy(gt / "1408.png", gt / "1499.png")
    assert kinds(diagnose("reside_indoor", tmp_path)) == {
        ("unreadable", "1400_1.png"), ("unreadable", "1406_2.png"), ("unreadable", "1407_2.png"),
        ("missing_partner", "1401_1.png"), ("missing_partner", "1401_2.png"), ("missing_partner", "1401_10.png"),
        ("missing_partner", "1405.png"), ("missing_partner", "1499.png"),
        ("size_mismatch", "1402_1.png"), ("duplicate", "1403_2.png"), ("duplicate", "1404.png"), ("duplicate", "1499.png"),
        ("stranger", ".DS_Store"), ("stranger", "notes.txt"), ("stranger", "Thumbs.db"), ("stranger", "again"), ("stranger", "1407_2.png"),
    }  # fmt: skip
    said = {Path(p.file).name: p.what_to_do for p in diagnose("reside_indoor", tmp_path).problems}
    assert "circle" in said["again"]
    assert "32x24" in said["1402_1.png"]


def test_links_onto_themselves_are_strangers(tmp_path: Path) -> None:
    minis.flat_sots(tmp_path)
    (tmp_path / "unmounted").symlink_to("/nowhere")  # beside the set: none of the doctor's business
    circles = [("hazy/me", "me"), ("gt/a", "b"), ("gt/b", "a"), ("round", "round"), ("hazy/1400_3.png", "1400_3.png")]
    for link, to in circles:
        (tmp_path / link).symlink_to(to)
    diagnosis = diagnose("reside_indoor", tmp_path)
    strangers = {("stranger", Path(link).name) for link, _ in circles}
    assert kinds(diagnosis) == strangers | {("unreadable", "1400_3.png")}
    assert all("circle" in problem.what_to_do for problem in diagnosis.problems if problem.kind == "stranger")


def test_a_link_back_up_makes_no_pairs_of_clear_pictures(tmp_path: Path) -> None:
    """From hazy/ to the folder that holds clear/ too; and from the root out to where other sets lie."""
    root = tmp_path / "reside"
    minis.reside_indoor(root)
    minis.reside_indoor(tmp_path / "another")
    (root / "ITS" / "hazy" / "back").symlink_to(root / "ITS")
    (root / "out").symlink_to(tmp_path)
    found = diagnose("reside_indoor", root)
    assert found.pairs == 12
    assert kinds(found) == {("stranger", "back"), ("stranger", "out")}
    assert all("circle" in problem.what_to_do for problem in found.problems if problem.kind == "stranger")


def test_resides_own_border_is_no_mismatch(tmp_path: Path) -> None:
    minis.folders(tmp_path / "hazy", tmp_path / "gt", [("1400_1.png", "1400.png")], (460, 620), (480, 640))
    assert kinds(diagnose("reside_indoor", tmp_path)) == set()


def test_a_leak_is_seen_through_size_and_compression(tmp_path: Path) -> None:
    minis.folders(tmp_path / "train" / "hazy", tmp_path / "train" / "GT", [(f"t{n}.png", f"t{n}.png") for n in range(8)], (48, 64))
    minis.folders(tmp_path / "test" / "hazy", tmp_path / "test" / "GT", [(f"e{n}.png", f"e{n}.png") for n in range(8)], (48, 64))
    assert kinds(diagnose("rs_haze", tmp_path)) == set()
    Image.open(tmp_path / "train" / "GT" / "t3.png").resize((60, 46)).save(tmp_path / "again.jpg", quality=60)
    Image.open(tmp_path / "again.jpg").resize((64, 48)).save(tmp_path / "test" / "GT" / "e5.png")
    (tmp_path / "again.jpg").unlink()
    diagnosis = diagnose("rs_haze", tmp_path)
    assert kinds(diagnosis) == {("leak", "e5.png")}
    assert any("t3.png" in problem.what_to_do for problem in diagnosis.problems)


def test_copies_under_every_hazy_name_are_no_duplicates(tmp_path: Path) -> None:
    """The IN/GT copies repeat a scene's clear picture under each hazy picture's name."""
    minis.folders(tmp_path / "train" / "IN", tmp_path / "train" / "GT", [("1_1.png", "1_1.png"), ("1_2.png", "1_2.png")])
    shutil.copy(tmp_path / "train" / "GT" / "1_1.png", tmp_path / "train" / "GT" / "1_2.png")
    assert kinds(diagnose("reside_indoor", tmp_path)) == set()


@pytest.mark.parametrize(("damage", "named"), [("renamed", ["clear", "fog"]), ("gone", ["hazy"])])
def test_a_split_whose_folders_do_not_pair_is_named_though_another_is_whole(tmp_path: Path, damage: str, named: list[str]) -> None:
    minis.reside_indoor(tmp_path)
    minis.reside_outdoor(tmp_path)  # another set's folders, which are nobody's business here
    if damage == "renamed":
        (tmp_path / "ITS" / "hazy").rename(tmp_path / "ITS" / "fog")
    else:
        shutil.rmtree(tmp_path / "ITS" / "clear")
    found = diagnose("reside_indoor", tmp_path)
    said = {Path(p.file).name: p.what_to_do for p in found.problems if p.kind == "missing_partner"}
    assert sorted(said) == named
    assert not found.sound
    assert all("looked for hazy|" in text and ("Renamed? data=folder" in text) == (damage == "renamed") for text in said.values())
    (tmp_path / "ITS" / "clear.zip").write_bytes(b"PK")  # half unpacked: what is missing is in there
    found = diagnose("reside_indoor", tmp_path)
    assert found.sound
    assert any("clear.zip" in problem.what_to_do for problem in found.problems)


def test_sets_that_are_not_on_disk_are_told_what_they_are(tmp_path: Path) -> None:
    for verb, job in (("doctor", doctor.job), ("prepare", prepare.job)):
        with pytest.raises(UsageError, match=r"several sets, reside_indoor, reside_outdoor: name one"):
            run_verb(verb, job, ["data=mixed", f"run_dir={tmp_path / 'run'}"])
        with pytest.raises(UsageError, match="made on the fly"):
            run_verb(verb, job, ["data=synthetic", f"run_dir={tmp_path / 'run'}"])


def test_a_download_in_parts_is_incomplete_not_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All clear pictures of the 50 scenes, the hazy ones of two so far, the rest still in an archive."""
    minis.flat_sots(tmp_path)
    for scene in range(1402, 1450):
        minis.picture(tmp_path / "gt" / f"{scene}.png", scene)
    (tmp_path / "hazy.zip").write_bytes(b"PK")
    diagnosis = diagnose("reside_indoor", tmp_path)
    assert diagnosis.sound
    said = diagnosis.problems[0].what_to_do
    assert "6 of 500 test pairs, scenes 1400-1401 (2 of 50)" in said
    assert "Fewer than 10 hazy: 1400-1401" in said
    assert "48 clear pictures wait" in said
    assert "hazy.zip" in said
    waiting = [problem.file for problem in diagnosis.problems if "Waits" in problem.what_to_do]
    assert waiting == [str(tmp_path / "gt" / f"{scene}.png") for scene in range(1402, 1450)]


def test_a_lost_hazy_picture_is_named_by_its_clear_one(tmp_path: Path) -> None:
    """All but one of a set with one hazy picture a scene."""
    names = [(f"{number}.jpg", f"{number}.jpg") for number in range(10)]
    minis.folders(tmp_path / "HSTS" / "synthetic", tmp_path / "HSTS" / "original", names)
    assert diagnose("hsts", tmp_path).problems == []
    (tmp_path / "HSTS" / "synthetic" / "4.jpg").unlink()
    diagnosis = diagnose("hsts", tmp_path)
    assert kinds(diagnosis) == {("missing_partner", "4.jpg")}
    assert "wait" not in diagnosis.problems[0].what_to_do


def test_the_roots_own_name_tells_the_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minis.haze4k(tmp_path)
    monkeypatch.chdir(tmp_path / "Haze4K" / "test")
    for root, split, other in ((Path(), "2 of 1,000 test", "train"), (tmp_path / "Haze4K" / "train", "3 of 3,000 train", "test")):
        said = [problem.what_to_do for problem in diagnose("haze4k", root).problems]
        assert split in said[0]
        assert said[1].startswith(f"No {other} pairs")


def test_where_nothing_tells_the_split_its_count_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minis.folders(tmp_path / "hazy", tmp_path / "gt", minis.SAME)
    splits = LAYOUTS["rs_haze"].splits
    for train, test, name in ((9, 3, "test"), (3, 9, "train"), (9, 4, "test"), (9, 2, "train")):
        monkeypatch.setitem(splits, "train", replace(splits["train"], pairs=train))
        monkeypatch.setitem(splits, "test", replace(splits["test"], pairs=test))
        diagnosis = diagnose("rs_haze", tmp_path)
        assert [part.split for part in diagnosis.parts] == [name]
        assert any("pairs" in problem.what_to_do and problem.what_to_do.startswith("No ") for problem in diagnosis.problems)


def test_sketches_tell_scenes_apart() -> None:
    rng = np.random.default_rng(0)
    some = [rng.integers(0, 256, SKETCH, dtype=np.uint8) for _ in range(40)]
    noisy = [np.clip(sketch.astype(int) + rng.integers(-1, 2, SKETCH), 0, 255).astype(np.uint8) for sketch in some[:5]]
    flat = [np.full(SKETCH, level, np.uint8) for level in (30, 200)]
    first, second = [a.tobytes() for a in (*some, flat[0])], [a.tobytes() for a in (*noisy, flat[1])]
    assert sorted(alike(first, second)) == [(i, i) for i in range(5)]
    assert alike([], second) == []


def test_processes_and_one_process_see_the_same(tmp_path: Path) -> None:
    paths = [minis.picture(tmp_path / f"{n}.png", n) for n in range(70)]
    paths[40].write_bytes(b"not a picture")
    assert list(examine_all(paths, [n % 2 == 0 for n in range(70)], 2)) == [examine(path, n % 2 == 0) for n, path in enumerate(paths)]


def test_spans() -> None:
    assert spans(["1400", "1401", "1402", "1405", "a", "b"]) == "1400-1402, 1405, a, b"
    assert spans([str(n) for n in range(0, 40, 2)]).endswith("10 and 14 more runs")


def test_the_verb_writes_its_report_and_tells_by_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    minis.flat_sots(tmp_path / "set")

    def asked(*overrides: str) -> tuple[int, str, dict[str, object]]:
        run_dir = tmp_path / "run"
        run_dir.mkdir(exist_ok=True)
        code = doctor.job(compose("doctor", [f"run_dir='{run_dir}'", *overrides]), run_dir).code
        return code, capsys.readouterr().out, json.loads((run_dir / "report.json").read_text())

    code, said, report = asked("data=reside_indoor", f"data.root='{tmp_path / 'set'}'")
    assert code == 0
    assert "What is here is sound" in said
    assert (report["set"], report["pairs"], report["expected"]) == ("reside_indoor", 6, 500)
    assert {"layout", "problems"} <= set(report)
    assert said.startswith((tmp_path / "run" / "report.txt").read_text().strip())
    with Image.open(tmp_path / "run" / "contact_sheet.png") as sheet:
        assert sheet.width > 100
    (tmp_path / "set" / "hazy" / "1401_1.png").write_bytes(b"x" * 99)
    code, said, report = asked("data=reside_indoor", f"data.root='{tmp_path / 'set'}'")
    assert code == 1
    assert "1 unreadable" in said
    assert [p["kind"] for p in report["problems"]] == ["incomplete", "incomplete", "unreadable"]  # type: ignore[attr-defined]
    code, _, report = asked("data=folder", f"data.hazy='{tmp_path / 'set' / 'hazy'}'", f"data.clear='{tmp_path / 'set' / 'gt'}'")
    assert (code, report["expected"]) == (1, None)
    minis.rtts(tmp_path / "rtts")
    code, _, report = asked("data=rtts", f"data.root='{tmp_path / 'rtts'}'")
    assert (code, report["pairs"], report["expected"]) == (0, 3, 4322)
    with pytest.raises(UsageError, match="made on the fly"):
        asked("data=synthetic")


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Paths as the shell gives them, exit codes, and the decoder's stamp beside the report."""
    root = tmp_path / "my set, (old) = ~"
    minis.flat_sots(root)
    words = ["data=reside_indoor", f"data.root={root}", f"run_dir={tmp_path / 'run'}"]
    assert run_verb("doctor", doctor.job, words) == 0
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["decoder"] == decoder_stamp()
    (root / "gt" / "1401.png").unlink()
    assert run_verb("doctor", doctor.job, words) == 1
    (root / "gt").rename(root / "sharp")
    with pytest.raises(UsageError, match=r"no test pairs found(.|\n)*Renamed\?"):
        run_verb("doctor", doctor.job, words)
    with pytest.raises(UsageError, match="no such file or folder"):
        run_verb("doctor", doctor.job, ["data=reside_indoor", f"data.root={tmp_path / 'none'}"])
    capsys.readouterr()
