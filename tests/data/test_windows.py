"""Windows are the pixels of the careful reader, of every kind of file, and damage is told by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, PngImagePlugin

from dehaze_zoo.data import windows
from dehaze_zoo.data.images import read_rgb
from dehaze_zoo.data.windows import FileWindow
from dehaze_zoo.errors import ImageError

HEIGHT, WIDTH = 83, 117


def saved(path: Path, mode: str = "RGB", **options: Any) -> Path:
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(int)
    noisy = np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).convert(mode).save(path, **options)
    return path


def text(key: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text(key, "x")
    return info


EXIF = Image.Exif()
EXIF[274] = 6
FILES: dict[str, tuple[str, str, dict[str, Any], bool]] = {  # suffix, mode, options, whether the fast way reads it
    "png": ("png", "RGB", {}, True),
    "png, commented": ("png", "RGB", {"pnginfo": text("Software")}, True),
    "png, turned": ("png", "RGB", {"exif": EXIF}, False),
    "png, grey": ("png", "L", {}, False),
    "png, alpha": ("png", "RGBA", {}, False),
    "png, palette": ("png", "P", {}, False),
    "jpeg 4:2:0": ("jpg", "RGB", {"subsampling": 2, "quality": 80}, True),
    "jpeg 4:2:2": ("jpg", "RGB", {"subsampling": 1, "quality": 60}, True),
    "jpeg 4:4:4": ("jpg", "RGB", {"subsampling": 0, "quality": 95}, True),
    "jpeg, progressive": ("jpg", "RGB", {"progressive": True}, False),
    "jpeg, grey": ("jpg", "L", {}, False),
    "jpeg, CMYK": ("jpg", "CMYK", {}, False),
    "jpeg, turned": ("jpg", "RGB", {"exif": EXIF}, False),
    "jpeg, restarts": ("jpg", "RGB", {"restart_marker_rows": 1}, True),
    "bmp": ("bmp", "RGB", {}, False),
    "tiff": ("tif", "RGB", {}, False),
}


@pytest.mark.parametrize("name", FILES)
def test_every_window_is_cut_from_the_careful_readers_pixels(tmp_path: Path, name: str) -> None:
    suffix, mode, options, fast = FILES[name]
    path = saved(tmp_path / f"x.{suffix}", mode, **options)
    whole, window = read_rgb(path), FileWindow(path)
    data = path.read_bytes()
    assert bool(windows._png(data) or windows._jpeg(data)) == fast
    assert window.size == whole.shape[:2]
    for bottom in range(1, whole.shape[0] + 1):
        cut = window.cut(max(0, bottom - 7), 20, min(7, bottom), 30)
        assert cut.dtype == whole.dtype
        assert np.array_equal(cut, whole[max(0, bottom - 7) : bottom, 20:50])
    assert np.array_equal(window.cut(0, 0, 500, 500), whole)


def test_sixteen_bits_stay_floats(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "x.png"), np.arange(40 * 50 * 3, dtype=np.uint16).reshape(40, 50, 3) * 10)
    cut = FileWindow(tmp_path / "x.png").cut(3, 4, 5, 6)
    assert cut.dtype == np.float32
    assert np.array_equal(cut, read_rgb(tmp_path / "x.png")[3:8, 4:10])


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_damage_is_told_as_the_careful_reader_tells_it(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"x.{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="is damaged") as caught:
        FileWindow(path).cut(0, 0, 8, 8)
    assert caught.value.file == str(path)
    path.write_bytes(b"")
    with pytest.raises(ImageError, match="is empty"):
        FileWindow(path)
    with pytest.raises(ImageError, match="could not be read"):
        FileWindow(tmp_path / "none.png")


def test_a_flipped_bit_in_a_png_is_seen_before_its_rows_are_used(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.png")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    assert windows._png(bytes(data)) is None


def test_another_libraries_pixels_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A simplejpeg whose libjpeg-turbo decodes otherwise is passed over."""
    path = saved(tmp_path / "x.jpg")
    windows._turbo_is_exact.cache_clear()
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **options: decode(*args, **options) ^ 1)
    assert windows._jpeg(path.read_bytes()) is None
    assert np.array_equal(FileWindow(path).cut(0, 0, HEIGHT, WIDTH), read_rgb(path))
    windows._turbo_is_exact.cache_clear()
