"""Photos that lie on their side or upside down without an EXIF orientation: detection at 90, 180 and 270 degrees."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from ssfer.faces.detectors.base import Detection

Transpose = Image.Transpose
_TURNS = {90: Transpose.ROTATE_90, 180: Transpose.ROTATE_180, 270: Transpose.ROTATE_270}  # counterclockwise
# A photo is rotated if its best score is below the first value, and counts as rotated if a face then has at least the
# second value and exceeds the upright score by the third. MTCNN on faces that lie on their side: 0 to 0.82 as they are
# (14 rendered photos), 0.99 and more upright. Of 1,102 upright press photos two score below 0.9, and at most 0.87 in
# any other position.
_DOUBTFUL, _SURE, _BETTER = 0.9, 0.95, 0.1


def detect(
    find: Callable[[list[Image.Image]], list[Detection]], photos: Sequence[Image.Image]
) -> tuple[list[Detection], list[int]]:
    """Return the faces of each photo, in its own pixels, and by how many degrees it was rotated to find them.

    Args:
        find: detects faces in photos without rotating them.
        photos: RGB images.
    """
    found, degrees = find(list(photos)), [0] * len(photos)
    best = [_best(one) for one in found]
    doubtful = [i for i, score in enumerate(best) if score < _DOUBTFUL]
    highest = {i: max(_SURE, best[i] + _BETTER) for i in doubtful}
    for angle, turn in _TURNS.items():
        again = find([photos[i].transpose(turn) for i in doubtful]) if doubtful else []
        for i, one in zip(doubtful, again, strict=True):
            if len(one) and _best(one) >= highest[i]:
                found[i], degrees[i], highest[i] = turned_back(one, angle, photos[i].size), angle, _best(one)
    return found, degrees


def turned_back(found: Detection, degrees: int, size: tuple[int, int]) -> Detection:
    """Return faces found in a photo rotated counterclockwise, in pixels of the unrotated (width, height) photo."""
    x1, y1, x2, y2 = found.boxes.T
    x, y = found.landmarks[..., 0], found.landmarks[..., 1]
    width, height = size
    if degrees == 90:
        boxes, points = (width - y2, x1, width - y1, x2), (width - 1 - y, x)
    elif degrees == 180:
        boxes, points = (width - x2, height - y2, width - x1, height - y1), (width - 1 - x, height - 1 - y)
    else:
        boxes, points = (y1, height - x2, y2, height - x1), (y, height - 1 - x)
    return Detection(np.stack(boxes, axis=1), np.stack(points, axis=2), found.scores, found.bordered)


def _best(found: Detection) -> float:
    return float(found.scores.max()) if len(found) else 0.0
