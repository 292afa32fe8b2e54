"""The model as MLflow's server runs it: photos in, one row per face out. MLmodel files name this module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssfer.core import images
from ssfer.predict.frames import MAX_PIXELS, Frame
from ssfer.predict.recognizer import Recognizer, load

if TYPE_CHECKING:
    import pandas as pd

COLUMN = "image"


class PhotoModel:
    """Wrap a Recognizer in MLflow's `predict` interface."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer

    def predict(self, table: pd.DataFrame, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return one row per face, or one with a status per photo without a face; `input` is the photo's index.

        Args:
            table: column "image" holds the bytes of an image file.
            params: not used.
        """
        decoded = [images.decode(data, MAX_PIXELS) for data in table[COLUMN]]
        frames = [Frame(str(i), found.image, found.status) for i, found in enumerate(decoded)]
        return [row for result in self._recognizer.results(frames) for row in result.rows]


def _load_pyfunc(path: str) -> PhotoModel:
    """Return the model; MLflow calls this with the path of the weights."""
    return PhotoModel(load(path, device="auto"))
