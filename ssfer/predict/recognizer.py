"""A trained model that is asked about new pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ssfer.core.errors import SsferError
from ssfer.core.images import fallback_box
from ssfer.data.augmentations.eval import Eval
from ssfer.faces.detectors.base import Detector
from ssfer.faces.detectors.registry import DETECTORS, build_detector
from ssfer.predict.crop import CropRecipe, Face, FaceFinder, Faces, recipe_of
from ssfer.predict.frames import Frame, frames_of
from ssfer.predict.runtimes.base import Runtime, open_runtime
from ssfer.predict.shipped_models import find_model
from ssfer.predict.table import Predictions, Row, face_row, status_row

# Pictures decoded at the same time; the windows of stage align, so that a detector batches the same ones.
WINDOW_IMAGES, WINDOW_PIXELS = 128, 64_000_000


class Recognizer:
    """A trained classifier with its face detector: pictures in, a table with a row per face out.

    Attributes:
        name: of the model, for people.
        classes: names in the order of the probabilities.
        recipe: how faces are cropped; the weights say it.
        runtime: computes the probabilities.
    """

    def __init__(self, name: str, runtime: Runtime, recipe: CropRecipe, detector: Detector) -> None:
        self.name, self.runtime, self.recipe = name, runtime, recipe
        self.classes = tuple(runtime.classes)
        self._finder = FaceFinder(recipe, detector)
        self._eval = Eval(runtime.size)

    def __repr__(self) -> str:
        return (
            f"Recognizer('{self.name}', {len(self.classes)} classes, crops: {self.recipe.name}, {self.runtime.device})"
        )

    def predict(
        self,
        inputs: Any,
        *,
        faces: Faces = "all",
        abstain: float = 0.0,
        batch: int = WINDOW_IMAGES,
        every: int = 1,
        fps: float | None = None,
    ) -> Predictions:
        """Return a table (pandas) with a row per face, and a row with a status for each picture without one.

        Args:
            inputs: a path of a photo, a video, a folder or a zip file; an RGB array (H, W, 3) or (N, H, W, 3) of uint8;
                a PIL image; a list of these; or an iterator of frames (arrays or images, also with the seconds before
                them: `(time, image)`), which is taken as one moving scene.
            faces: all; largest, of each picture; whole: the pictures are face crops already, nothing is detected.
            abstain: faces whose largest probability is below have status "uncertain" and no expression.
            batch: pictures that are worked on at a time.
            every: of videos each so-manieth frame.
            fps: of videos at most so many frames a second.

        Returns:
            The table; its columns are those of `ssfer.predict.table`.

        Raises:
            SsferError: something that is no picture; damaged files are rows with a status.
        """
        rows = list(self.rows(frames_of(inputs, every, fps), faces=faces, abstain=abstain, batch=batch))
        return Predictions.of(rows, self.classes)

    def rows(
        self, frames: Iterable[Frame], *, faces: Faces = "all", abstain: float = 0.0, batch: int = WINDOW_IMAGES
    ) -> Iterator[Row]:
        """Yield the rows of a stream of frames, in order, as they come; at most `batch` pictures are in memory."""
        for window in windows(frames, batch):
            yield from self._window(window, faces, abstain)

    def probabilities(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return calibrated probabilities (N, C) of crops (N, H, W, 3), uint8, RGB, made as `recipe` says."""
        if len(crops) == 0:
            return np.zeros((0, len(self.classes)), np.float32)
        return self.runtime(np.stack([self.view(crop) for crop in crops]))

    def view(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a crop as the network sees it: resized as in the test, (size, size, 3)."""
        image = torch.from_numpy(crop).permute(2, 0, 1)
        box = torch.tensor(fallback_box(crop.shape[0]))
        view: NDArray[np.uint8] = self._eval(image, box, 0).image.permute(1, 2, 0).contiguous().numpy()
        return view

    def faces_in(self, pictures: list[Image.Image], faces: Faces = "all") -> list[list[Face]]:
        """Return the faces of upright RGB pictures with their crops."""
        return self._finder.find(pictures, faces)

    def _window(self, window: list[Frame], faces: Faces, abstain: float) -> Iterator[Row]:
        found = iter(self.faces_in([frame.image for frame in window if frame.image is not None], faces))
        per_frame = [[] if frame.image is None else next(found) for frame in window]
        crops = [face.pixels() for one in per_frame for face in one]
        probs = iter(self.probabilities(np.stack(crops)) if crops else ())
        for frame, one in zip(window, per_frame, strict=True):
            if not one:
                yield status_row(frame, "no_face" if frame.image is not None else frame.status)
            for number, face in enumerate(one):
                yield face_row(frame, number, face, next(probs), self.classes, abstain)


def load(
    weights: str | Path | None = None,
    device: str = "auto",
    runtime: str = "auto",
    detector: Detector | None = None,
) -> Recognizer:
    """Return a Recognizer with the weights of a file, or with a model that ships.

    Args:
        weights: path of a weights file that a stage wrote, such as data/weights/model.safetensors, or the name of a
            shipped model (`ssfer models` lists them); None: the default one.
        device: auto, cpu or cuda; the detector and the network compute there.
        runtime: torch, or onnx for a file that `ssfer export` wrote; auto: what the file's ending says.
        detector: another one than the weights' own; None: that.

    Raises:
        SsferError: no such file or model, weights of another format or kind, an unknown runtime, a device that is not
            there, a detector that cannot be built.
    """
    if runtime == "auto":
        runtime = "onnx" if weights is not None and Path(weights).suffix == ".onnx" else "torch"
    path = find_model(weights, runtime)
    opened = open_runtime(runtime, path, device)
    recipe = recipe_of(opened.meta, path)
    return Recognizer(path.stem, opened, recipe, detector or _detector(recipe, path, opened.device))


def _detector(recipe: CropRecipe, path: Path, device: str) -> Detector:
    if ":" in recipe.detector:  # code of the writer's own; a weights file must not name what is run
        raise SsferError(
            f"{path} was trained on crops of the detector {recipe.detector}, which is code of its writer's own; "
            "hand it in: ssfer.load(..., detector=...)"
        )
    kind: Any = DETECTORS[recipe.detector]
    settings = kind.Settings.model_validate(recipe.settings)
    kind.check(settings)
    return build_detector(recipe.detector, settings, device)


def windows(frames: Iterable[Frame], most: int) -> Iterator[list[Frame]]:
    """Yield the frames in lists of at most `most`, fewer where the pictures are large."""
    window: list[Frame] = []
    pixels = 0
    for frame in frames:
        window.append(frame)
        pixels += frame.image.width * frame.image.height if frame.image else 0
        if len(window) >= most or pixels >= WINDOW_PIXELS:
            yield window
            window, pixels = [], 0
    if window:
        yield window
