"""The table of predictions: one row per face, and one row per picture without a face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssfer.predict.crop import Face
from ssfer.predict.frames import Frame

Row = dict[str, Any]
_POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
BOX = ("x1", "y1", "x2", "y2")
LANDMARKS = tuple(f"{point}_{axis}" for point in _POINTS for axis in "xy")
# All columns except the probabilities. Statuses: ok, uncertain (abstained), no_face, those of `ssfer.predict.frames`.
COLUMNS = ("input", "frame", "time", "track", "face", "status", "expression", "confidence", "score", *BOX, *LANDMARKS)
_INTEGERS, _TEXTS = ("frame", "track", "face"), ("input", "status", "expression")
_DIGITS = 6  # decimals of probabilities and scores; coordinates have 3
_SHOWN = 20  # faces shown in a notebook


def columns(classes: Sequence[str]) -> list[str]:
    """Return the names of all columns; p_c is the probability of class c."""
    return [*COLUMNS[:8], *(f"p_{name}" for name in classes), *COLUMNS[8:]]


def status_row(frame: Frame, status: str) -> Row:
    """Return the row of a picture without a face."""
    return {"input": frame.input, "frame": frame.frame, "time": frame.time, "status": status}


def face_row(
    frame: Frame,
    number: int,
    track: int | None,
    face: Face,
    probs: NDArray[np.float32],
    classes: Sequence[str],
    abstain: float = 0.0,
) -> Row:
    """Return the row of a face.

    Args:
        frame: the face's frame.
        number: of the face in its frame, from 0.
        track: number of its track; None: not in a video.
        face: box, landmarks and score.
        probs: probabilities (C,).
        classes: names of the C classes.
        abstain: see `Recognizer.predict`.
    """
    best = int(probs.argmax())
    certain = float(probs[best]) >= abstain
    row = {
        **status_row(frame, "ok" if certain else "uncertain"),
        "track": track,
        "face": number,
        "expression": classes[best] if certain else None,
        "confidence": round(float(probs[best]), _DIGITS),
        "score": None if face.score is None else round(face.score, _DIGITS),
    }
    row |= {f"p_{name}": round(float(p), _DIGITS) for name, p in zip(classes, probs, strict=True)}
    row |= dict(zip(BOX, (round(float(v), 3) for v in face.box), strict=True))
    if face.landmarks is not None:
        row |= dict(zip(LANDMARKS, (round(float(v), 3) for v in face.landmarks.ravel()), strict=True))
    return row


class Predictions(pd.DataFrame):
    """A pandas table of predictions (see `columns`); notebooks show the first faces with one bar per class."""

    _metadata: ClassVar = ["_thumbnails"]  # row -> JPEG of the crop

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame  # a selection is a plain table

    def _repr_html_(self) -> str:
        from ssfer.predict.show import table_html

        return table_html(self, getattr(self, "_thumbnails", {}))


class Collected:
    """Collect rows for a table, with the crops of the first faces."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._columns, self._rows = columns(classes), list[Row]()
        self._thumbnails: dict[int, bytes] = {}

    def add(self, rows: Sequence[Row], crops: Sequence[bytes]) -> None:
        """Append the rows of a frame, and its faces' crops (JPEG), if any."""
        for i, jpeg in enumerate(crops):
            if len(self._thumbnails) < _SHOWN:
                self._thumbnails[len(self._rows) + i] = jpeg
        self._rows.extend(rows)

    def predictions(self) -> Predictions:
        """Return the table."""
        found = Predictions(typed(pd.DataFrame(self._rows, columns=self._columns)))
        object.__setattr__(found, "_thumbnails", self._thumbnails)
        return found


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the columns' types, independent of its rows."""
    kinds = {name: "Int64" if name in _INTEGERS else "string" if name in _TEXTS else "float64" for name in table}
    return table.astype(kinds)
