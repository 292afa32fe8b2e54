"""What MLflow's server runs: photos in, rows of faces out. The name of this module is in the MLmodel file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssfer.core import images
from ssfer.predict.frames import MAX_PIXELS, Frame
from ssfer.predict.recognizer import Recognizer, load

if TYPE_CHECKING:
    import pandas as pd

COLUMN = "image"


class PhotoModel:
    """MLflow's `predict` around a Recognizer."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer

    def predict(self, table: pd.DataFrame, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return a row per face, and a row with a status for a photo without one; `input` is the photo's number.

        Args:
            table: the bytes of an image file in column "image" of every row.
            params: nothing is set here.
        """
        decoded = [images.decode(data, MAX_PIXELS) for data in table[COLUMN]]
        frames = [Frame(str(i), found.image, found.status) for i, found in enumerate(decoded)]
        return [row for result in self._recognizer.results(frames) for row in result.rows]


def _load_pyfunc(path: str) -> PhotoModel:
    """Return the model; MLflow calls this with the path of the weights."""
    return PhotoModel(load(path, device="auto"))
