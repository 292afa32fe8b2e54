"""Apply a trained model and its face detector to new pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from ssfer.core.errors import SsferError
from ssfer.core.images import fallback_box
from ssfer.data.augmentations.eval import Eval
from ssfer.faces.detectors.base import Detector
from ssfer.faces.detectors.registry import DETECTORS, build_detector
from ssfer.predict.crop import CropRecipe, Face, FaceFinder, Faces, recipe_of, unknown_recipe
from ssfer.predict.frames import WINDOW_IMAGES, Frame, windows
from ssfer.predict.inputs import frames_of
from ssfer.predict.insight import Explanation, Seen, explain, features
from ssfer.predict.runtimes.base import Runtime, open_runtime
from ssfer.predict.shipped_models import find_model
from ssfer.predict.table import Collected, Predictions, Row, face_row, status_row
from ssfer.predict.tracks import Scene, boxes_of, seconds_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Result:
    """The faces of one frame and their rows, or one row with a status."""

    frame: Frame
    faces: list[Face]
    rows: list[Row]


@dataclass(frozen=True)
class Options:
    """How faces are detected and classified; see `Recognizer.predict`."""

    faces: Faces = "all"
    abstain: float = 0.0
    smooth: float = 0.0
    batch: int = WINDOW_IMAGES

    def __post_init__(self) -> None:
        if self.faces not in ("all", "largest", "whole"):
            raise SsferError(f"expected faces all, largest or whole, found '{self.faces}'")
        if not (0 <= self.abstain <= 1 and self.smooth >= 0 and self.batch >= 1):
            raise SsferError(
                f"expected abstain in 0..1, smooth >= 0 and batch >= 1, found {self.abstain}, {self.smooth} and "
                f"{self.batch}"
            )


class Recognizer:
    """A trained classifier with its face detector: pictures in, a table with one row per face out.

    Attributes:
        name: of the model, for display.
        classes: names in the order of the probabilities.
        recipe: how faces are cropped, from the weights file.
        runtime: computes the probabilities.
    """

    def __init__(self, name: str, runtime: Runtime, recipe: CropRecipe, detector: Detector) -> None:
        self.name, self.runtime, self.recipe = name, runtime, recipe
        self.classes = tuple(runtime.classes)
        self._finder = FaceFinder(recipe, detector)
        self._eval = Eval(runtime.size)

    def __repr__(self) -> str:
        about = f"{len(self.classes)} classes, crops: {self.recipe.name}, {self.runtime.device}"
        return f"Recognizer('{self.name}', {about})"

    def predict(
        self,
        inputs: Any,
        *,
        faces: Faces = "all",
        abstain: float = 0.0,
        smooth: float = 0.0,
        batch: int = WINDOW_IMAGES,
        every: int = 1,
        fps: float | None = None,
    ) -> Predictions:
        """Return a pandas table with one row per face, and one row with a status per picture without a face.

        Args:
            inputs: a path of a photo, a video, a folder or a zip file; an RGB array (H, W, 3) or (N, H, W, 3) of uint8;
                a PIL image; a list of these; or an iterator of frames (arrays or images, or `(seconds, image)`), which
                is treated as one video.
            faces: all; largest: the largest face of each picture; whole: the pictures are face crops, no detection.
            abstain: faces whose largest probability is below this have status "uncertain" and no expression.
            smooth: for videos: time constant in seconds of averaging along a face's track; 0: no averaging.
            batch: most pictures that are processed together.
            every: for videos: use every Nth frame.
            fps: for videos: use at most this many frames per second; None: all.

        Returns:
            The table; `ssfer.predict.table` has the columns.

        Raises:
            SsferError: an input that cannot be a picture; damaged files are rows with a status.
        """
        table = Collected(self.classes)
        for result in self.results(frames_of(inputs, every, fps), Options(faces, abstain, smooth, batch)):
            table.add(result.rows, [face.jpeg for face in result.faces])
        return table.predictions()

    def results(
        self, frames: Iterable[Frame], options: Options | None = None, scene: Scene | None = None
    ) -> Iterator[Result]:
        """Yield the result of each frame of a stream, in order; only one batch of pictures is in memory.

        Args:
            frames: see `ssfer.predict.frames`.
            options: None: the defaults.
            scene: tracks of an interrupted video that the stream continues; None: start new ones.
        """
        options = options or Options()
        for window in windows(frames, options.batch):
            pictures = [frame.image for frame in window if frame.image is not None]
            found = iter(self.faces_in(pictures, options.faces, window[0].moving))
            per_frame = [[] if frame.image is None else next(found) for frame in window]
            crops = [face.pixels() for one in per_frame for face in one]
            probs = iter(self.probabilities(np.stack(crops)) if crops else ())
            for frame, faces in zip(window, per_frame, strict=True):
                if frame.moving and (scene is None or scene.input != frame.input):
                    scene = Scene(frame.input, options.smooth)
                judged = np.array([next(probs) for _ in faces])
                yield Result(frame, faces, self._rows(frame, faces, judged, options, scene if frame.moving else None))

    def probabilities(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return calibrated probabilities (N, C) of RGB crops (N, H, W, 3), uint8, made by `recipe`."""
        if len(crops) == 0:
            return np.zeros((0, len(self.classes)), np.float32)
        return self.runtime(self.views(crops))

    def views(self, crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return crops (N, H, W, 3) as the network sees them, by the eval transform (N, size, size, 3), uint8."""
        return np.stack([self._view(crop) for crop in crops])

    def faces_in(self, pictures: list[Image.Image], faces: Faces = "all", moving: bool = False) -> list[list[Face]]:
        """Return the faces of each upright RGB picture or video frame, with their crops; see `FaceFinder.find`."""
        return self._finder.find(pictures, faces, moving)

    def features(self, inputs: Any, **options: Any) -> pd.DataFrame:
        """Return a table of each face's features (f0, f1, ...), with input, frame, time, track, face and status.

        Features are the inputs of the classifier's last layer. Rows and arguments are those of `predict`.

        Raises:
            SsferError: the runtime is not torch.
        """
        return features(self.runtime, self._seen(inputs, **options))

    def explain(self, inputs: Any, **options: Any) -> list[Explanation]:
        """Return a Grad-CAM map over the crop of each face; notebooks show it.

        Arguments are those of `predict`.

        Raises:
            SsferError: the runtime is not torch.
        """
        return explain(self.runtime, self._seen(inputs, **options))

    def _seen(self, inputs: Any, every: int = 1, fps: float | None = None, **options: Any) -> Iterator[Seen]:
        for result in self.results(frames_of(inputs, every, fps), Options(**options)):
            crops = [face.pixels() for face in result.faces]
            yield result.rows, self.views(np.stack(crops)) if crops else np.zeros((0, 1, 1, 3), np.uint8)

    def _view(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        image = torch.from_numpy(crop).permute(2, 0, 1)
        box = torch.tensor(fallback_box(crop.shape[0]))
        view: NDArray[np.uint8] = self._eval(image, box, 0).image.permute(1, 2, 0).contiguous().numpy()
        return view

    def _rows(
        self, frame: Frame, faces: list[Face], probs: NDArray[np.float32], options: Options, scene: Scene | None
    ) -> list[Row]:
        tracks: list[int | None] = [None] * len(faces)
        if scene is not None:
            tracks = [*scene.assign(boxes_of(faces), seconds_of(frame.time, frame.frame))]
            probs = np.array([scene.smoothed(t, p) for t, p in zip(tracks, probs, strict=True) if t is not None])
        if not faces:
            return [status_row(frame, "no_face" if frame.image is not None else frame.status)]
        numbered = zip(range(len(faces)), tracks, faces, probs, strict=True)
        return [face_row(frame, i, t, face, p, self.classes, options.abstain) for i, t, face, p in numbered]


def load(
    weights: str | Path | None = None,
    device: str = "auto",
    runtime: str = "auto",
    detector: Detector | None = None,
    *,
    turned: bool | None = None,
    min_face: float | None = None,
) -> Recognizer:
    """Return a Recognizer with the weights of a file or of a shipped model.

    Args:
        weights: path of a weights file that a stage wrote, such as data/weights/model.safetensors, or the name of a
            shipped model (`ssfer models` lists them); None: the default one.
        device: auto, cpu, cuda, cuda:N or mps, for detector and network.
        runtime: torch, or onnx for a file that `ssfer export` wrote; auto: by the file's ending.
        detector: replaces the one that the weights name; None: that one.
        turned: detect again at 90, 180 and 270 degrees in photos without a sure face; None: as the weights say.
        min_face: smallest face to detect, as a share of the photo's longer side, 0.005..1; None: as the weights say.

    Raises:
        SsferError: no such file or model, weights of another format or kind, an unknown runtime, a missing device, a
            detector that cannot be built, or a `min_face` out of range.
    """
    path, runtime = located(weights, runtime)
    opened = open_runtime(runtime, path, device)
    recipe = recipe_of(opened.meta, path).detecting(turned, min_face)
    return Recognizer(path.stem, opened, recipe, detector or _detector(recipe, path, opened.device))


def located(weights: str | Path | None, runtime: str) -> tuple[Path, str]:
    """Return the weights file and the runtime that `load` uses.

    Raises:
        SsferError: no such file or model, or a file that the runtime does not read.
    """
    if runtime == "auto":
        runtime = "onnx" if weights is not None and Path(weights).suffix == ".onnx" else "torch"
    path = find_model(weights, runtime)
    expected = {"torch": ".safetensors", "onnx": ".onnx"}.get(runtime, path.suffix)
    if path.suffix != expected:
        raise SsferError(
            f"{path} is no model for runtime {runtime}: expected a {expected} file, found '{path.suffix}'; `ssfer "
            "export` writes ONNX models, `ssfer weights import` reads checkpoints of others"
        )
    return path, runtime


def _detector(recipe: CropRecipe, path: Path, device: str) -> Detector:
    if ":" in recipe.detector:  # a weights file must not decide which code is run
        raise SsferError(
            f"{path} was trained on crops of the detector {recipe.detector}, which is not part of ssfer; "
            "pass it: ssfer.load(..., detector=...)"
        )
    kind: Any = DETECTORS[recipe.detector]
    try:
        settings = kind.Settings.model_validate(recipe.settings)
    except ValidationError as error:
        raise unknown_recipe(path, error) from error
    kind.check(settings)
    return build_detector(recipe.detector, settings, device, recipe.min_face)
