from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from dehaze_zoo.data import decoder
from dehaze_zoo.data.images import read_bytes


def test_a_stamp_holds_the_probe_and_the_versions() -> None:
    stamp = decoder.decoder_stamp()
    assert set(stamp) == {"probe", "pillow", "libjpeg", "numpy"}
    assert len(stamp["probe"]) == 16
    assert stamp["pillow"] == PIL.__version__


def test_another_decoder_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One grey level in one place, as another inverse transform or upsampling gives."""
    ours = decoder.decoder_stamp()

    def other(data: bytes, name: str) -> Any:
        pixels = np.array(read_bytes(data, name))
        pixels[13, 20, 0] ^= 1
        return pixels

    monkeypatch.setattr(decoder, "read_bytes", other)
    decoder.decoder_stamp.cache_clear()
    theirs = decoder.decoder_stamp()
    decoder.decoder_stamp.cache_clear()
    assert decoder.stamps_differ(ours, theirs)
    assert not decoder.stamps_differ(ours, {**ours, "pillow": "9.0.0"})
    assert decoder.stamps_differ(ours, None)
    assert not decoder.stamps_differ(None, {})
    assert decoder.stamp_text({"probe": "ab", "pillow": "9"}) == "ab (pillow 9)"
    assert decoder.stamp_text(None) == "unknown (no versions noted)"
    assert decoder.stamps_apart(theirs, ours).endswith("; the same versions of the libraries")
    assert "numpy 1 there, unknown here" in decoder.stamps_apart({"probe": "ab", "numpy": "1"}, None)


def test_the_probe_tells_decoders_apart() -> None:
    """It has what they differ in: OpenCV's own way to grey and Pillow's draft mode change its pixels."""
    image = Image.open(io.BytesIO(decoder.PROBE))
    assert image.size == (35, 27)
    whole = np.asarray(image.convert("RGB"))
    plain = Image.open(io.BytesIO(decoder.PROBE))
    plain.draft("YCbCr", plain.size)
    assert (np.asarray(plain.convert("RGB")) != whole).any()
