"""Pictures of the report as PNG bytes: one style, safe for color-blind readers, no global state, equal bytes each run.

Rates are given as 0..1 and shown in percent. Colors are Okabe and Ito's; lines also differ by marker or dash. Sizes are
inches; at 96 pixels per inch (`PAGE_SCALE`), text in all pictures has the size of the page's text.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
MARKERS = ("o", "s", "^", "D", "v", "X")
DASHES = ("-", "--", "-.", ":", "-", "--")
INK, FAINT = "#1f2933", "#6b7785"
STYLE: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.w_pad": 0.09,  # inches around each plot
    "figure.constrained_layout.h_pad": 0.07,
}
# For letters that the usual font lacks, as in Japanese class names: tried in turn if installed.
FALLBACK_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans JP",
    "IPAexGothic",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Hiragino Sans",
    "PingFang SC",
    "Arial Unicode MS",
    "Noto Sans",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
)
DPI = 130
_LETTER, _KEY = 0.075, 0.5  # inches: width of a letter of a legend, and of an entry's line with its gap
PAGE_SCALE = 96 / DPI  # CSS pixels per picture pixel
Points = tuple[Sequence[float], Sequence[float]]  # x, y


@dataclass(frozen=True)
class Panel:
    """One small plot: name -> (x, y); `rate` series are shown in percent on a 0..100 axis."""

    title: str
    series: Mapping[str, Points]
    rate: bool = False
    xlabel: str = "epoch"


@dataclass(frozen=True)
class Step:
    """One bar of the ladder: accuracy of the last epoch with its interval, and of the validation-selected one."""

    name: str
    last: float
    interval: tuple[float, float]
    best: float | None = None


def confusion_png(counts: npt.NDArray[np.integer[Any]], classes: Sequence[str]) -> bytes:
    """Draw counts (K, K), rows true; a cell's shade is its share of the row."""
    size = 1.7 + 0.5 * len(classes)
    return render(lambda figure: draw_confusion(figure.subplots(), counts, classes), (size + 0.2, size - 0.1))


def draw_confusion(
    axes: Axes, counts: npt.NDArray[np.integer[Any]], classes: Sequence[str], percent: bool = False
) -> None:
    """Draw counts (K, K), rows true, as numbers or in percent of the row; a cell's shade is its share of the row."""
    rows = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    for (i, j), count in np.ndenumerate(counts):
        color = "white" if share[i, j] > 0.55 else INK if count else "#b8c1cc"
        text = f"{100 * share[i, j]:.0f}" if percent else str(count)
        axes.text(j, i, text, ha="center", va="center", color=color)
    axes.set_xticks(range(len(classes)), classes, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), classes)
    axes.tick_params(length=0)
    axes.set(xlabel="predicted", ylabel="true")


def ladder_png(steps: Sequence[Step], chance: float, majority: float) -> bytes:
    """Draw accuracy per step with 95 % intervals, the chance line and the line of the most frequent class."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        place = range(len(steps))
        values = np.array([s.last for s in steps]) * 100
        spread = np.abs(np.array([s.interval for s in steps]).T * 100 - values)
        axes.bar(place, values, width=0.56, color=[SKY] * (len(steps) - 1) + [BLUE], zorder=2)
        axes.errorbar(place, values, spread, fmt="none", ecolor=INK, elinewidth=1.3, capsize=4, zorder=3)
        for x, value, step in zip(place, values, steps, strict=True):
            axes.text(x, step.interval[1] * 100 + 1.5, f"{value:.1f}", ha="center", va="bottom", fontweight="bold")
        chosen = [(x, s.best * 100) for x, s in zip(place, steps, strict=True) if s.best is not None]
        if chosen:
            label = "validation-selected epoch"
            right, best = [x + 0.36 for x, _ in chosen], [y for _, y in chosen]
            axes.plot(right, best, ls="none", marker="D", ms=5.5, mfc="white", mec=RED, mew=1.4, label=label)
        axes.axhline(chance * 100, color=FAINT, ls="--", lw=1.3, zorder=2.5, label=f"chance {chance:.1%}")
        if abs(majority - chance) > 0.002:
            label = f"most frequent class {majority:.1%}"
            axes.axhline(majority * 100, color=ORANGE, ls=":", lw=1.8, zorder=2.5, label=label)
        axes.set_xticks(place, [s.name for s in steps])
        axes.set(ylabel="test accuracy, %", ylim=(0, 108), xlim=(-0.6, len(steps) - 0.4))
        axes.grid(False, axis="x")
        legend_below(figure, axes)

    return render(draw, (max(4.5, 1.55 * len(steps) + 1.2), 3.6))


def curves_png(panels: Sequence[Panel]) -> bytes:
    """Draw panels side by side; empty series are left out, sparse ones get markers."""

    def draw(figure: Figure) -> None:
        for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
            _draw_panel(axes, panel)

    return render(draw, ({1: 5.6, 2: 8.8}.get(len(panels), 3.3 * len(panels)), 2.9))


def small_multiples_png(panels: Sequence[Panel], columns: int = 4) -> bytes:
    """Draw many rate panels with shared axes and one legend."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for index, axes in enumerate(grid.flat):
            if index < len(panels):
                _draw_panel(axes, panels[index], legend=False)
            else:
                axes.set_visible(False)
            if index + columns < len(panels):
                axes.set_xlabel("")
            if index % columns:
                axes.set_ylabel("")
            # With shared axes only the last row shows numbers; a panel above an empty cell needs its own.
            axes.tick_params(labelbottom=index + columns >= len(panels))
        legend_below(figure, grid[0, 0])

    return render(draw, (2.3 * columns + 0.7, 1.85 * rows + 0.5))


def _draw_panel(axes: Axes, panel: Panel, legend: bool = True) -> None:
    scale = 100 if panel.rate else 1
    for index, (name, (x, y)) in enumerate(panel.series.items()):
        if len(x):
            few = len(x) <= 25
            style: dict[str, Any] = {"color": PALETTE[index % len(PALETTE)], "label": name, "ms": 3.6}
            style |= {"marker": MARKERS[index % len(MARKERS)]} if few else {"ls": DASHES[index % len(DASHES)]}
            axes.plot(x, np.asarray(y) * scale, **style)
    axes.set_title(panel.title)
    axes.set_xlabel(panel.xlabel)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if panel.rate:
        axes.set(ylim=(0, 103), ylabel="%")
    if legend and len(panel.series) > 1:
        axes.legend(fontsize=9, handlelength=2.4)


def legend_below(figure: Figure, axes: Axes) -> None:
    """Put the legend of `axes` below the figure, in as few rows as its width allows."""
    handles, labels = axes.get_legend_handles_labels()
    columns = legend_columns(labels, figure.get_figwidth())
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def legend_columns(labels: Sequence[str], width: float) -> int:
    """Return how many entries of a legend fit side by side in a width in inches."""
    widest = max((len(label) for label in labels), default=0) * _LETTER + _KEY
    return max(1, min(int(width / widest), len(labels)))


def render(draw: Callable[[Figure], None], size: tuple[float, float]) -> bytes:
    """Return a figure of `size` inches as PNG; equal drawings give equal bytes."""
    installed = {font.name for font in fontManager.ttflist}
    fonts = [*rcParams["font.family"], *(name for name in FALLBACK_FONTS if name in installed)]
    with rc_context({**STYLE, "font.family": fonts}), _missing_glyphs_in_a_sentence():
        figure = Figure(figsize=size, dpi=DPI, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def _missing_glyphs_in_a_sentence() -> Iterator[None]:
    """Replace Python's warnings about characters without a glyph, several per plot, by a sentence per process."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if "missing from font" in str(warning.message):
            _say_missing_font()
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


@cache
def _say_missing_font() -> None:
    print(
        "the plots show boxes for letters of some names, because no font that is installed here and known to ssfer has "
        "them; install one, such as Noto Sans CJK (Debian: fonts-noto-cjk)",
        file=sys.stderr,
    )
