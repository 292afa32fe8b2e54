"""What a face detector is, and the list of those that exist.

A detector is built by name inside each worker process; adding one touches its file and `build_detector`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from PIL import Image

from ssfer.errors import unknown_name

DETECTORS = ("mtcnn",)


@dataclass(frozen=True)
class Detection:
    """The n faces of one image, best first, in that image's pixels.

    boxes (n, 4) x1, y1, x2, y2; landmarks (n, 5, 2) x, y in the manifest's order; scores (n,) in 0..1.
    """

    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    landmarks: np.ndarray = field(default_factory=lambda: np.zeros((0, 5, 2), np.float32))
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, min_score: float) -> Detection:
        """Return the faces with at least this score."""
        keep = self.scores >= min_score
        return Detection(self.boxes[keep], self.landmarks[keep], self.scores[keep])


class Detector(Protocol):
    """Finds faces; the result for one image must not depend on the others in the call."""

    name: str  # goes into `crop_recipe`

    def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
        """Return one Detection per RGB image; an image without a face gives an empty one."""
        ...


def build_detector(name: str, device: str = "cpu") -> Detector:
    """Return a detector by name.

    Raises:
        SsferError: unknown name; the message lists the known ones.
    """
    if name == "mtcnn":
        from ssfer.faces.mtcnn import MtcnnDetector

        return MtcnnDetector(device)
    raise unknown_name("detector", name, DETECTORS)
