"""Videos: frames restored in place and time, audio kept, flicker held down, a broken frame named."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dehaze_zoo.cli import compose
from dehaze_zoo.inference.deploy import Form
from dehaze_zoo.inference.predict import NOT_OF_VIDEOS, predict
from dehaze_zoo.inference.video import Steady

av = pytest.importorskip("av", reason="needs the extra video")


def film(path: Path, frames: int = 12, size: tuple[int, int] = (48, 64), audio: bool = True) -> None:
    """A bright square wandering over a gradient, at uneven times, with a tone."""
    with av.open(str(path), "w") as file:
        codec = {".webm": "libvpx-vp9", ".avi": "mjpeg"}.get(path.suffix, "mpeg4")
        video = file.add_stream(codec, rate=10)
        video.height, video.width, video.pix_fmt = *size, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        video.gop_size = 1
        video.codec_context.time_base = Fraction(1, 1000)
        tone = file.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48000, layout="mono") if audio else None
        for i in range(frames):
            pixels = np.tile(np.linspace(60, 180, size[1])[None, :, None], (size[0], 1, 3)).astype(np.uint8)
            pixels[10:20, 3 * i : 3 * i + 10] = 230
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = 100 * i + (30 if i > 5 else 0), Fraction(1, 1000)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if tone is not None:
            for i in range(20):
                sound = av.AudioFrame.from_ndarray(np.sin(np.arange(960) / 20)[None].astype(np.float32) / 4, format="fltp", layout="mono")
                sound.sample_rate, sound.pts, sound.time_base = 48000, 960 * i, Fraction(1, 48000)
                file.mux(tone.encode(sound))
            file.mux(tone.encode(None))


def read(path: Path) -> tuple[list[Any], list[float], list[bytes]]:
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    with av.open(str(path)) as file:
        sound = [bytes(packet) for packet in file.demux(file.streams.audio)] if file.streams.audio else []
    return [frame.to_ndarray(format="rgb24") for frame in frames], [frame.time for frame in frames], [s for s in sound if s]


def run(source: Path, output: Path, model: str = "identity", *more: str) -> tuple[int, Any]:
    cfg = compose("predict", [f"model={model}", "trainer=cpu", *more])
    cfg.input, cfg.output = str(source), str(output)
    return predict(cfg, output / "run").code, json.loads((output / "report.json").read_text())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".mov"])
def test_frames_times_and_audio_are_kept(suffix: str, tmp_path: Path) -> None:
    film(tmp_path / f"a{suffix}")
    code, report = run(tmp_path / f"a{suffix}", tmp_path / "out")
    assert (code, report["done"], report["failed"]) == (0, 1, [])
    (old, old_times, old_sound), (new, new_times, new_sound) = read(tmp_path / f"a{suffix}"), read(tmp_path / "out" / f"a{suffix}")
    assert len(new) == len(old) == 12
    assert np.allclose(new_times, old_times, atol=2e-3)
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(old, new, strict=True)) < 4
    assert new_sound == old_sound != []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"a{suffix}", "report.json"]


def test_a_network_changes_the_frames_and_odd_sizes_pass(tmp_path: Path) -> None:
    film(tmp_path / "a.mkv", frames=3, size=(46, 62), audio=False)
    assert run(tmp_path / "a.mkv", tmp_path / "out", "dcp")[0] == 0
    old, new = read(tmp_path / "a.mkv")[0], read(tmp_path / "out" / "a.mkv")[0]
    assert np.abs(old[1].astype(int) - new[1]).mean() > 5


def test_a_broken_frame_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    film(tmp_path / "a.avi", audio=False)
    data = bytearray((tmp_path / "a.avi").read_bytes())
    sizes = {i: int.from_bytes(data[i + 4 : i + 8], "little") for i in range(len(data) - 8) if data[i : i + 4] == b"00dc"}
    start, size = [(i + 8, size) for i, size in sizes.items() if 100 < size < 10_000][5]  # AVI has empty frames between
    data[start : start + size] = bytes(size)
    (tmp_path / "a.avi").write_bytes(data)
    code, report = run(tmp_path / "a.avi", tmp_path / "out")
    assert code == 1
    assert "frame" in report["failed"][0]["why"]
    assert "a.avi" in report["failed"][0]["file"]
    assert len(read(tmp_path / "out" / "a.avi")[0]) >= 10


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_text("not a video")
    film(tmp_path / "in" / "b.mp4", frames=2)
    code, report = run(tmp_path / "in", tmp_path / "out")
    assert (code, report["done"], len(report["failed"])) == (1, 1, 1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.mp4", "report.json"]


def test_unknown_codecs_and_cut_videos_are_named_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    film(tmp_path / "a.mkv", frames=30)
    whole = (tmp_path / "a.mkv").read_bytes()
    for name, data in (
        ("codec", whole.replace(b"V_MPEG4", b"V_XPEG4")),
        ("cut", whole[: len(whole) // 3]),
        ("sound", whole.replace(b"A_AAC", b"A_XXC")),
    ):
        (tmp_path / "in" / f"{name}.mkv").write_bytes(data)
    code, report = run(tmp_path / "in", tmp_path / "out")
    said = {Path(entry["file"]).stem: entry["why"] for entry in report["failed"]}
    assert (code, len(report["failed"])) == (1, 3)
    assert "codec that is not known" in said["codec"]
    assert said["cut"].startswith("is cut off: it ends after")
    assert said["sound"].startswith("audio 1 could not be kept")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mkv")) == ["cut.mkv", "sound.mkv"]
    assert 0 < len(read(tmp_path / "out" / "cut.mkv")[0]) < 20
    assert len(read(tmp_path / "out" / "sound.mkv")[0]) == 30


def test_flicker_is_held_down_and_a_cut_is_a_cut() -> None:
    random, steady = np.random.default_rng(0), Steady()
    hazy = np.tile(np.linspace(90, 160, 96)[None, :, None], (64, 1, 3)).astype(np.uint8)
    raw = [(hazy * (0.8 + 0.1 * random.random())).astype(np.uint8) for _ in range(40)]
    held = [steady(hazy, frame) for frame in raw]
    flicker = [np.abs(np.diff([frame.mean() for frame in frames])).mean() for frames in (raw, held)]
    assert flicker[1] < 0.4 * flicker[0]
    assert abs(np.mean(held) - np.mean(raw)) < 2
    other = hazy // 3
    assert np.array_equal(steady(other, other // 2), other // 2)  # nothing of the scene before


def test_forms_and_notes_are_accounted_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film(tmp_path / "a.mp4", frames=3, size=(40, 400), audio=False)
    code, report = run(tmp_path / "a.mp4", tmp_path / "out", "gunet_t", "optimize=bf16", "tile=320", "compare=true")
    assert code == 0
    assert report["form"]["name"] == "bf16"
    assert report["form"]["differs_by"] > 0
    assert [entry["note"].split(",")[0] for entry in report["notes"]] == ["in tiles of 320 pixels", NOT_OF_VIDEOS.split(",")[0]]
    said = capsys.readouterr().out
    assert "optimize=bf16: differs" in said
    assert NOT_OF_VIDEOS in said


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_form_hears_how_many_frames_are_to_come(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    monkeypatch.setattr(Form, "consider", lambda self, took, left, picture, side: heard.append(left))
    film(tmp_path / f"a{suffix}", audio=False)
    assert run(tmp_path / f"a{suffix}", tmp_path / "out")[0] == 0
    assert len(heard) == 12
    assert heard == sorted(heard, reverse=True)
    assert abs(heard[0] - 11) <= 1
    assert heard[-1] <= 1
