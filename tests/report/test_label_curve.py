"""The label curve: what is drawn, and what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ssfer.core.errors import SsferError
from ssfer.report import label_curve, plots
from ssfer.tables.numbers import Line

LINES = [
    Line("SSFER", "5%", "", {1: 70.0, 2: 74.0}, 81.5),
    Line("SSFER", "10%", "", {1: 80.0}, None),
    Line("Baseline", "10%", "", {}, None),
]


def test_a_line_per_row_at_its_budgets_with_the_papers_values(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []

    def keep(draw: Callable[[Figure], None], size: Any) -> bytes:
        drawn.append(Figure(figsize=size))
        FigureCanvasAgg(drawn[0])
        draw(drawn[0])
        return b""

    monkeypatch.setattr(label_curve, "render", keep)
    label_curve.label_curve_png("title", LINES)
    (axes,) = drawn[0].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5%", "10%"]
    shown = {tuple(map(float, line.get_ydata())) for line in axes.lines}
    assert (72.0, 80.0) in shown and (81.5,) in shown
    assert {text.get_text() for text in drawn[0].legends[0].get_texts()} == {"SSFER", "SSFER, paper"}


def test_a_long_title_and_many_rows_stay_inside_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Figure] = []
    make = plots.Figure
    monkeypatch.setattr(plots, "Figure", lambda **size: kept.append(make(**size)) or kept[-1])
    rows = [f"A method with a long name {i}" for i in range(12)]
    lines = [
        Line(row, labels, "average", {1: 70.0 + i}, None) for i, row in enumerate(rows) for labels in ("5%", "10%")
    ]
    label_curve.label_curve_png(
        "Every method, on one split, from one start, at one label budget (own data, here)", lines
    )
    (figure,) = kept
    whole = figure.bbox
    for part in (figure.axes[0].title, figure.legends[0]):
        box = part.get_window_extent()
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
    assert figure.axes[0].get_window_extent().height > 0.4 * whole.height


def test_one_budget_is_no_curve() -> None:
    with pytest.raises(SsferError, match=r"two label budgets, but only 10% has results here; name several \(--labels"):
        label_curve.label_curve_png("title", LINES[1:])
    with pytest.raises(SsferError, match="but no budget has results here"):
        label_curve.label_curve_png("title", [])
