"""Pictures of `ssfer figure` as PNG bytes, in the report's style."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from ssfer.report.plots import INK, MARKERS, PALETTE, draw_confusion, render

TITLES = {  # of `ssfer figure`, by name, with the paper's numbers
    "reconstructions": "3: what the masked autoencoder fills in, by mask ratio",
    "confusions": "7: confusion matrices of every label budget, from the records of table 2",
    "gradcam": "8: Grad-CAM, where the model looks",
    "fgsm": "9: accuracy under attack, by epsilon",
    "embedding": "the test faces' features in two dimensions (t-SNE)",
}
Pixels = npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[np.integer[Any]]
COLORS = (*PALETTE, INK, "#F0E442")  # Okabe and Ito's eight; with more classes they repeat, with another marker


def faces_png(rows: Sequence[tuple[str, Sequence[Pixels]]]) -> bytes:
    """Draw rows of pictures (H, W, 3) in 0..1, each row with its title."""

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(rows), len(rows[0][1]), squeeze=False)
        for line, (title, pictures) in zip(grid, rows, strict=True):
            for axes, pixels in zip(line, pictures, strict=True):
                axes.imshow(pixels, vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                axes.spines[:].set_visible(False)
            line[0].set_ylabel(title, fontsize=8)

    return render(draw, (1.1 * len(rows[0][1]) + 0.6, 1.1 * len(rows) + 0.2))


def confusions_png(panels: Sequence[tuple[str, Counts]], classes: Sequence[str]) -> bytes:
    """Draw confusion matrices (K, K), rows true, side by side, in percent of the row."""
    size = 1.9 + 0.5 * len(classes)

    def draw(figure: Figure) -> None:
        for index, (axes, (title, counts)) in enumerate(
            zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True)
        ):
            draw_confusion(axes, counts, classes, percent=True)
            axes.set_title(title)
            if index:
                axes.set(ylabel="", yticklabels=[])

    return render(draw, (size * len(panels), size))


def embedding_png(points: Pixels, labels: npt.NDArray[np.int64], classes: Sequence[str]) -> bytes:
    """Draw points (N, 2), colored by class; axes have no unit."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, name in enumerate(classes):
            x, y = points[labels == index].T
            axes.scatter(
                x,
                y,
                s=11,
                c=COLORS[index % len(COLORS)],
                marker=MARKERS[index % len(MARKERS)],
                linewidths=0,
                label=name,
            )
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
        figure.legend(loc="outside right upper")

    return render(draw, (6.6, 5.0))
