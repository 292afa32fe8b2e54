"""Draw README's picture, docs/results/demo.png, from the demo's report: rendered test faces, accuracy of each step.

python -m tools.picture         needs metrics/report.html of the demo with report.gallery: true
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ssfer.core.errors import SsferError
from ssfer.core.files import write_bytes
from ssfer.core.process import stage_main

ROOT = Path(__file__).resolve().parents[1]
REPORT, OUT = ROOT / "metrics/report.html", ROOT / "docs/results/demo.png"
FACES, SIDE, GAP = 3, 72, 4  # faces of a class, their side in the report's strips, the gap between them
MARGIN, LABEL = 12, 24  # around everything; height of the classes' names
COLORS = 96  # a palette keeps the file small


def images(report: str, alt: str) -> list[tuple[str, Image.Image]]:
    """Return (rest of the alternative text, picture) of the report's inline pictures whose text begins with `alt`."""
    found = re.findall(rf'<img src="data:image/\w+;base64,([^"]+)"[^>]* alt="{re.escape(alt)}([^"]*)"', report)
    return [(rest, Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) for data, rest in found]


def draw(report: str) -> Image.Image:
    """Return the picture: a column of faces per class on the left, the chart of the steps on the right.

    Raises:
        SsferError: the report shows no faces or has no chart.
    """
    strips, charts = images(report, "Sample faces of class "), images(report, "Bar chart of test accuracy")
    if not strips or not charts:
        raise SsferError(
            "metrics/report.html has no sample faces or no chart of the steps; build the demo's with make repro"
        )
    step = SIDE + GAP
    width, height = step * len(strips), LABEL + step * FACES
    (_, chart), *_ = charts
    chart = chart.resize((round(chart.width * height / chart.height), height), Image.Resampling.LANCZOS)
    picture = Image.new("RGB", (width + chart.width + 3 * MARGIN, height + 2 * MARGIN), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for i, (name, strip) in enumerate(strips):
        left = MARGIN + i * step
        pen.text((left + SIDE / 2, MARGIN + LABEL / 2), name, fill="#1f2933", font=font, anchor="mm")
        for j in range(FACES):
            face = strip.crop((j * step, 0, j * step + SIDE, SIDE))
            picture.paste(face, (left, MARGIN + LABEL + j * step))
    picture.paste(chart, (width + 2 * MARGIN, MARGIN))
    return picture


def main() -> None:
    """See the module docstring."""
    buffer = io.BytesIO()
    draw(REPORT.read_text()).quantize(COLORS).save(buffer, format="PNG", optimize=True)
    write_bytes(OUT, buffer.getvalue())
    print(f"wrote {OUT} ({len(buffer.getvalue()):,} bytes)")


if __name__ == "__main__":
    stage_main("picture", main)
