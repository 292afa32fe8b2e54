"""The two pictures of Table 7 as PNG bytes, in the report's style: the paper's figures 8 and 9 from our own numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssfer.evaluation.attack.masks import measured_regions
from ssfer.report.plots import BLUE, FAINT, GREEN, INK, ORANGE, RED, legend_below, render

COLORS = {"focused": BLUE, "unfocused": ORANGE, "random": GREEN}
MARKS = {"focused": "o", "unfocused": "s", "random": "^"}
Pixels = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Face:
    """One column of `faces_png`: pictures (H, W, 3) and map (H, W), all in 0..1; captions are class names."""

    truth: str
    clean: tuple[Pixels, str]
    cam: Pixels
    attacked: Mapping[str, tuple[Pixels, str]]


def accuracy_png(models: Mapping[str, Mapping[str, Any]], chance: float) -> bytes:
    """Draw accuracy (0..1, shown in percent) with its interval against epsilon, one panel per model.

    Args:
        models: name -> region -> epsilon as text -> {"accuracy": A, "accuracy_ci95": [low, high]}, as in
            metrics/robustness.json; other keys are ignored.
    """

    def draw(figure: Figure) -> None:
        row = np.atleast_1d(figure.subplots(1, len(models), sharey=True))
        for index, (axes, (name, measured)) in enumerate(zip(row, models.items(), strict=True)):
            for region in measured_regions(measured):
                x = [float(epsilon) for epsilon in measured[region]]
                y = 100 * np.array([found["accuracy"] for found in measured[region].values()])
                low, high = 100 * np.array([found["accuracy_ci95"] for found in measured[region].values()]).T
                axes.fill_between(x, low, high, color=COLORS[region], alpha=0.18, lw=0)
                axes.plot(x, y, color=COLORS[region], marker=MARKS[region], ms=4.5, label=region)
            axes.axhline(100 * chance, color=FAINT, ls="--", lw=1.3, label=f"chance {chance:.1%}")
            axes.set_title(name)
            axes.set(xlabel="epsilon; lines by attacked region", ylim=(0, 103))
            axes.set_ylabel("" if index else "test accuracy, %")
        legend_below(figure, row[0])

    return render(draw, (max(5.8, 3.4 * len(models)), 3.3))


def faces_png(faces: Sequence[Face], threshold: float, epsilon: float) -> bytes:
    """Draw faces side by side: unchanged, with Grad-CAM (line: border of the focused region), and attacked by region.

    The predicted class is below each picture, in red if it is wrong.
    """
    attacked = list(faces[0].attacked)
    titles = ["face", "Grad-CAM", *(f"{region},\nepsilon {epsilon:g}" for region in attacked)]

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(titles), len(faces), squeeze=False)
        for column, face in enumerate(faces):
            pictures = [face.clean, face.clean, *(face.attacked[region] for region in attacked)]
            for axes, (pixels, predicted) in zip(grid[:, column], pictures, strict=True):
                _show(axes, pixels)
                axes.set_xlabel(predicted, fontsize=8, color=INK if predicted == face.truth else RED)
            grid[1, column].set_xlabel("")
            _overlay(grid[1, column], face.cam, threshold)
            grid[0, column].set_title(face.truth, fontsize=9, loc="center")
        for axes, title in zip(grid[:, 0], titles, strict=True):
            axes.set_ylabel(title, fontsize=9)

    return render(draw, (1.15 * len(faces) + 0.7, 1.3 * len(titles) + 0.2))


def _show(axes: Axes, pixels: Pixels) -> None:
    axes.imshow(pixels, vmin=0, vmax=1)
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _overlay(axes: Axes, cam: Pixels, threshold: float) -> None:
    axes.imshow(cam, cmap="inferno", vmin=0, vmax=1, alpha=0.55)
    axes.contour(cam, levels=[threshold], colors="white", linewidths=1)
