"""The page, in a real headless browser: a picture goes in, before and after come out, and what is wrong is said."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dehaze_zoo.app import choices, page
from dehaze_zoo.errors import UsageError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
]


def scene(path: Path) -> Path:
    ramp = np.linspace(120, 215, 320)[None, :, None] + np.random.default_rng(0).normal(0, 12, (200, 1, 3))
    Image.fromarray(np.clip(ramp, 0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page, served on a free port."""
    pytest.importorskip("gradio", reason="needs the extra app")
    monkeypatch.setitem(os.environ, "GRADIO_ANALYTICS_ENABLED", "False")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    blocks = page({})
    blocks.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True)
    yield f"http://127.0.0.1:{port}"
    blocks.close()


@pytest.fixture
def tab(address: str, tmp_path: Path) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian's package chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        opened = browser.new_page(viewport={"width": 1200, "height": 800})
        opened.goto(address)
        opened.wait_for_selector("#dehaze")
        yield opened
        browser.close()


def test_a_picture_goes_in_and_before_and_after_come_out(tab: Any, tmp_path: Path) -> None:
    tab.click("#dehaze")
    tab.wait_for_selector("#said:has-text('First drop a picture')")
    assert not tab.is_visible("#alpha")
    tab.click("#model input")
    tab.click("[role=option]:has-text('dcp')")
    tab.set_input_files("#hazy input[type=file]", scene(tmp_path / "hazy.png"))
    tab.wait_for_selector("#said:has-text('dcp, 320 x 200 pixels')", timeout=60_000)
    tab.wait_for_function("document.querySelectorAll('#both img').length == 2")
    means = tab.evaluate("""() => [...document.querySelectorAll('#both img')].map(image => {
        const canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        const context = canvas.getContext('2d');
        context.drawImage(image, 0, 0);
        const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
        return [canvas.width, canvas.height, data.reduce((sum, value) => sum + value, 0) / data.length];
    })""")
    assert [mean[:2] for mean in means] == [[320, 200]] * 2
    assert means[1][2] < means[0][2] - 3  # darker: haze is gone
    if os.environ.get("DEHAZE_ZOO_SCREENSHOT"):
        tab.screenshot(path=os.environ["DEHAZE_ZOO_SCREENSHOT"])


def test_models_that_have_weights_are_offered() -> None:
    assert list(choices({}))[-1] == "dcp"
    assert choices({"ridcp": "x.pth"})["ridcp"] == "x.pth"
    with pytest.raises(UsageError, match="gunet_b"):
        choices({"gunet_bb": "x.pth"})
