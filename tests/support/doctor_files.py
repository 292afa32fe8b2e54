"""Soft random photos, a small data set of them, and what `ssfer doctor` says about it, for its tests."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssfer.doctor.examination import Settings, examine
from ssfer.doctor.json_report import as_values
from ssfer.doctor.text_report import show
from tests.support.image_files import encoded

Values = dict[str, Any]
HERE = Settings(workers=1)


def photo(seed: int, size: int = 64) -> Image.Image:
    """Return a soft random picture; different seeds look as different as different photos."""
    grain = np.random.default_rng(seed).integers(20, 236, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(grain).resize((size, size), Image.Resampling.BICUBIC)


def png(seed: int) -> bytes:
    return encoded(photo(seed))


def near_copy(seed: int) -> bytes:
    """The photo at 80 % of its size, as JPEG."""
    return encoded(photo(seed).resize((51, 51), Image.Resampling.BICUBIC), "JPEG", quality=60)


def class_folders(**more: bytes) -> dict[str, bytes]:
    """Two classes, five training and two test photos of seeds 1-7, and `more` (names with __ for /)."""
    return {
        **{f"train/anger/{i}.png": png(i) for i in (1, 2, 3)},
        **{f"train/fear/{i}.png": png(i) for i in (4, 5)},
        "test/anger/6.png": png(6),
        "test/fear/7.png": png(7),
        **{name.replace("__", "/") + ".png": data for name, data in more.items()},
    }


def look(*paths: Path, settings: Settings = HERE) -> Values:
    return as_values(examine(paths, settings))


def codes(values: Values) -> list[tuple[str, str]]:
    return [(f["severity"], f["code"]) for f in values["findings"]]


def finding(values: Values, code: str) -> Values:
    (found,) = [f for f in values["findings"] if f["code"] == code]
    return found


def page(values: Values) -> str:
    text = StringIO()
    show(values, text)
    return text.getvalue()
