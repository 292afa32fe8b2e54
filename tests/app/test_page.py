"""The page in a real Chromium: photos, video, webcam, table, narrow and dark; no other computer is asked."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra 'app' is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from ssfer.app.limits import Limits  # noqa: E402
from ssfer.app.recognition import Recognition  # noqa: E402
from ssfer.app.server import create_app  # noqa: E402
from tests.support.page_server import thread_server  # noqa: E402
from tests.support.rendered_photos import bright_photo  # noqa: E402
from tests.support.small_model import small_recognizer  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BOXES = ((100, 100, 300, 300), (400, 150, 520, 270))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    recognizer = small_recognizer(tmp_path_factory.mktemp("model"))
    with thread_server(create_app(Recognition(recognizer, Limits(bytes=400_000)))) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        options = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # Chromium refuses to run its sandbox as root
        yield driver.chromium.launch(executable_path=CHROMIUM, args=options)


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The opened page; whatever the browser complains of, or fetches elsewhere, fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    made = context.new_page()
    complaints: list[str] = []
    made.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on("request", lambda r: None if r.url.startswith((address, "blob:", "data:")) else complaints.append(r.url))
    made.goto(address)
    until(made, "document.getElementById('model').textContent.includes('small')")
    yield made
    context.close()
    assert complaints == []


def until(page: Any, script: str) -> None:
    """Wait until an expression is true; the page's policy forbids Playwright's own way, which evaluates in the page."""
    for _ in range(600):
        if page.evaluate(script):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"not within a minute: {script}; the page says: {page.text_content('#status')}")


def photo(*boxes: tuple[int, int, int, int], name: str = "two.png") -> dict[str, Any]:
    buffer = io.BytesIO()
    bright_photo(*boxes, size=(640, 480)).save(buffer, "PNG", compress_level=9)
    return {"name": name, "mimeType": "image/png", "buffer": buffer.getvalue()}


def jpeg(*boxes: tuple[int, int, int, int], name: str = "two.jpg") -> dict[str, Any]:
    buffer = io.BytesIO()
    bright_photo(*boxes, size=(640, 480)).save(buffer, "JPEG", quality=60)
    return {"name": name, "mimeType": "image/jpeg", "buffer": buffer.getvalue()}


def look(page: Any, name: str) -> None:
    """Keep a picture of the page where SSFER_SCREENSHOTS says."""
    if folder := os.environ.get("SSFER_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def table(page: Any) -> list[list[str]]:
    return page.eval_on_selector_all("#table tbody tr", "rows => rows.map(r => [...r.cells].map(c => c.textContent))")  # type: ignore[no-any-return]


def test_a_photo_gets_boxes_bars_and_rows(page: Any, tmp_path: Path) -> None:
    page.set_input_files("#files", [jpeg(*BOXES, name="=two,1.jpg"), jpeg(name="none.jpg")])
    until(page, "document.querySelectorAll('#table tbody tr').length === 3")
    assert [row[0] for row in table(page)] == ["none.jpg", "=two,1.jpg", "=two,1.jpg"]
    page.set_input_files("#files", jpeg(*BOXES))
    page.wait_for_selector("#faces li")
    assert page.locator("#faces li").count() == 2 and page.locator("#faces li .bar").count() == 6
    shares = (
        "[...document.querySelectorAll('.bar')].map(b => b.querySelector('i').offsetWidth / b.children[1].offsetWidth)"
    )
    assert page.evaluate(shares)[:3] == pytest.approx([float(value) for value in table(page)[1][6:9]], abs=0.02)
    assert page.evaluate("[picture.width, picture.height]") == [640, 480]
    corner = page.evaluate("[...picture.getContext('2d').getImageData(100, 200, 1, 1).data].slice(0, 3)")
    assert np.abs(np.array(corner) - [31, 95, 191]).max() < 60  # the box's edge
    look(page, "photo")
    with page.expect_download() as download:
        page.click("#download")
    rows = list(csv.DictReader(download.value.path().read_text().splitlines()))
    assert [row["input"] for row in rows] == ["'=two,1.jpg"] * 2 + ["none.jpg"] + ["two.jpg"] * 2
    assert rows[2]["status"] == "no_face" and rows[2]["expression"] == ""
    chances = [float(rows[0][f"p_{name}"]) for name in ("anger", "happiness", "surprise")]
    assert sum(chances) == pytest.approx(1, abs=1e-5) and float(rows[0]["confidence"]) == pytest.approx(max(chances))
    assert [float(rows[0][name]) for name in ("x1", "y1", "x2", "y2")] == pytest.approx(BOXES[0], abs=2)


def test_the_map_lies_over_the_face(page: Any) -> None:
    page.check("#explain")
    page.set_input_files("#files", jpeg(*BOXES))
    page.wait_for_selector("#faces li img")
    assert page.evaluate("[...document.querySelectorAll('#faces img')].map(i => i.naturalWidth)") == [176, 176]
    look(page, "explain")


def test_a_video_gets_rows_with_times(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "moving.webm"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"VP80"), 10, (320, 240))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no WebM video")
    for i in range(20):
        box = (20 + 5 * i, 50, 120 + 5 * i, 150)
        writer.write(np.asarray(bright_photo(box, size=(320, 240)))[:, :, ::-1].copy())
    writer.release()
    page.set_input_files("#files", str(path))
    until(page, "document.getElementById('status').textContent.endsWith('done')")
    rows = table(page)[::-1]
    assert [row[1] for row in rows] == ["0", "0.5", "1", "1.5"] and {row[3] for row in rows} == {"ok"}
    left = [float(row[-4]) for row in rows]
    assert left == pytest.approx([20, 45, 70, 95], abs=6)
    look(page, "video")


def test_the_webcam_runs_until_it_is_stopped(page: Any) -> None:
    page.click("#camera")
    until(page, "document.querySelectorAll('#table tbody tr').length > 2")
    look(page, "webcam")
    page.click("#stop")
    page.wait_for_timeout(1000)
    count = len(table(page))
    page.wait_for_timeout(1000)
    assert len(table(page)) == count and {row[0] for row in table(page)} == {"webcam"}
    assert page.locator("#stop").is_hidden()


def test_a_bad_file_is_said_and_the_others_are_shown(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    until(page, "document.getElementById('model').textContent.includes('small')")
    damaged = {"name": "damaged.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"}
    page.set_input_files("#files", [damaged, photo(name="large.png"), jpeg(*BOXES)])
    page.wait_for_selector("#faces li")
    said = {row[0]: row[3] for row in table(page)}
    assert "no readable picture" in said["damaged.jpg"] and said["large.png"] == "larger than 0.4 MB"
    assert said["two.jpg"] == "ok"
    page.close()


def test_it_fits_a_phone_and_a_dark_screen(browser: Any, address: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
    page = context.new_page()
    page.goto(address)
    page.set_input_files("#files", jpeg(*BOXES))
    page.wait_for_selector("#faces li")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(22, 24, 28)"
    look(page, "phone")
    page.goto(f"{address}/docs")
    page.wait_for_selector("#operations table")
    assert "POST /predict" in page.text_content("#operations") and "curl --data-binary" in page.text_content("#example")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    look(page, "docs")
    context.close()
