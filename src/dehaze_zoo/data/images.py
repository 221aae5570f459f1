"""Pictures from disk and back: every mode that users bring, as RGB floats, and results written in the form of what was read.

Pillow decodes everything of 8 bits (decoders differ by up to tenths of a dB in PSNR, so there is only one); OpenCV decodes
16-bit colour, which Pillow cuts to 8 bits.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from dehaze_zoo.errors import ImageError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM")  # a closed list: Pillow would hand EPS files to Ghostscript
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".webp": "WEBP"}
SUFFIXES |= {".gif": "GIF", ".ppm": "PPM", ".pgm": "PPM"}
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow's own grey
_ORIENTATION = 274
_TIFF_TEXTS = (270, 271, 272, _ORIENTATION, 305, 306, 315, 33432)  # the tags of a TIFF that describe the picture, not its storage

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture: colours as stored (EXIF orientation not applied, but for TIFF) and what writing back in the same form needs."""

    pixels: Floats
    """(H, W, 3) RGB in [0, 1]; grey is repeated."""
    format: str
    """Pillow's name: PNG, JPEG, ..."""
    suffix: str
    """Of the file, lower case, with its dot."""
    grey: bool
    bits: int
    """8 or 16 a channel."""
    alpha: Floats | None
    """(H, W) in [0, 1]."""
    icc: bytes | None
    exif: bytes | None
    subsampling: int
    """Of a JPEG's chroma, Pillow's number: 0 is 4:4:4."""


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read one picture whole; pixels float32 (H, W, 3) RGB in [0, 1], stored orientation (a TIFF upright: its decoders turn it).

    1-bit, palette, CMYK and YCbCr pictures become RGB or grey. Raises ImageError for what is missing, damaged, animated, of a form
    without a known range (floating point, 32 bit), or larger than Pillow's limit of about 179 million pixels.
    """
    image, stored = _decode(_bytes_of(Path(path)), Path(path))
    return _picture(image, stored, Path(path).suffix.lower())


def from_pil(image: Image.Image) -> Picture:
    """A PIL image as read_picture would have it. Raises ImageError for a mode without a known range (I, F)."""
    try:
        return _picture(image, _stored(image), "")
    except OSError as error:
        raise ImageError("the image", f"is damaged: {error}") from error
    except _UnknownForm as error:
        raise ImageError("the image", f"has pixels of a kind without a known range ({image.mode})", "Convert it to L or RGB.") from error


def _picture(image: Image.Image, stored: Array, suffix: str) -> Picture:
    colours, alpha = _split(stored)
    scale = np.float32(65535 if stored.dtype == np.uint16 else 255)
    icc = image.info.get("icc_profile")
    return Picture(
        pixels=np.repeat(colours, 3 // colours.shape[2], axis=2) / scale,
        format="JPEG" if image.format == "MPO" else str(image.format),
        suffix=suffix,
        grey=colours.shape[2] == 1,
        bits=16 if stored.dtype == np.uint16 else 8,
        alpha=None if alpha is None else alpha / scale,
        icc=icc if image.mode != "CMYK" else None,  # a profile of inks does not describe the RGB that we hold
        exif=_exif(image),
        subsampling=max(0, JpegImagePlugin.get_sampling(image)) if image.format in ("JPEG", "MPO") else 0,
    )


def read_rgb(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8] | Floats:
    """Read one picture of a pair upright (EXIF orientation applied), alpha dropped: (H, W, 3) RGB.

    uint8 in 0..255, or float32 in [0, 1] where the file holds 16 bits a channel. Raises ImageError as read_picture does.
    """
    return read_bytes(_bytes_of(Path(path)), path)


def read_bytes(data: bytes, name: str | os.PathLike[str]) -> npt.NDArray[np.uint8] | Floats:
    """read_rgb of a file's content; ``name`` is what an ImageError calls it."""
    image, stored = _decode(data, Path(name))
    colours = _upright(_split(stored)[0], image.getexif().get(_ORIENTATION, 1))
    colours = np.repeat(colours, 3 // colours.shape[2], axis=2)
    return colours / np.float32(65535) if stored.dtype == np.uint16 else np.ascontiguousarray(colours)


def write_picture(path: str | os.PathLike[str], pixels: Array, like: Picture | None = None) -> None:
    """Write (H, W, 3) RGB floats, clipped to [0, 1], in the form of ``like``: format, bit depth, alpha, grey, ICC profile, EXIF.

    The format is that of ``like`` where the suffix is the same, else what the suffix says (PNG for an unknown one). Grey is the
    luma (BT.601). What cannot be kept: 1-bit becomes 8-bit grey; a palette becomes RGB or RGBA (in a GIF, the 256 best colours);
    CMYK becomes RGB, without its profile. JPEG has quality 95 and the chroma subsampling of ``like``. Written aside and renamed.
    Raises ImageError where the file cannot be written.
    """
    path = Path(path)
    same = like is not None and like.suffix == path.suffix.lower()
    form = like.format if like is not None and same else SUFFIXES.get(path.suffix.lower(), "PNG")
    bits = like.bits if like is not None and form in ("PNG", "TIFF", "PPM") else 8
    stored = _quantised(pixels, like, bits, with_alpha=form in ("PNG", "TIFF", "WEBP", "GIF"))
    try:
        data = _encode(stored, form, like)
    except (OSError, ValueError) as error:
        raise ImageError(path, f"could not be encoded as {form}: {error}", "Give the output a .png name.") from error
    write_aside(path, data)


def to_pil(pixels: Array, like: Picture) -> Image.Image:
    """(H, W, 3) RGB floats, clipped to [0, 1], as a PIL image in the form of ``like``: L, LA, RGB, RGBA, or I;16 for 16-bit grey.

    Other 16-bit pictures become 8-bit, for PIL holds no more; ICC profile and EXIF are in ``info``.
    """
    bits = like.bits if like.grey and like.alpha is None else 8
    image = _image(_quantised(pixels, like, bits, with_alpha=True))
    image.info.update(_about(like))
    return image


def _quantised(pixels: Array, like: Picture | None, bits: int, with_alpha: bool) -> Array:
    stored = np.asarray(pixels, dtype=np.float32)
    if like is not None and like.grey:
        stored = (stored @ LUMA)[..., None]
    if with_alpha and like is not None and like.alpha is not None and like.alpha.shape == stored.shape[:2]:
        stored = np.concatenate([stored, like.alpha[..., None]], axis=2)
    top = 65535 if bits == 16 else 255
    return np.asarray(np.rint(np.clip(stored, 0, 1) * np.float32(top)), dtype=np.uint16 if bits == 16 else np.uint8)


def write_aside(path: Path, data: bytes) -> None:
    """Write a file under a passing name beside its place and rename it, so that no half-written file bears the name."""
    aside = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(data)
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise ImageError(path, f"could not be written: {error.strerror or error}") from error


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(path, "is a folder" if path.is_dir() else f"could not be read: {error.strerror or error}") from error


def _decode(data: bytes, path: Path) -> tuple[Image.Image, Array]:
    """The opened picture, for what it says of itself, and its pixels as stored: (H, W, C) uint8 or uint16, C: grey, +alpha, RGB, +alpha."""
    if not data:
        raise ImageError(path, "is empty (0 bytes)", "Copy or download it again.")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(path, f"is not a picture of a kind that is read here ({', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"is too large: {error}", "Cut it into parts.") from error
    except Exception as error:  # decoders raise anything at all on damaged files
        raise ImageError(path, f"is damaged: {error}", "Copy or download it again.") from error
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a phone's MPO is one photograph with extras behind it
    if frames > 1:
        raise ImageError(path, f"holds {frames} frames or pages, not one picture", "Save each as a picture of its own.")
    try:
        mode, raw = image.mode, _raw_mode(image)
        image.load()  # also where OpenCV decodes: Pillow notices a file that was cut off
        return image, _decode_wide(data, raw) if ";16" in raw and image.mode in ("RGB", "RGBA") else _stored(image)
    except ImageError:
        raise
    except _UnknownForm as error:
        raise ImageError(path, f"has pixels of a kind without a known range ({mode})", "Save it as 8 or 16 bits a channel.") from error
    except Exception as error:
        raise ImageError(path, f"is damaged: {error}", "Copy or download it again.") from error


class _UnknownForm(Exception):
    pass


def _raw_mode(image: Image.Image) -> str:
    """How the file itself stores its pixels, before Pillow cuts 16-bit colour to 8 bits: RGB;16B, LA;16B, ..."""
    arguments = image.tile[0][3] if isinstance(image, ImageFile.ImageFile) and image.tile else ()
    first, *rest = arguments if isinstance(arguments, tuple) and arguments else (arguments,)
    return f"{first};16" if image.format == "PPM" and 65535 in rest else str(first)


def _decode_wide(data: bytes, raw: str) -> Array:
    import cv2

    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None:
        raise ValueError("its 16-bit pixels could not be decoded")
    return stored[..., [0, 3] if raw.startswith("LA") else [2, 1, 0, 3][: stored.shape[2]]]


def _stored(image: Image.Image) -> Array:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in ("I", "F"):
        raise _UnknownForm
    grey, transparent = image.mode in ("1", "L", "LA", "La"), image.has_transparency_data
    stored = np.asarray(image.convert(("LA" if transparent else "L") if grey else ("RGBA" if transparent else "RGB")))
    return stored if stored.ndim == 3 else stored[..., None]


def _split(stored: Array) -> tuple[Array, Array | None]:
    channels = stored.shape[2]
    return (stored, None) if channels in (1, 3) else (stored[..., :-1], stored[..., -1])


def _upright(stored: Array, orientation: int) -> Array:
    """EXIF 2..4 mirror or turn, 5..8 do so after a transposition."""
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
        orientation = {5: 1, 6: 2, 7: 3, 8: 4}.get(orientation, 1)
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1)}.get(orientation, (1, 1))
    return stored[::rows, ::columns]


def _exif(image: Image.Image) -> bytes | None:
    if image.format != "TIFF":
        return image.info.get("exif") or image.getexif().tobytes() if image.getexif() else None
    kept, tags = Image.Exif(), image.getexif()
    for tag in _TIFF_TEXTS:
        if tag in tags:
            kept[tag] = tags[tag]
    return kept.tobytes() if len(kept) else None


def _encode(stored: Array, form: str, like: Picture | None) -> bytes:
    about = _about(like)
    if stored.dtype == np.uint16:
        if form == "PPM" or (form == "PNG" and stored.shape[2] > 1):
            return _encode_png16(stored, about) if form == "PNG" else _encode_ppm16(stored)
        if form == "TIFF":
            return _encode_tiff16(stored, about)
    image = _image(stored)
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95, "subsampling": like.subsampling if like is not None else 0},
        "WEBP": {"quality": 95, "method": 4},
        "TIFF": {"compression": "tiff_adobe_deflate"},
    }
    out = io.BytesIO()
    image.save(out, form, **options.get(form, {}), **(about if form not in ("BMP", "GIF", "PPM") else {}))
    return out.getvalue()


def _about(like: Picture | None) -> dict[str, bytes]:
    kept = (("icc_profile", like.icc), ("exif", like.exif)) if like is not None else ()
    return {key: value for key, value in kept if value}


def _image(stored: Array) -> Image.Image:
    return Image.fromarray(stored[..., 0] if stored.shape[2] == 1 else stored)  # mode by dtype and channels: L, LA, RGB, RGBA, I;16


def _encode_ppm16(stored: Array) -> bytes:
    height, width, channels = stored.shape
    return f"P{5 if channels == 1 else 6}\n{width} {height}\n65535\n".encode() + stored.astype(">u2").tobytes()


def _encode_png16(stored: Array, about: dict[str, bytes]) -> bytes:
    """16-bit colour, which Pillow does not write: the PNG specification's chunks, rows without filters' guesses (filter 0)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = stored.shape
    raw = stored.astype(">u2").reshape(height, -1).view(np.uint8)
    up = np.concatenate([raw[:1], raw[1:] - raw[:-1]])  # filter 2 (up), modulo 256; the first row's neighbour above counts 0
    rows = np.concatenate([np.full((height, 1), 2, np.uint8), up], axis=1)
    kind = {2: 4, 3: 2, 4: 6}[channels]
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    if "icc_profile" in about:
        parts.append(chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(about["icc_profile"])))
    if "exif" in about:
        parts.append(chunk(b"eXIf", about["exif"].removeprefix(b"Exif\0\0")))
    return b"".join([*parts, chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)), chunk(b"IEND", b"")])


def _encode_tiff16(stored: Array, about: dict[str, bytes]) -> bytes:
    """16 bits a channel, which Pillow writes for grey alone: one deflated strip (TIFF 6.0 and Adobe's supplement)."""
    stored = stored[..., [0, 0, 0, 1]] if stored.shape[2] == 2 else stored  # Pillow knows no 16-bit grey with alpha in a TIFF
    height, width, channels = stored.shape
    pixels = zlib.compress(stored.astype("<u2").tobytes(), 6)
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    if "exif" in about:
        exif = Image.Exif()
        exif.load(about["exif"])
        for tag in _TIFF_TEXTS:
            if tag in exif:
                tags[tag] = exif[tag]
    if "icc_profile" in about:
        tags[34675] = about["icc_profile"]
        tags.tagtype[34675] = 7  # undefined bytes
    tags[256], tags[257], tags[258] = width, height, (16,) * channels
    tags[259], tags[262], tags[277] = 8, 1 if channels == 1 else 2, channels
    tags[273], tags[278], tags[279], tags[339] = 0, height, len(pixels), (1,) * channels  # Pillow counts 273 from the directory's end
    if channels == 4:
        tags[338] = (2,)  # alpha apart from the colours
    return b"II*\0" + struct.pack("<I", 8) + tags.tobytes(8) + pixels
