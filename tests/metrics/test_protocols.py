"""The measures and protocols against second implementations in numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from dehaze_zoo.errors import UsageError
from dehaze_zoo.metrics.functional import PSNR_CAP, luma, pool_to_256, psnr, ssim
from dehaze_zoo.metrics.protocols import PROTOCOLS, choose_protocols


def pair(height: int, width: int, batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Structured pictures and degraded ones that also leave [0, 1]."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 7 + c) * np.cos(y / 11 - c) for c in range(3 * batch)]
    clear = np.clip(0.5 + 0.4 * np.stack(waves) + random.normal(0, 0.05, (3 * batch, height, width)), 0, 1)
    restored = 0.9 * clear + 0.12 + random.normal(0, 0.08, clear.shape)
    shape = (batch, 3, height, width)
    return torch.tensor(restored.reshape(shape), dtype=torch.float32), torch.tensor(clear.reshape(shape), dtype=torch.float32)


def numpy_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of one channel: truncated gaussian of 11, only whole windows."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def mean(image: np.ndarray) -> np.ndarray:
        return np.asarray(correlate1d(correlate1d(image, taps, axis=0), taps, axis=1)[5:-5, 5:-5])

    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b, cov = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2, mean(a * b) - mu_a * mu_b
    c1, c2 = 0.01**2, 0.03**2
    return float(np.mean((2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))))


def numpy_figures(name: str, restored: np.ndarray, clear: np.ndarray) -> tuple[float, float]:
    """Each protocol for one image (3, H, W) in float64, written from its description alone."""
    a, b = np.clip(restored, 0, 1), np.clip(clear, 0, 1)
    if name in ("uint8", "y"):
        a, b = np.rint(a * 255), np.rint(b * 255)
        if name == "y":
            a, b = (16 + (65.481 * i[:1] + 128.553 * i[1:2] + 24.966 * i[2:]) / 255 for i in (a, b))
        a, b = a / 255, b / 255
    decibel = 10 * np.log10(1 / np.mean((a - b) ** 2))
    if name == "gunet":
        ratio = max(1, round(min(a.shape[1:]) / 256))
        height, width = a.shape[1] // ratio, a.shape[2] // ratio

        def pooled(image: np.ndarray) -> np.ndarray:
            rows = [slice(i * image.shape[1] // height, -(-(i + 1) * image.shape[1] // height)) for i in range(height)]
            columns = [slice(i * image.shape[2] // width, -(-(i + 1) * image.shape[2] // width)) for i in range(width)]
            tall = np.stack([image[:, r].mean(1) for r in rows], 1)
            return np.stack([tall[:, :, c].mean(2) for c in columns], 2)

        a, b = pooled(a), pooled(b)
    return float(decibel), float(np.mean([numpy_ssim(x, y) for x, y in zip(a, b, strict=True)]))


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
@pytest.mark.parametrize("size", [(11, 37), (60, 83), (389, 401)])
def test_protocol_equals_second_implementation(name: str, size: tuple[int, int]) -> None:
    restored, clear = pair(*size)
    figures = PROTOCOLS[name](restored, clear)
    for i in range(2):
        decibel, similarity = numpy_figures(name, restored[i].double().numpy(), clear[i].double().numpy())
        assert figures["psnr"][i].item() == pytest.approx(decibel, abs=1e-6)
        assert figures["ssim"][i].item() == pytest.approx(similarity, abs=1e-6)


def test_protocols_differ_on_one_picture() -> None:
    restored, clear = pair(389, 401, batch=1)
    figures = {name: protocol(restored, clear) for name, protocol in PROTOCOLS.items()}
    assert len({round(f["ssim"].item(), 4) for f in figures.values()}) == 3
    assert figures["y"]["psnr"] > figures["uint8"]["psnr"]  # averaging channels and the range of 219 both lower the error


@pytest.mark.parametrize(
    ("side", "pooled"),
    [(100, 100), (383, 383), (384, 192), (460, 230), (640, 320), (641, 213)],  # 384/256 = 1.5 and 640/256 = 2.5 both go to 2
)
def test_pooling_rounds_half_to_even(side: int, pooled: int) -> None:
    assert pool_to_256(torch.zeros(1, 3, side, 700)).shape[-2:] == (pooled, 700 // (side // pooled))


def test_luma_range() -> None:
    ends = luma(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)).flatten()
    assert torch.allclose(ends * 255, torch.tensor([16.0, 235.0]))


def test_an_image_does_not_depend_on_its_batch_mates() -> None:
    restored, clear = pair(40, 50, batch=3)
    alone = [(psnr(r[None], c[None]).item(), ssim(r[None], c[None]).item()) for r, c in zip(restored, clear, strict=True)]
    together = list(zip(psnr(restored, clear).tolist(), ssim(restored, clear).tolist(), strict=True))
    assert np.allclose(alone, together, atol=1e-5)


def test_equal_images_are_capped() -> None:
    clear = pair(20, 20)[1]
    assert psnr(clear, clear).tolist() == [PSNR_CAP, PSNR_CAP]
    assert torch.allclose(ssim(clear, clear), torch.ones(2))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 10), (11, 5)])
def test_smaller_than_the_window(size: tuple[int, int]) -> None:
    restored, clear = pair(*size)
    for protocol in PROTOCOLS.values():
        figures = protocol(restored, clear)
        assert torch.isfinite(figures["psnr"]).all()
        assert ((figures["ssim"] > -1) & (figures["ssim"] < 1)).all()
        assert torch.allclose(protocol(clear, clear)["ssim"], torch.ones(2).double())


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        psnr(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))


def test_choosing_by_name() -> None:
    assert [p.name for p in choose_protocols("all")] == list(PROTOCOLS)
    assert [p.name for p in choose_protocols("y")] == ["y"]
    with pytest.raises(UsageError, match="gunet"):
        choose_protocols("gunnet")
