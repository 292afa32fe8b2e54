"""The report in a real Chromium: it fits a phone, a desk and paper, and its plots follow light and dark."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssfer.report.page import build_report
from tests.support.report_runs import fake_faces, fake_metrics, make_params

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESK, PAPER = 390, 1200, 688  # CSS pixels; A4 without its margins
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, params = tmp_path_factory.mktemp("run"), make_params(report__gallery=True)
    fake_metrics(folder / "metrics")
    fake_faces(folder / "data", params)
    (folder / "report.html").write_text(build_report(params, folder / "metrics", folder / "data"))
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # Chromium refuses to run its sandbox as root.
        yield driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])


def opened(browser: Any, address: str, width: int, scheme: str = "light", media: str = "screen") -> Any:
    """Return the page as shown; a message of the browser, such as one about blocked content, fails the test."""
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    page.set_default_timeout(120_000)
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.emulate_media(media=media, color_scheme=scheme)
    page.goto(address)
    assert not told
    return page


@pytest.mark.parametrize(("width", "media"), [(PHONE, "screen"), (DESK, "screen"), (PAPER, "print")])
def test_nothing_is_wider_than_the_page_and_every_picture_is_shown(
    browser: Any, address: str, width: int, media: str
) -> None:
    page = opened(browser, address, width, media=media)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].length") > 6
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


@pytest.mark.parametrize(
    ("scheme", "media", "dark"), [("light", "screen", False), ("dark", "screen", True), ("dark", "print", False)]
)
def test_plots_and_page_have_the_same_ground(browser: Any, address: str, scheme: str, media: str, dark: bool) -> None:
    page = opened(browser, address, DESK, scheme, media)
    shot = Image.open(io.BytesIO(page.locator(".plot").first.screenshot())).convert("L")
    ground = np.median(np.asarray(shot))
    assert ground < 60 if dark else ground > 230
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(back[4:].split(",")[0]) < 60) is dark


def test_a_link_of_the_contents_leads_to_its_section(browser: Any, address: str) -> None:
    page = opened(browser, address, PHONE)
    page.locator("nav a", has_text="Terms").click()
    assert page.locator("#terms").bounding_box()["y"] < 900
