"""Accuracy against the number of labels as a picture: a line per row of a table, with the spread over seeds."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure

from ssfer.core.errors import SsferError
from ssfer.report.plots import FAINT, MARKERS, PALETTE, legend_below, legend_columns, render
from ssfer.tables.numbers import Line


def label_curve_png(title: str, lines: Sequence[Line]) -> bytes:
    """Draw mean accuracy by label budget with error bars of one sample standard deviation; the paper's values dashed.

    Budgets are evenly spaced in the order of the lines, because shares of different data sets and counts per class have
    no common scale.

    Raises:
        SsferError: fewer than two budgets have a result.
    """
    lines = [line for line in lines if line.mean is not None and line.count is None]
    budgets = list(dict.fromkeys(line.labels for line in lines))
    if len(budgets) < 2:
        have = f"only {budgets[0]}" if budgets else "no budget"
        raise SsferError(
            f"a label curve needs results of two label budgets, but {have} has results here; name several "
            "(--labels 5% --labels 10%) and run them first (ssfer experiments run)"
        )
    names = list(dict.fromkeys(f"{line.row}{f', {line.point}' if line.point else ''}" for line in lines))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, name in enumerate(names):
            own = [line for line in lines if name == f"{line.row}{f', {line.point}' if line.point else ''}"]
            color, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
            places = [budgets.index(line.labels) for line in own]
            means, spreads = [line.mean or 0.0 for line in own], [line.spread or 0.0 for line in own]
            axes.errorbar(places, means, spreads, color=color, marker=marker, ms=5, capsize=4, label=name)
            printed = [(place, line.paper) for place, line in zip(places, own, strict=True) if line.paper is not None]
            if printed:
                label = f"{name}, paper"
                axes.plot(*zip(*printed, strict=True), color=color, ls="--", marker=marker, mfc="white", label=label)
        axes.set_xticks(range(len(budgets)), budgets)
        axes.set(xlabel="labels", ylabel="test accuracy, %", xlim=(-0.4, len(budgets) - 0.6))
        axes.set_title("\n".join(textwrap.wrap(title, int(9 * figure.get_figwidth()))))
        axes.tick_params(colors=FAINT)
        legend_below(figure, axes)

    width = max(6.0, 1.5 * len(budgets) + 2.0)
    shown = [*names, *(f"{name}, paper" for name in names if any(line.paper is not None for line in lines))]
    rows = math.ceil(len(shown) / legend_columns(shown, width))
    return render(draw, (width, 3.6 + 0.23 * rows))
