"""Pictures from disk and back: every mode that users bring, as RGB floats, and results written in the form of what was read.

Pillow decodes everything of 8 bits (decoders differ by up to tenths of a dB in PSNR, so there is only one); OpenCV decodes
16-bit colour, which Pillow cuts to 8 bits.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from dehaze_zoo.errors import ImageError
from dehaze_zoo.files import written_aside

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM")  # a closed list: Pillow would hand EPS files to Ghostscript
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".webp": "WEBP"}
SUFFIXES |= {".gif": "GIF", ".ppm": "PPM", ".pgm": "PPM"}
MAX_PIXELS = 200_000_000
"""Of a picture, unless the caller says otherwise: more is taken for a decompression bomb."""
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow's own grey
_ORIENTATION = 274
_TIFF_TEXTS = (270, 271, 272, _ORIENTATION, 305, 306, 315, 33432)  # the tags of a TIFF that describe the picture, not its storage

_BAND = 256  # rows that are packed at a time

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture: colours as stored (EXIF orientation not applied, but for TIFF) and what writing back in the same form needs."""

    colours: Array
    """(H, W, 1 or 3) grey or RGB as stored: uint8 or uint16 over its whole range."""
    transparency: Array | None
    """(H, W), stored likewise."""
    format: str
    """Pillow's name: PNG, JPEG, ..."""
    suffix: str
    """Of the file, lower case, with its dot."""
    icc: bytes | None
    exif: bytes | None
    subsampling: int
    """Of a JPEG's chroma, Pillow's number: 0 is 4:4:4."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.colours.shape[0], self.colours.shape[1]

    @property
    def grey(self) -> bool:
        return bool(self.colours.shape[2] == 1)

    @property
    def bits(self) -> int:
        """8 or 16 a channel."""
        return 8 * self.colours.dtype.itemsize

    @property
    def pixels(self) -> Floats:
        """(H, W, 3) RGB in [0, 1], made anew each time; grey is repeated."""
        return self.part(slice(None), slice(None))

    @property
    def alpha(self) -> Floats | None:
        """(H, W) in [0, 1]."""
        return None if self.transparency is None else _floats(self.transparency)

    def part(self, rows: slice, columns: slice) -> Floats:
        """A rectangle of ``pixels``, without making the rest."""
        return _floats(np.repeat(self.colours[rows, columns], 3 // self.colours.shape[2], axis=2))


def read_picture(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS, data: bytes | None = None) -> Picture:
    """Read one picture whole, stored orientation (a TIFF upright: its decoders turn it); ``data`` is its content where it is at hand.

    1-bit, palette, CMYK and YCbCr pictures become RGB or grey. Raises ImageError for what is missing, damaged, animated, of a form
    without a known range (floating point, 32 bit), or larger than ``max_pixels``.
    """
    image, stored = _decode(bytes_of(Path(path)) if data is None else data, Path(path), max_pixels)
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
    colours, transparency = _split(stored)
    icc = image.info.get("icc_profile")
    return Picture(
        colours=np.ascontiguousarray(colours),  # the decoded whole is given back
        transparency=None if transparency is None else np.ascontiguousarray(transparency),
        format="JPEG" if image.format == "MPO" else str(image.format),
        suffix=suffix,
        icc=icc if image.mode != "CMYK" else None,  # a profile of inks does not describe the RGB that we hold
        exif=_exif(image),
        subsampling=max(0, JpegImagePlugin.get_sampling(image)) if image.format in ("JPEG", "MPO") else 0,
    )


def read_rgb(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8] | Floats:
    """Read one picture of a pair upright (EXIF orientation applied), alpha dropped: (H, W, 3) RGB.

    uint8 in 0..255, or float32 in [0, 1] where the file holds 16 bits a channel. Raises ImageError as read_picture does.
    """
    return read_bytes(bytes_of(Path(path)), path)


def read_bytes(data: bytes, name: str | os.PathLike[str]) -> npt.NDArray[np.uint8] | Floats:
    """read_rgb of a file's content; ``name`` is what an ImageError calls it."""
    image, stored = _decode(data, Path(name))
    colours = _upright(_split(stored)[0], image.getexif().get(_ORIENTATION, 1))
    colours = np.repeat(colours, 3 // colours.shape[2], axis=2)
    return colours / np.float32(65535) if stored.dtype == np.uint16 else np.ascontiguousarray(colours)


def write_picture(path: str | os.PathLike[str], pixels: Array, like: Picture | None = None) -> None:
    """Write (H, W, 3) RGB floats, clipped to [0, 1], in the form of ``like``: format, bit depth, alpha, grey, ICC profile, EXIF.

    Integers are taken as ``quantised`` made them, so that large pictures need never exist as floats.

    The format is that of ``like`` where the suffix is the same, else what the suffix says (PNG for an unknown one). Grey is the
    luma (BT.601). What cannot be kept: 1-bit becomes 8-bit grey; a palette becomes RGB or RGBA (in a GIF, the 256 best colours);
    CMYK becomes RGB, without its profile. JPEG has quality 95 and the chroma subsampling of ``like``. Written aside and renamed.
    Raises ImageError where the file cannot be written.
    """
    path = Path(path)
    write_aside(path, encode_picture(path, pixels, like))


def encode_picture(path: Path, pixels: Array, like: Picture | None = None) -> bytes:
    """What ``write_picture`` writes under ``path``. Raises ImageError where the form cannot hold it."""
    same = like is not None and like.suffix == path.suffix.lower()
    form = like.format if like is not None and same else SUFFIXES.get(path.suffix.lower(), "PNG")
    bits = like.bits if like is not None and form in ("PNG", "TIFF", "PPM") else 8
    stored = _storable(pixels, like, bits, with_alpha=form in ("PNG", "TIFF", "WEBP", "GIF"))
    try:
        return _encode(stored, form, like)
    except (OSError, ValueError) as error:
        raise ImageError(path, f"could not be encoded as {form}: {error}", "Give the output a .png name.") from error


def to_pil(pixels: Array, like: Picture) -> Image.Image:
    """(H, W, 3) RGB floats, clipped to [0, 1], as a PIL image in the form of ``like``: L, LA, RGB, RGBA, or I;16 for 16-bit grey.

    Other 16-bit pictures become 8-bit, for PIL holds no more; ICC profile and EXIF are in ``info``.
    """
    bits = like.bits if like.grey and like.alpha is None else 8
    image = _image(_storable(pixels, like, bits, with_alpha=True))
    image.info.update(_about(like))
    return image


def quantised(pixels: Array, grey: bool, bits: int) -> Array:
    """(H, W, 3) RGB floats, clipped to [0, 1], as (H, W, 3) or, ``grey``, (H, W, 1) uint8 or uint16."""
    stored = np.asarray(pixels, dtype=np.float32)
    if grey:
        stored = (stored @ LUMA)[..., None]
    return np.asarray(np.rint(np.clip(stored, 0, 1) * _top(bits)), dtype=np.uint16 if bits == 16 else np.uint8)


def _storable(pixels: Array, like: Picture | None, bits: int, with_alpha: bool) -> Array:
    """Quantised, with the alpha of ``like`` as a last channel where it has some and the form can hold it."""
    stored = pixels if pixels.dtype in (np.uint8, np.uint16) else quantised(pixels, like is not None and like.grey, bits)
    stored = in_bits(stored, bits)
    if with_alpha and like is not None and like.transparency is not None and like.size == stored.shape[:2]:
        stored = np.concatenate([stored, in_bits(like.transparency, bits)[..., None]], axis=2)
    return stored


def in_bits(stored: Array, bits: int) -> Array:
    """uint8 or uint16 over its whole range as the one of ``bits``; itself where it is that."""
    if stored.dtype == np.uint16 and bits == 8:
        return (stored // 257 + (stored % 257 > 128)).astype(np.uint8)  # rounded, within 16 bits
    return stored.astype(np.uint16) * np.uint16(257) if stored.dtype == np.uint8 and bits == 16 else stored


def _floats(stored: Array) -> Floats:
    return np.asarray(stored / _top(8 * stored.dtype.itemsize), dtype=np.float32)


def _top(bits: int) -> np.float32:
    top: np.float32 = np.float32(65535 if bits == 16 else 255)
    return top


def write_aside(path: Path, data: bytes) -> None:
    """Write a file under a passing name beside its place and rename it, so that no half-written file bears the name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            aside.write_bytes(data)
    except OSError as error:
        raise ImageError(path, f"could not be written: {error.strerror or error}") from error


def bytes_of(path: Path) -> bytes:
    """A file's content; ImageError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(path, "is a folder" if path.is_dir() else f"could not be read: {error.strerror or error}") from error


def _decode(data: bytes, path: Path, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, Array]:
    """The opened picture, for what it says of itself, and its pixels as stored: (H, W, C) uint8 or uint16, C: grey, +alpha, RGB, +alpha."""
    if not data:
        raise ImageError(path, "is empty (0 bytes)", "Copy or download it again.")
    try:
        with _no_limit():
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(path, f"is not a picture of a kind that is read here ({', '.join(FORMATS)})") from error
    except Exception as error:  # decoders raise anything at all on damaged files
        raise ImageError(path, f"is damaged: {error}", "Copy or download it again.") from error
    if image.width * image.height > max_pixels:
        what = f"is too large: {image.width} x {image.height} pixels, more than {max_pixels:,}"
        raise ImageError(path, what, "If it is no decompression bomb, raise max_pixels.")
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


_LIMIT = threading.Lock()


@contextlib.contextmanager
def _no_limit() -> Iterator[None]:
    """Without Pillow's own limit while a header is read; ours is the caller's to choose, and Pillow's stays the user's."""
    with _LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


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
    """16-bit colour, which Pillow does not write: the PNG specification's chunks, rows without filters' guesses."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = stored.shape
    kind = {2: 4, 3: 2, 4: 6}[channels]
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    if "icc_profile" in about:
        parts.append(chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(about["icc_profile"])))
    if "exif" in about:
        parts.append(chunk(b"eXIf", about["exif"].removeprefix(b"Exif\0\0")))
    packer = zlib.compressobj(6)
    above = np.zeros((1, width * channels * 2), np.uint8)  # the first row's neighbour counts 0
    for start in range(0, height, _BAND):
        raw = stored[start : start + _BAND].astype(">u2").reshape(-1, width * channels).view(np.uint8)
        up = raw - np.concatenate([above, raw[:-1]])  # filter 2 (up), modulo 256
        above = raw[-1:]
        parts.append(chunk(b"IDAT", packer.compress(np.concatenate([np.full((len(up), 1), 2, np.uint8), up], axis=1).tobytes())))
    return b"".join([*parts, chunk(b"IDAT", packer.flush()), chunk(b"IEND", b"")])


def _encode_tiff16(stored: Array, about: dict[str, bytes]) -> bytes:
    """16 bits a channel, which Pillow writes for grey alone: one deflated strip (TIFF 6.0 and Adobe's supplement)."""
    stored = stored[..., [0, 0, 0, 1]] if stored.shape[2] == 2 else stored  # Pillow knows no 16-bit grey with alpha in a TIFF
    height, width, channels = stored.shape
    packer = zlib.compressobj(6)
    bands = [packer.compress(stored[start : start + _BAND].astype("<u2").tobytes()) for start in range(0, height, _BAND)]
    pixels = b"".join([*bands, packer.flush()])
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
