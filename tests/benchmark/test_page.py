"""leaderboard.html in a real browser, from file://: it sorts, filters, slides, plots, and loads nothing from anywhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark_minis import pairs, run
from dehaze_zoo.benchmark import compare
from dehaze_zoo.checkpoints.shipped import shipped_weights
from support import shared_dir

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (in dehaze-zoo[dev])")
CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium (apt-get install chromium)")


@pytest.fixture(scope="module")
def leaderboard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    root = pairs(folder / "sots", size=(90, 120))
    words = ["models=[identity,dcp,identity:</script>twin]", "data=[reside_indoor]", f"++roots.reside_indoor='{root}'", "protocol=all"]
    words[0] = "models=[identity,dcp,'identity:</script>twin']"  # a label that would end the script, were it not escaped
    run(folder / "run", *words, "examples=3", "cost.sizes=[32]", "cost.rounds=2")
    return folder / "run" / "leaderboard.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
        )
        yield started
        started.close()


def opened(browser: Any, file: Path, wrong: list[str]) -> Any:
    """The page at file://; what goes wrong in it is added to ``wrong``."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
    page.goto(file.as_uri())
    return page


@pytest.fixture
def page(browser: Any, leaderboard: Path) -> Iterator[Any]:
    wrong: list[str] = []
    shown = opened(browser, leaderboard, wrong)
    yield shown
    shown.close()
    assert wrong == []


def column(page: Any, table: str, number: int) -> list[str]:
    return [str(text) for text in page.locator(f"#{table} tbody tr td:nth-child({number})").all_inner_texts()]


def test_a_click_on_a_head_sorts(page: Any) -> None:
    assert sorted(column(page, "board", 2)) == ["</script>twin", "dcp", "identity"]
    head = page.locator("#board th", has_text="PSNR")
    head.click()
    falling = [float(text.split()[0]) for text in column(page, "board", 4)]
    head.click()
    rising = [float(text.split()[0]) for text in column(page, "board", 4)]
    assert falling == sorted(falling, reverse=True)
    assert rising == sorted(rising)
    assert falling != rising
    assert head.get_attribute("aria-sort") == "ascending"


def test_what_another_decoder_read_is_marked_and_explained(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["models=[identity]", "data=[reside_indoor]", f"++roots.reside_indoor='{pairs(tmp_path / 'sots', scenes=3)}'", "examples=1"]
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(compare, "decoder_stamp", lambda: {"probe": "0123456789abcdef", "pillow": "9.0.0"})
        run(tmp_path / "elsewhere", *words)
    run(tmp_path / "here", *words)
    wrong: list[str] = []
    page = opened(browser, tmp_path / "here" / "leaderboard.html", wrong)
    assert column(page, "board", 1) == ["1", "–"]
    assert column(page, "board", 2) == ["identity", "identity (decoder 01234567) ‡"]
    assert "pillow 9.0.0 there" in page.locator("#decoders").inner_text()
    assert column(page, "pairs", 1) == ["identity − identity (decoder 01234567) ‡"]
    page.close()
    assert wrong == []


def test_the_protocol_changes_the_figures(page: Any) -> None:
    before = column(page, "board", 4)
    page.select_option("#protocol", "y")
    assert column(page, "board", 4) != before
    assert "luma" in page.inner_text("#protocol-says")


def test_the_filter_keeps_what_it_names(page: Any) -> None:
    assert len(column(page, "images", 1)) == 12
    page.fill("#filter", "1402_")
    assert [text.removeprefix("▣ ") for text in column(page, "images", 1)] == ["1402_1.png", "1402_2.png"]
    assert page.inner_text("#count") == "2 of 12 images"
    page.fill("#filter", "")
    page.check("#pictured")
    assert all(text.startswith("▣") for text in column(page, "images", 1))
    assert 3 <= len(column(page, "images", 1)) < 12


def test_the_slider_uncovers_one_picture_over_the_other(page: Any) -> None:
    assert page.locator("#viewer").is_visible()
    names = page.locator("#left option").all_inner_texts()
    assert names[:2] == ["hazy", "clear"]
    page.select_option("#left", "hazy")
    page.select_option("#right", "clear")
    assert page.evaluate("over.src !== under.src && over.naturalWidth === 120")

    def shown(percent: int) -> bytes:
        page.evaluate(f"slider.value = {percent}; slider.dispatchEvent(new Event('input'))")
        assert page.evaluate("over.style.clipPath") == f"inset(0px {100 - percent}% 0px 0px)"
        return bytes(page.locator("#compare").screenshot())

    assert len({shown(percent) for percent in (5, 50, 95)}) == 3
    box = page.locator("#compare").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 20)
    page.mouse.down()
    page.mouse.up()
    assert abs(float(page.input_value("#slider")) - 25) <= 1


def test_pictures_follow_the_chosen_image_with_an_error_map_for_each_method(page: Any) -> None:
    captions = page.locator("#errors figcaption").all_inner_texts()
    assert "error of dcp" in captions
    before = page.evaluate("over.src")
    page.locator("#images tr.pictured").nth(2).click()
    assert page.evaluate("over.src") != before
    assert page.locator("#images tr.chosen").count() == 1
    assert page.evaluate("[...document.querySelectorAll('#errors img')].every(image => image.naturalWidth > 0)")


def test_the_plot_has_a_point_for_each_method_with_that_cost(page: Any) -> None:
    assert page.locator("#pareto circle").count() == 3
    page.select_option("#cost", "parameters")  # none of these has any
    assert page.evaluate("[...document.querySelectorAll('#pareto circle')].map(point => point.getAttribute('cx'))") == ["60", "60", "60"]
    best = {row["model"] for row in page.evaluate("rows()") if "parameters" in row["pareto"].split()}
    fills = page.evaluate("[...document.querySelectorAll('#pareto circle')].map(c => [c.nextSibling.textContent, c.getAttribute('fill')])")
    assert {model for model, fill in fills if fill == "var(--front)"} == best != {model for model, _ in fills}
    page.select_option("#cost", "macs")
    assert "no costs measured" in page.text_content("#pareto")
    assert len(column(page, "pairs", 1)) == 3


def test_real_networks_on_real_pairs(browser: Any, tmp_path: Path) -> None:
    shared = shared_dir()
    names = ["dcp", "aodnet", "gcanet", *(["gunet_t"] if shipped_weights("gunet_t") else [])]
    words = [f"models=[{','.join(names)}]", "data=[reside_indoor]", f"++roots.reside_indoor='{shared / 'data' / 'sots_indoor_subset'}'"]
    words += [f"++checkpoints.aodnet='{shared / 'weights' / 'aodnet' / 'dehazer.pth'}'"]
    words += [f"++checkpoints.gcanet='{shared / 'weights' / 'gcanet' / 'wacv_gcanet_dehaze.pth'}'"]
    assert run(tmp_path / "run", *words, "limit=3", "examples=1")[0] == 0
    wrong: list[str] = []
    page = opened(browser, tmp_path / "run" / "leaderboard.html", wrong)
    page.locator("#board th", has_text="PSNR").click()
    assert column(page, "board", 2)[0] == "gcanet"
    assert sorted(column(page, "board", 2)) == sorted(names)
    page.fill("#filter", "1400")
    assert len(column(page, "images", 1)) == 1
    page.locator("#images tr.pictured").first.click()
    assert page.locator("#errors figure").count() == len(names)
    assert page.evaluate("over.naturalWidth > 0 && under.naturalWidth > 0")
    page.close()
    assert wrong == []


def test_nothing_in_it_refers_to_the_outside(leaderboard: Path) -> None:
    text = leaderboard.read_text(encoding="utf-8")
    assert not [word for word in ('src="http', 'href="http', "url(http", "@import", "fetch(") if word in text]
