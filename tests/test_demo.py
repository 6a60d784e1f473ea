"""The page of `segzoo demo` in a real browser, against the real server on this machine."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from segzoo import SegZooConfig, SegZooForSemanticSegmentation, SegZooImageProcessor
from segzoo.demo import Demo, build_page, serve
from segzoo.errors import SegZooError

CHROMIUM = Path("/usr/bin/chromium")
NAMES = ["sky", "<b>road</b>", "car", "tree", "person"]


@pytest.fixture(scope="module")
def demo():
    torch.manual_seed(0)
    config = SegZooConfig.tiny()
    config.id2label, config.label2id = dict(enumerate(NAMES)), {name: i for i, name in enumerate(NAMES)}
    config.palette = [[200, 40 * i, 255 - 40 * i] for i in range(5)]
    processor = SegZooImageProcessor(do_resize=False)
    return Demo(SegZooForSemanticSegmentation(config).eval(), processor, "tiny <model>")


@pytest.fixture
def picture(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((192, 120)).save(tmp_path / "street.png")
    return tmp_path / "street.png"


def test_table_and_overlay(demo, picture):
    found = demo.label(str(picture))
    table = demo.table(found)
    assert found.labels.shape == found.shown_labels.shape == (120, 192)
    assert "<b>" not in table and table.count("<tr>") == 1 + len(np.unique(found.labels))
    pixels = [int(number.replace(",", "")) for number in re.findall(r'"number">([\d,]+)<', table)]
    assert sum(pixels) == 120 * 192 and pixels == sorted(pixels, reverse=True)
    colours = np.asarray(demo.palette, np.uint8)[found.labels]
    assert np.array_equal(np.asarray(demo.overlay(found, 1.0)), colours)
    assert np.array_equal(np.asarray(demo.label_image(found)), found.labels)


def test_uploads_are_not_opened_by_gradio(demo, tmp_path):
    """Which would tell visitors its own words, and print a traceback, for what is no picture."""
    pytest.importorskip("gradio", reason='gradio is not installed: pip install "segzoo[demo]"')
    from gradio.data_classes import ImageData

    (upload := tmp_path / "no.png").write_bytes(b"nothing")
    blocks = build_page(demo)
    (picture,) = (block for block in blocks.blocks.values() if block.elem_id == "picture")
    path = picture.preprocess(ImageData(path=str(upload), orig_name=upload.name))
    assert path == str(upload) and picture.preprocess(None) is None
    with pytest.raises(SegZooError, match="it is no picture"):
        demo.label(path)


@pytest.fixture
def page(demo):
    pytest.importorskip("gradio", reason='gradio is not installed: pip install "segzoo[demo]"')
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    blocks = build_page(demo)
    address = serve(blocks, wait=False)
    elsewhere = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("request", lambda request: elsewhere.append(request.url) if _is_elsewhere(request.url) else None)
        page.elsewhere = elsewhere
        page.goto(address)
        yield page
        browser.close()
    blocks.close(verbose=False)


def _is_elsewhere(url):
    return urlsplit(url).scheme in ("http", "https", "ws") and urlsplit(url).hostname not in ("127.0.0.1", "localhost")


def shown(page):
    """The overlay's address, whose file is another one after each change."""
    return page.locator("#overlay img").first.get_attribute("src")


@pytest.mark.slow
def test_upload_overlay_opacity_and_table_in_a_browser(demo, picture, page, tmp_path):
    page.set_default_timeout(20_000)
    assert page.locator("#title h1").inner_text() == "tiny <model>"
    page.locator("#picture input[type=file]").set_input_files(picture)
    page.locator("#areas table").wait_for()
    labels = demo.label(str(picture)).labels
    areas = {NAMES[i]: int((labels == i).sum()) for i in np.unique(labels)}
    cells = [row.inner_text().split("\t") for row in page.locator("#areas tbody tr").all()]
    assert {cell[-4].strip(): int(cell[-1].replace(",", "")) for cell in cells} == areas
    page.locator("#overlay img").first.wait_for()
    first = shown(page)
    slider = page.locator("#opacity input[type=range]")
    slider.fill("1")
    slider.dispatch_event("pointerup")
    page.wait_for_function(
        "src => document.querySelector('#overlay img').src != src",
        arg=page.evaluate("src => new URL(src, location).href", first),
    )
    assert page.locator("#download").is_visible()
    if "SEGZOO_SCREENSHOT" in os.environ:
        page.screenshot(path=os.environ["SEGZOO_SCREENSHOT"])
    assert not page.elsewhere, "everything comes from the server itself"
    # What is no picture is an error on the page, and the server goes on.
    (tmp_path / "no.png").write_bytes(b"nothing")
    page.locator("#picture button[aria-label*=Remove], #picture button[aria-label*=Clear]").first.click()
    page.locator("#picture input[type=file]").set_input_files(tmp_path / "no.png")
    page.get_by_text("it is no picture").first.wait_for()
