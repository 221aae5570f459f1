from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

import data_minis as minis
from dehaze_zoo.data.images import read_rgb
from dehaze_zoo.data.layouts import Pair, Problem
from dehaze_zoo.data.pairs import (
    Augment,
    JudgedPairs,
    TrainingPairs,
    _finished_by_torch,
    as_tensor,
    centre,
    collate_crops,
    finished,
    padded,
    read_pair,
)
from dehaze_zoo.data.samplers import Token, generator
from dehaze_zoo.data.workers import set_up_worker
from dehaze_zoo.errors import ImageError, UsageError

MARK = np.arange(12).reshape(3, 4)


def pair(tmp_path: Path, size: tuple[int, int] = (24, 32), clear_size: tuple[int, int] | None = None) -> Pair:
    hazy = minis.picture(tmp_path / "h.png", 0, size)
    return Pair(hazy, minis.picture(tmp_path / "c.png", 0, clear_size or size), "c", "h.png")


def variants(turns: str, draws: int = 4000) -> Counter[bytes]:
    rng = np.random.default_rng(0)
    return Counter(str(Augment(0, turns).turn([MARK], rng)[0].tolist()).encode() for _ in range(draws))


def test_turns_have_the_published_distributions() -> None:
    eight = {str(np.rot90(m, k).tolist()).encode() for m in (MARK, MARK[:, ::-1]) for k in range(4)}
    gunet = variants("gunet")
    assert set(gunet) == eight
    assert all(abs(count / 4000 - 1 / 8) < 0.03 for count in gunet.values())
    nine = [MARK, MARK, MARK[::-1], MARK[:, ::-1], *(np.rot90(MARK, k) for k in (1, 2, 3)), np.rot90(MARK[::-1]), np.rot90(MARK[:, ::-1])]
    expected = Counter(str(m.tolist()).encode() for m in nine)
    mprnet = variants("mprnet")
    assert set(mprnet) == set(expected)
    assert all(abs(mprnet[key] / 4000 - count / 9) < 0.03 for key, count in expected.items())
    assert set(variants("flip")) == {str(m.tolist()).encode() for m in (MARK, MARK[:, ::-1])}
    assert set(variants("none")) == {str(MARK.tolist()).encode()}
    with pytest.raises(UsageError, match="Did you mean gunet"):
        Augment(0, "gunett")


def test_crops_snap_to_edges_as_often_as_published() -> None:
    rng, n = np.random.default_rng(0), 20000
    tops = np.array([Augment(0.1).window(400, 512, 256, rng) for _ in range(n)])
    for side, offsets in ((400, tops[:, 0]), (512, tops[:, 1])):
        snap = 0.1 * 256 / side
        for edge in (0, side - 256):
            expected = snap / 2 + (1 - snap) / (side - 256 + 1)
            assert abs((offsets == edge).mean() - expected) < 0.006
        assert offsets.min() == 0
        assert offsets.max() == side - 256
    assert {Augment(0.1).window(256, 256, 256, rng) for _ in range(20)} == {(0, 0)}


def test_hazy_and_clear_are_cut_alike(tmp_path: Path) -> None:
    dataset = TrainingPairs([pair(tmp_path)], 16, Augment(), seed=3)
    whole = read_rgb(tmp_path / "c.png")
    for position in range(20):
        sample = dataset[Token(0, position, 0)]
        assert sample["hazy"].shape == (3, 16, 16)
        assert sample["hazy"].dtype == torch.float32
        assert torch.equal(sample["hazy"], sample["clear"])  # the same picture twice here
        assert sample["name"] == "h.png"
        found = any(
            torch.equal(as_tensor(np.rot90(whole[y : y + 16, x : x + 16][:, ::m], k)), sample["clear"])
            for y in range(9) for x in range(17) for m in (1, -1) for k in range(4)
        )  # fmt: skip
        assert found
        again = dataset[Token(0, position, 0)]
        assert torch.equal(again["hazy"], sample["hazy"])
    assert not torch.equal(dataset[Token(0, 0, 0)]["hazy"], dataset[Token(1, 0, 0)]["hazy"])


@pytest.mark.parametrize("turns", ["gunet", "mprnet", "none"])
@pytest.mark.parametrize("bits", [8, 16, "both"])
def test_what_the_device_finishes_is_what_a_worker_would_give(tmp_path: Path, turns: str, bits: int | str) -> None:
    """To the bit, for bytes, floats and batches of both, and where the crop is wider than the picture."""
    pairs = [pair(tmp_path, (20, 33)), pair(tmp_path / "wide", (9, 40))]
    for number in {8: (), 16: (0, 1), "both": (1,)}[bits]:  # type: ignore[index]
        for path in (pairs[number].hazy, pairs[number].clear):
            wide = np.random.default_rng(1).integers(0, 65536, read_rgb(path).shape, dtype=np.uint16)
            cv2.imwrite(str(path), wide)
    dataset = TrainingPairs(pairs, 16, Augment(turns=turns), seed=3)
    tokens = [Token(0, position, position % 2) for position in range(24)]
    plain = default_collate([dataset[token] for token in tokens])
    dataset.raw = True
    raw = collate_crops([dataset[token] for token in tokens])
    assert raw["crops"].dtype == (torch.uint8 if bits == 8 else torch.float32)
    sent: Any = {"collate_fn": collate_crops, "worker_init_fn": set_up_worker, "sampler": tokens}
    (shared,) = DataLoader(dataset, len(tokens), num_workers=1, **sent)
    by_torch = _finished_by_torch(raw["crops"], raw["turn"])
    for done in (finished(raw), finished(shared), {"hazy": by_torch[0], "clear": by_torch[1], "name": raw["name"]}):
        assert done["name"] == plain["name"]
        for key in ("hazy", "clear"):
            assert torch.equal(done[key], plain[key])
            assert done[key].is_contiguous()


def test_small_pictures_are_reflected(tmp_path: Path) -> None:
    sample = TrainingPairs([pair(tmp_path, (5, 40))], 16, Augment(0, "none"), 0)[Token(0, 0, 0)]
    rows = sample["hazy"][0]
    assert sample["hazy"].shape == (3, 16, 16)
    expected = [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1]
    assert all(torch.equal(rows[i], rows[expected[i]]) for i in range(16))
    assert padded(np.ones((1, 1, 3)), 4).shape == (4, 4, 3)


def test_judged_pairs_are_whole_or_their_centre(tmp_path: Path) -> None:
    pairs = [pair(tmp_path)]
    assert JudgedPairs(pairs)[0]["hazy"].shape == (3, 24, 32)
    cut = JudgedPairs(pairs, crop=28)[0]["clear"]
    assert torch.equal(cut, JudgedPairs(pairs)[0]["clear"][:, :, 2:30])
    assert centre(MARK, 2).tolist() == [[1, 2], [5, 6]]


def test_resides_clear_pictures_lose_their_border(tmp_path: Path) -> None:
    hazy, clear = read_pair(pair(tmp_path, (460, 620), (480, 640)))
    assert hazy.shape == clear.shape
    np.testing.assert_array_equal(clear, read_rgb(tmp_path / "c.png")[10:-10, 10:-10])


def test_bad_pairs_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"h.png.*c.png differ in size: 32x24 and 34x24"):
        read_pair(pair(tmp_path, (24, 32), (24, 34)))
    broken = pair(tmp_path)
    broken.clear.write_bytes(broken.clear.read_bytes()[:100])
    for dataset, key in ((TrainingPairs([broken], 8, Augment(), 0), Token(0, 0, 0)), (JudgedPairs([broken]), 0)):
        with pytest.raises(ImageError) as caught:
            dataset[key]  # type: ignore[index]
        assert caught.value.file == str(broken.clear)
    lonely = JudgedPairs([], problems=[Problem("missing_partner", tmp_path / "x.png", "it has no clear picture")])
    assert len(lonely) == 1
    with pytest.raises(ImageError, match=r"x.png: it has no clear picture"):
        lonely[0]


def test_streams_are_apart() -> None:
    draws = {generator(s, name, *where).random() for s in (0, 1, -1) for name in ("a", "b") for where in ((), (0,), (1,), (0, 1))}
    assert len(draws) == 24
    assert generator(5, "a", 1).random() == generator(5, "a", 1).random()
