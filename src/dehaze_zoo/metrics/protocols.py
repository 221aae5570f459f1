"""The ways in which the field turns a restored picture into figures, by name. They differ by a dB on the same picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dehaze_zoo.errors import UsageError, near_misses
from dehaze_zoo.metrics.functional import luma, pool_to_256, psnr, ssim


@dataclass(frozen=True)
class Protocol:
    """How two pictures are compared: both are clamped to [0, 1] and prepared, then measured.

    Calling it with restored and clear, (B, 3, H, W) RGB in [0, 1] (values outside are clamped), gives ``{"psnr": (B,),
    "ssim": (B,)}``, psnr in dB. Raises ValueError where the shapes differ.
    """

    name: str
    description: str
    levels: Callable[[Tensor], Tensor]
    """From clamped RGB to the RGB that is judged: rounded or not."""
    channels: Callable[[Tensor], Tensor]
    """From that to what PSNR, SSIM and MS-SSIM see: RGB or luma."""
    before_ssim: Callable[[Tensor], Tensor]
    """What SSIM's images pass besides."""

    def __call__(self, restored: Tensor, clear: Tensor) -> dict[str, Tensor]:
        restored, clear = (self.channels(self.colours(image)) for image in (restored, clear))
        return {"psnr": psnr(restored, clear), "ssim": ssim(self.before_ssim(restored), self.before_ssim(clear))}

    def colours(self, image: Tensor) -> Tensor:
        """What measures of colour see, RGB (B, 3, H, W) in [0, 1]."""
        # float64: in float32 SSIM's variances over flat areas (skies) are rounding noise, up to 4e-4 of the figure.
        return self.levels(image.double().clamp(0, 1))


def _as_it_is(image: Tensor) -> Tensor:
    return image


def _to_grey_levels(image: Tensor) -> Tensor:
    return (image * 255).round() / 255


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "gunet",
            "clamped floats, not rounded; PSNR over RGB; SSIM over RGB after average pooling to a short side of about 256 (gUNet, 2022)",
            _as_it_is,
            _as_it_is,
            pool_to_256,
        ),
        Protocol(
            "uint8",
            "rounded to 256 grey levels, as pictures saved in 8 bits; PSNR and SSIM over RGB at full size",
            _to_grey_levels,
            _as_it_is,
            _as_it_is,
        ),
        Protocol(
            "y",
            "rounded to 256 grey levels; PSNR (peak 255) and SSIM at full size on the BT.601 luma of 16..235, not rounded again",
            _to_grey_levels,
            luma,
            _as_it_is,
        ),
    )
}


def choose_protocols(name: str) -> list[Protocol]:
    """The protocol of that name, or each in turn for ``all``. Raises UsageError for an unknown name."""
    if name == "all":
        return list(PROTOCOLS.values())
    if name not in PROTOCOLS:
        raise UsageError(f"no protocol is called {name!r}. {near_misses(name, [*PROTOCOLS, 'all'])}")
    return [PROTOCOLS[name]]
