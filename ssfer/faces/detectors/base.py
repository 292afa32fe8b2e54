"""The interface of face detectors, and the faces that they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ssfer.core.errors import SsferError
from ssfer.core.settings import Section


@dataclass(frozen=True)
class Detection:
    """The n faces of one image, best first, in that image's pixels.

    Attributes:
        boxes: (n, 4) float32, x1, y1, x2, y2.
        landmarks: (n, 5, 2) float32, x and y, in the manifest's order.
        scores: (n,) float32 in 0..1.
        bordered: (n,) bool, found with a border around the image (`ssfer.faces.border`); default: all False.
    """

    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    landmarks: np.ndarray = field(default_factory=lambda: np.zeros((0, 5, 2), np.float32))
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    bordered: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    def __post_init__(self) -> None:
        if len(self.bordered) != len(self.scores):
            object.__setattr__(self, "bordered", np.zeros(len(self.scores), bool))

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, min_score: float) -> Detection:
        """Return the faces with at least this score."""
        return self.at(self.scores >= min_score)

    def at(self, which: np.ndarray) -> Detection:
        """Return the faces at these positions, in this order (or under this mask)."""
        return Detection(self.boxes[which], self.landmarks[which], self.scores[which], self.bordered[which])


_ROUNDING = 1e-5


def wrong_form(found: Any) -> str:
    """Return what is wrong with the form of a Detection, "" if nothing is."""
    if not isinstance(found, Detection):
        return f"a {type(found).__name__}, expected a Detection"
    arrays = {name: getattr(found, name) for name in ("boxes", "landmarks", "scores")}
    if wrong := next((name for name, array in arrays.items() if not isinstance(array, np.ndarray)), ""):
        return f"{wrong} as a {type(arrays[wrong]).__name__}, expected a float32 array"
    n = len(found)
    for (name, array), shape in zip(arrays.items(), ((n, 4), (n, 5, 2), (n,)), strict=True):
        if array.shape != shape or array.dtype != np.float32:
            return f"{name} of {array.dtype} {array.shape}, expected float32 {shape}"
        if not np.isfinite(array).all():
            return f"{name} that are not finite"
    outside = found.scores[(found.scores < -_ROUNDING) | (found.scores > 1 + _ROUNDING)]
    if len(outside):
        return f"a score of {outside[0]:g}, expected 0 to 1"
    if n and found.boxes.max() <= 1.5 and found.scores.max() >= 0.5:
        return "a face inside of one pixel; coordinates are pixels of the image"
    return ""


class Detector(ABC):
    """Finds faces: one file in `ssfer.faces.detectors` each, named as in params `align.detector`.

    Class attributes:
        title: name in messages and reports.
        paper: citation.
        has_min_face: whether it supports `min_face`.

    Attributes:
        name: part of the manifest's `crop_recipe`; has everything of the detector that the crops depend on.
        min_face: smallest face to detect, as a share of the image's longer side (`align.min_face`); None: its default.
    """

    class Settings(Section):
        """Section of `detectors` in params.yaml; every detector has its own."""

    title: ClassVar[str]
    paper: ClassVar[str]
    has_min_face: ClassVar[bool] = False
    name: str
    min_face: float | None = None

    @abstractmethod
    def __init__(self, settings: Any, device: str = "cpu") -> None:
        """Load the networks.

        Args:
            settings: an instance of the class's `Settings`.
            device: of torch.

        Raises:
            SsferError: missing or wrong weights.
        """

    @abstractmethod
    def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
        """Return one Detection per RGB image; an image without a face gives an empty one.

        The result for one image must not depend on the others in the call, except for float rounding. Several threads
        may call it at the same time.
        """

    def detect_large(self, images: Sequence[Image.Image], sides: Sequence[float]) -> list[Detection]:
        """Like `detect`, but faces whose longer side is below that of `sides`, pixels, one per image, may be missing.

        A detector that saves time by it overrides it.
        """
        return self.detect(images)

    def detect_checked(self, images: Sequence[Image.Image], sides: Sequence[float] | None = None) -> list[Detection]:
        """Return `detect`, or with `sides` `detect_large`, after a check of its form.

        Raises:
            SsferError: not a Detection per image, or one of another form.
        """
        found: Any = self.detect(images) if sides is None else self.detect_large(images, sides)
        problem = "" if isinstance(found, list | tuple) else f"a {type(found).__name__}, expected a list"
        if not problem and len(found) != len(images):
            problem = f"{len(found)} results for {len(images)} images"
        problem = problem or next(filter(None, map(wrong_form, found)), "")
        if problem:
            name = getattr(self, "name", type(self).__name__)
            raise SsferError(f"detector {name} returned {problem} (see ssfer.faces.detectors.base.Detection)")
        return list(found)

    @classmethod
    def check(cls, settings: Any) -> None:
        """Raise SsferError if a file that the detector needs is missing; fast, loads nothing."""
        missing = [str(file) for file in cls.files(settings) if not file.is_file()]
        if missing:
            raise SsferError(f"detector {cls.title} needs {', '.join(missing)}, which is not there; put it there")

    @classmethod
    def files(cls, settings: Any) -> list[Path]:
        """Return the files that the result depends on, such as weights; they may be missing."""
        return []
