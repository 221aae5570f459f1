"""Which decoder read the pictures: JPEG decoders differ by up to tenths of a dB in PSNR, so every result carries the stamp of its own."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL
from PIL import features

from dehaze_zoo.data.images import read_bytes

PROBE = (
    base64.b64decode(  # a JPEG of 35x27 pixels, 4:2:0, quality 70: hard edges in chroma and a width of no whole blocks, where decoders part
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAoHBwgHBgoICAgLCgoLDhgQDg0NDh0VFhEYIx8lJCIfIiEmKzcvJik0KSEiMEExNDk7Pj4+JS5ESUM8SDc9Pjv/2wBDAQoL"
        "Cw4NDhwQEBw7KCIoOzs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozv/wAARCAAbACMDASIAAhEBAxEB/8QAGQAAAgMBAAAAAAAA"
        "AAAAAAAABQYAAwQC/8QALBAAAQMCBAQEBwAAAAAAAAAAAQACAwQRBRIhMUFRYdEGFIGRIzJxoaLB0v/EABgBAQADAQAAAAAAAAAAAAAAAAMCBQYE/8QAJxEAAAYBAgQH"
        "AAAAAAAAAAAAAAECAwQRBSFBEzFRcRIUFRYzUlP/2gAMAwEAAhEDEQA/AH6SQUzc7jlGmiWKzxxRVLMghqGi9tWt7qvEfEDa6BzIzqlXyFUAC6I2HEkBG5GlsKSskHfa"
        "x0Y+LinuI3NcJJaVaiTd3fPnsGOjxmncJJGBzWx2vmAG/r0QXHKluJPIhN7ofUOkhpZYm2bnI2N9rqjCJjTv+LqDvdQQSilFLX8hbA1wsdHccajLtJVWt7FevexlOCSv"
        "Jdl3+qiZm4nTAD5VFo/cGQ/MD5dr7BZY6R2a9yS0j8SP2t08kkzXjKNS7jzMv9hYG6Od0Oi2RbbnY8eiNeafJ1KaIXTWBjPINar0HLKKolMmVlyc1hcamz7fcj3Vk+Gy"
        "tmDyw2Lib6bXf3HuilALH17K+s58h2TZKQpDJukRWKWbAbYLxJAIYe8i4v7KIllBUWL9aldRS8RfUf/Z"
    )
)


@functools.cache
def decoder_stamp() -> dict[str, str]:
    """The SHA-256 (first 16 digits) of a probe JPEG's pixels as data/images.py decodes them, and the libraries' versions.

    {"probe", "pillow", "libjpeg", "numpy"}; goes into environment.json, metrics.json and the benchmark's tables. Equal probes
    mean equal pixels.
    """
    pixels = read_bytes(PROBE, "the probe")
    turbo = features.version_feature("libjpeg_turbo")
    return {
        "probe": hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16],
        "pillow": PIL.__version__,
        "libjpeg": f"turbo {turbo}" if turbo else str(features.version_codec("jpg")),
        "numpy": np.__version__,
    }


def stamps_differ(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two results were read by decoders that give other pixels. Versions alone do not count: what they change, the probe shows.

    A result without a stamp (None or {}) differs from every stamped one.
    """
    return (one or {}).get("probe") != (other or {}).get("probe")


def stamp_text(stamp: Mapping[str, Any] | None) -> str:
    """A stamp in one line, for a column of a table."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted((stamp or {}).items()) if name != "probe")
    return f"{(stamp or {}).get('probe', 'unknown')} ({versions or 'no versions noted'})"


def stamps_apart(other: Mapping[str, Any] | None, ours: Mapping[str, Any] | None) -> str:
    """How two results that stamps_differ were read, for a footnote: the probes, and the versions that are not the same."""
    other, ours = other or {}, ours or {}
    probes = f"the probe JPEG decodes to {other.get('probe', 'unknown')} there, to {ours.get('probe', 'unknown')} here"
    names = [name for name in sorted({*ours, *other}) if name != "probe" and other.get(name) != ours.get(name)]
    versions = [f"{name} {other.get(name, 'unknown')} there, {ours.get(name, 'unknown')} here" for name in names]
    return "; ".join([probes, *(versions or ["the same versions of the libraries"])])
