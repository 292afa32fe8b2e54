"""README's picture: what it takes from the report, and one sentence where that has no faces."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from ssfer.core.errors import SsferError
from tools import picture


def shown(alt: str, size: tuple[int, int], color: str) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" width="9" alt="{alt}">'


def test_faces_stand_in_columns_beside_the_chart() -> None:
    strips = [shown(f"Sample faces of class {name}", (604, 72), color) for name, color in (("a", "red"), ("b", "blue"))]
    chart = shown("Bar chart of test accuracy per training step", (504, 252), "green")
    found = picture.draw("".join([*strips, chart]))
    assert found.size == (2 * 76 + 504 + 3 * 12, 252 + 2 * 12)
    colors = [found.getpixel((x, 12 + 24 + 76 + 36)) for x in (12 + 36, 12 + 76 + 36, 2 * 76 + 24 + 250)]
    assert colors == [(255, 0, 0), (0, 0, 255), (0, 128, 0)]


def test_a_report_without_faces_is_refused() -> None:
    with pytest.raises(SsferError, match="no sample faces or no chart of the steps; build the demo's with make repro"):
        picture.draw("<p>No faces are shown</p>")


def test_the_committed_pictures_are_small(root: Path) -> None:
    found = [picture.OUT, *sorted((root / "docs/tutorials").glob("notebook-*.png"))]
    assert len(found) >= 3 and all(path.stat().st_size < 200_000 for path in found)
