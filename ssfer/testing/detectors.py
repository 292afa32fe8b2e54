"""The contract of a face detector, as a check that its author's tests can run.

    check_detector(DETECTORS["./mine.py:Mine"](settings), photos)

It raises AssertionError with one sentence. The accuracy of the detector needs tests of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ssfer.core.errors import SsferError
from ssfer.faces.detectors.base import Detection, Detector, wrong_form


def check_detector(detector: Detector, photos: Sequence[Image.Image], tolerance: float = 0.01) -> None:
    """Check everything that stage align relies on.

    Args:
        detector: on the CPU.
        photos: RGB, of at least two sizes, some with faces.
        tolerance: of coordinates in pixels, and of scores, between one photo alone and among others.

    Raises:
        AssertionError: a rule is broken; names the rule and the photo.
    """
    assert isinstance(getattr(detector, "name", None), str) and detector.name, "name goes into crop_recipe: a text"
    assert detector.detect([]) == [], "no photos must give no results"
    try:
        (empty,) = detector.detect_checked([Image.new("RGB", (64, 48), (90, 120, 30))])
        together = detector.detect_checked(photos)
    except SsferError as error:
        raise AssertionError(str(error)) from error
    assert len(empty.above(0.6)) == 0, "a photo of one color has no face"
    assert any(len(found) for found in together), "expected a face in some photo, found none in all"
    for i, (photo, found) in enumerate(zip(photos, together, strict=True)):
        _check_form(found, photo, f"photo {i}")
    for i, photo in reversed(list(enumerate(photos))):
        alone = detector.detect([photo])[0]
        same = len(alone) == len(together[i]) and all(
            np.allclose(getattr(alone, name), getattr(together[i], name), rtol=0, atol=tolerance)
            for name in ("boxes", "landmarks", "scores")
        )
        assert same, f"photo {i}: the result depends on the other photos of the call"
    largest = [float((one.boxes[:, 2:] - one.boxes[:, :2]).max(initial=0.0)) for one in together]
    for i, (found, side) in enumerate(zip(detector.detect_large(photos, largest), largest, strict=True)):
        sides = (found.boxes[:, 2:] - found.boxes[:, :2]).max(initial=0.0)
        assert sides >= 0.9 * side, f"photo {i}: detect_large misses a face with the side that is asked for"


def _check_form(found: Detection, photo: Image.Image, where: str) -> None:
    problem = wrong_form(found)
    assert not problem, f"{where}: found {problem}"
    assert (np.diff(found.scores) <= 0).all(), f"{where}: the best face comes first"
    low, high = found.boxes[:, :2], found.boxes[:, 2:]
    assert (low < high).all(), f"{where}: boxes are x1, y1, x2, y2"
    assert (low >= 0).all() and (high <= photo.size).all(), f"{where}: boxes lie inside the photo"
