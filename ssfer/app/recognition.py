"""Answer a request: find the faces of an uploaded picture with a Recognizer."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssfer.app.answers import NOTICE, Answer, FaceAnswer
from ssfer.app.limits import Limits
from ssfer.core import images
from ssfer.predict.crop import Faces
from ssfer.predict.frames import FLOAT_PIXELS, Frame, decoded_bytes
from ssfer.predict.insight import heat_maps, overlaid
from ssfer.predict.recognizer import Options, Recognizer
from ssfer.predict.table import BOX, Row

_QUALITY = 90  # of overlays as JPEG
_REASONS = {
    "empty": (400, "the request has no body; expected the bytes of a picture"),
    "unreadable": (415, f"the body is no readable picture; expected a whole {', '.join(images.FORMATS)} file"),
    FLOAT_PIXELS: (415, "the pixels are floating-point numbers, whose white is not defined; save it with 8 or 16 bits"),
    "too_small": (400, f"the picture is too small; expected at least {images.MIN_SIDE} pixels on each side"),
}


class Refused(Exception):
    """A request that is refused.

    Args:
        status: HTTP status code.
        sentence: error message for the client.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Recognition:
    """Answer requests; the server calls it.

    Args:
        recognizer: finds faces and their expressions.
        limits: None: the defaults of `Limits`.

    Attributes:
        limits: of requests.
        facts: about the model, for `GET /model`.
    """

    def __init__(self, recognizer: Recognizer, limits: Limits | None = None) -> None:
        self._recognizer, self.limits = recognizer, limits or Limits()
        self.facts: dict[str, Any] = {
            "model": recognizer.name,
            "classes": list(recognizer.classes),
            "runtime": type(recognizer.runtime).__name__.removesuffix("Runtime").lower(),
            "explains": hasattr(recognizer.runtime, "network"),
            "notice": NOTICE,
        }

    def __call__(self, data: bytes, faces: Faces, explain: bool, abstain: float) -> Answer:
        """Return the faces of an encoded picture.

        Args:
            data: bytes of an image file.
            faces: all or largest.
            explain: add Grad-CAM overlays.
            abstain: no class below this confidence.

        Raises:
            Refused: no usable picture, or the runtime cannot compute Grad-CAM maps.
        """
        started = time.perf_counter()
        if explain and not self.facts["explains"]:
            raise Refused(
                400, f"runtime {self.facts['runtime']} has no gradients for a Grad-CAM map; leave explain out"
            )
        decoded = decoded_bytes(data, self.limits.pixels)
        if decoded.status == "too_large":
            raise Refused(413, f"the picture is too large; expected at most {self.limits.pixels:,} pixels")
        if decoded.image is None:
            raise Refused(*_REASONS[decoded.status])
        (result,) = self._recognizer.results([Frame("", decoded.image)], Options(faces, abstain))
        answers = [self._answer(row) for row in result.rows] if result.faces else []
        if explain and answers:
            crops = [face.pixels() for face in result.faces]
            for answer, overlay in zip(answers, self._overlays(crops), strict=True):
                answer.overlay = overlay
        return Answer(
            status="ok" if answers else "no_face",
            width=decoded.image.width,
            height=decoded.image.height,
            faces=answers,
            seconds=round(time.perf_counter() - started, 4),
        )

    def _answer(self, row: Row) -> FaceAnswer:
        return FaceAnswer(
            box=[row[name] for name in BOX],
            score=row["score"],
            expression=row["expression"],
            confidence=row["confidence"],
            probabilities={name: row[f"p_{name}"] for name in self._recognizer.classes},
        )

    def _overlays(self, crops: list[NDArray[np.uint8]]) -> list[str]:
        """Return each crop as the network sees it, blended with its Grad-CAM map, as data URIs."""
        views = self._recognizer.views(np.stack(crops))
        maps = heat_maps(self._recognizer.runtime, views)
        return [_data_address(overlaid(view, heat)) for view, heat in zip(views, maps, strict=True)]


def _data_address(pixels: NDArray[np.uint8]) -> str:
    return images.data_uri(images.encode_jpeg(Image.fromarray(pixels), _QUALITY))
