from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from dehaze_zoo.data.grid import error_map, picture_grid, write_grid
from dehaze_zoo.data.images import read_picture, read_rgb, write_picture
from dehaze_zoo.errors import ImageError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (7, 9, 3), dtype=np.uint8)
WIDE = RNG.integers(0, 65536, (7, 9, 4), dtype=np.uint16)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def png16(pixels: np.ndarray, kind: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp", ".ppm"])
def test_rgb_comes_back_exactly(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a b{suffix}", Image.fromarray(RGB), **({"lossless": True} if suffix == ".webp" else {}))
    picture = read_picture(path)
    assert picture.pixels.dtype == np.float32
    np.testing.assert_array_equal(read_rgb(path), RGB)
    np.testing.assert_allclose(picture.pixels, RGB / 255, atol=1e-7)
    out = tmp_path / "out" / path.name
    write_picture(out, picture.pixels, picture)
    with Image.open(out) as again, Image.open(path) as first:
        assert (again.format, again.mode, again.size) == (first.format, "RGB", (9, 7))
    if suffix != ".webp":  # written lossy
        np.testing.assert_array_equal(read_rgb(out), RGB)
    assert [p.name for p in out.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_modes(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(WIDE[..., 0])
    elif mode == "P":
        image = Image.fromarray(RGB // 64 * 64).quantize(16)
        image.info["transparency"] = 3
    else:
        image = Image.fromarray(np.dstack([RGB, RGB[..., 0]])).convert(mode)
    path = save(tmp_path / "x.png", image, **({"transparency": 3} if mode == "P" else {}))
    picture = read_picture(path)
    assert picture.pixels.shape == (7, 9, 3)
    assert picture.grey == (mode in ("L", "LA", "1", "I;16"))
    assert (picture.alpha is not None) == (mode in ("LA", "RGBA", "P"))
    write_picture(tmp_path / "y.png", picture.pixels, picture)
    with Image.open(tmp_path / "y.png") as written:
        assert written.mode == {"P": "RGBA", "1": "L"}.get(mode, mode)
    again = read_picture(tmp_path / "y.png")
    np.testing.assert_array_equal(again.pixels, picture.pixels)
    if picture.alpha is not None:
        assert again.alpha is not None
        np.testing.assert_array_equal(again.alpha, picture.alpha)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bits_are_kept(tmp_path: Path, kind: int, channels: int, suffix: str) -> None:
    path, out = tmp_path / "x.png", tmp_path / f"y{suffix}"
    path.write_bytes(png16(WIDE[..., :channels], kind))
    picture = read_picture(path)
    assert (picture.bits, picture.grey) == (16, channels < 3)
    colours = channels - (channels in (2, 4))
    np.testing.assert_array_equal(np.rint(picture.pixels * 65535), np.repeat(WIDE[..., :colours], 3 // colours, axis=2))
    write_picture(out, picture.pixels, picture)
    again = read_picture(out)
    assert (again.bits, again.grey) == (16, channels < 3 and (suffix, channels) != (".tiff", 2))
    np.testing.assert_array_equal(again.pixels, picture.pixels)
    assert (again.alpha is None) == (picture.alpha is None)
    pair = read_rgb(out)
    assert pair.dtype == np.float32
    np.testing.assert_array_equal(pair, picture.pixels)


def test_16_bit_ppm(tmp_path: Path) -> None:
    path = tmp_path / "x.ppm"
    path.write_bytes(b"P6\n9 7\n65535\n" + WIDE[..., :3].astype(">u2").tobytes())
    picture = read_picture(path)
    assert picture.bits == 16
    write_picture(tmp_path / "y.ppm", picture.pixels, picture)
    assert (tmp_path / "y.ppm").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".webp"])
@pytest.mark.parametrize("wide", [False, True])
def test_profile_and_exif_are_kept(tmp_path: Path, suffix: str, wide: bool) -> None:
    exif = Image.Exif()
    exif[271], exif[274] = "a maker", 6
    path = save(tmp_path / f"x{suffix}", Image.fromarray(RGB), exif=exif.tobytes(), icc_profile=ICC)
    picture = read_picture(path)
    assert picture.icc == ICC
    if wide:
        picture = replace(picture, colours=picture.colours.astype(np.uint16) * 257)
    write_picture(tmp_path / f"y{suffix}", picture.pixels, picture)
    with Image.open(tmp_path / f"y{suffix}") as written:
        assert written.info["icc_profile"] == ICC
        assert written.getexif()[271] == "a maker"
        if suffix == ".tiff":  # Pillow turns a TIFF when reading
            assert (written.size, written.getexif().get(274)) == ((7, 9), None)
        else:
            assert (written.size, written.getexif()[274]) == ((9, 7), 6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pairs_are_upright_and_predictions_as_stored(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[274] = orientation
    path = save(tmp_path / "x.png", Image.fromarray(RGB), exif=exif)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_rgb(path), np.asarray(ImageOps.exif_transpose(image)))
    np.testing.assert_array_equal(np.rint(read_picture(path).pixels * 255), RGB)


def test_jpeg_keeps_its_subsampling_and_cmyk_becomes_rgb(tmp_path: Path) -> None:
    smooth = Image.fromarray(RGB).resize((64, 48), Image.Resampling.BICUBIC)
    path = save(tmp_path / "x.jpg", smooth, subsampling=2)
    picture = read_picture(path)
    write_picture(tmp_path / "y.jpg", picture.pixels, picture)
    assert read_picture(tmp_path / "y.jpg").subsampling == picture.subsampling == 2
    path = save(tmp_path / "c.jpg", smooth.convert("CMYK"), icc_profile=ICC)
    picture = read_picture(path)
    assert picture.icc is None
    assert np.abs(picture.pixels - np.asarray(smooth) / 255).mean() < 0.05
    write_picture(tmp_path / "d.jpg", picture.pixels, picture)
    with Image.open(tmp_path / "d.jpg") as written:
        assert (written.format, written.mode) == ("JPEG", "RGB")


def test_other_suffixes_and_gif(tmp_path: Path) -> None:
    picture = read_picture(save(tmp_path / "x.jpg", Image.fromarray(RGB)))
    write_picture(tmp_path / "x_alpha.png", picture.pixels, picture)
    with Image.open(tmp_path / "x_alpha.png") as written:
        assert written.format == "PNG"
    picture = read_picture(save(tmp_path / "x.gif", Image.fromarray(RGB)))
    write_picture(tmp_path / "y.gif", picture.pixels, picture)
    assert np.abs(read_picture(tmp_path / "y.gif").pixels - picture.pixels).max() < 0.1


def test_results_are_clipped_and_rounded(tmp_path: Path) -> None:
    write_picture(tmp_path / "x.png", np.array([[[-1.0, 2.0, 0.5019]]]))
    np.testing.assert_array_equal(read_rgb(tmp_path / "x.png"), [[[0, 255, 128]]])


def damaged(kind: str, path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole, path.suffix[1:].upper().replace("JPG", "JPEG"))
    if kind == "cut":
        path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("a poem")
    elif kind == "bomb":
        head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
        path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + b"\0\0\0\x04IDATxxxx")
    elif kind == "animated":
        frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("x.png", "cut", "damaged"),
        ("x.jpg", "cut", "damaged"),
        ("x.tiff", "cut", "damaged"),
        ("x.png", "empty", "0 bytes"),
        ("x.png", "text", "not a picture"),
        ("x.png", "bomb", "too large"),
        ("x.gif", "animated", "2 frames"),
        ("x.webp", "animated", "2 frames"),
        ("x.png", "missing", "could not be read"),
        ("x.png", "folder", "folder"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, kind: str, says: str) -> None:
    path = tmp_path / name
    damaged(kind, path) if kind != "missing" else None
    for read in (read_picture, read_rgb):
        with pytest.raises(ImageError, match=says) as caught:
            read(path)
        assert caught.value.file == str(path)


def test_cut_16_bit_and_floating_point(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png16(WIDE[..., :3], 2)[:200])
    with pytest.raises(ImageError, match="damaged"):
        read_picture(tmp_path / "x.png")
    path = save(tmp_path / "f.tiff", Image.fromarray(RNG.random((4, 4)).astype(np.float32)))
    with pytest.raises(ImageError, match="known range"):
        read_picture(path)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match="written"):
        write_picture(tmp_path / "file" / "x.png", np.zeros((2, 2, 3)))


def test_grid(tmp_path: Path) -> None:
    rows: list[list[tuple[str, np.ndarray]]] = [
        [("hazy", RGB), ("clear", RGB.astype(np.float32) / 255)],
        [("a rather long label for it", RGB)],
    ]
    sheet = picture_grid(rows)
    assert sheet.shape == (2 * (7 + 18) + 3 * 4, 2 * 9 + 3 * 4, 3)
    np.testing.assert_array_equal(sheet[22:29, 4:13], RGB)
    np.testing.assert_array_equal(sheet[22:29, 17:26], RGB)
    write_grid(tmp_path / "grid.png", rows)
    np.testing.assert_array_equal(read_rgb(tmp_path / "grid.png"), sheet)
    wide = picture_grid([[("", np.zeros((100, 1000, 3), np.uint8))]])
    assert wide.shape == (48 + 18 + 8, 480 + 8, 3)
    with pytest.raises(ValueError, match="at least one"):
        picture_grid([])


def test_error_map_grows_with_the_error() -> None:
    clear = np.zeros((1, 4, 3), np.float32)
    restored = clear + np.array([0.0, 0.1, 0.25, 1.0])[None, :, None]
    shown = error_map(restored, clear).astype(int).sum(axis=2)[0]
    assert shown[0] < shown[1] < shown[2] == shown[3]


def test_a_16_bit_tiff_is_turned_as_pillow_turns_an_8_bit_one(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png16(WIDE[..., :3], 2))
    exif = Image.Exif()
    exif[274] = 6
    picture = replace(read_picture(tmp_path / "x.png"), exif=exif.tobytes())
    write_picture(tmp_path / "x.tiff", picture.pixels, picture)
    turned = np.rot90(picture.pixels, -1)
    np.testing.assert_array_equal(read_picture(tmp_path / "x.tiff").pixels, turned)
    np.testing.assert_array_equal(read_rgb(tmp_path / "x.tiff"), turned)
