"""What a face detector is, and the list of those that exist.

A detector is built by name inside each worker process; adding one touches its file and `build_detector`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from ssfer.core.errors import unknown_name

DETECTORS = ("mtcnn", "retinaface")


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
        return self.at(self.scores >= min_score)

    def at(self, which: np.ndarray) -> Detection:
        """Return the faces at these positions, in this order (or under this mask)."""
        return Detection(self.boxes[which], self.landmarks[which], self.scores[which])


class Detector(Protocol):
    """Finds faces; the result for one image must not depend on the others in the call."""

    name: str  # goes into `crop_recipe`

    def detect(self, images: Sequence[Image.Image]) -> list[Detection]:
        """Return one Detection per RGB image; an image without a face gives an empty one."""
        ...


def build_detector(
    name: str, device: str = "cpu", *, retinaface_weights: str | Path | None = None, retinaface_max_side: int = 256
) -> Detector:
    """Return a detector by name.

    Args:
        retinaface_weights: file; None: where `ssfer fetch retinaface` puts it.
        retinaface_max_side: see RetinaFaceDetector. Settings of a detector that is not asked for are ignored.

    Raises:
        SsferError: unknown name (the message lists the known ones), or missing or wrong weights.
    """
    if name == "mtcnn":
        from ssfer.faces.detectors.mtcnn import MtcnnDetector

        return MtcnnDetector(device)
    if name == "retinaface":
        from ssfer.faces.detectors.retinaface import RetinaFaceDetector
        from ssfer.faces.detectors.retinaface_weights import default_path

        return RetinaFaceDetector(Path(retinaface_weights or default_path()), device, max_side=retinaface_max_side)
    raise unknown_name("detector", name, DETECTORS)
