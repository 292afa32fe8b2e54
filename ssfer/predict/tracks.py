"""Which faces of a moving scene are the same one, and probabilities smoothed along its track."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from ssfer.faces.alignment import iou

MIN_IOU = 0.2  # of a box with the place where the track is expected
PATIENCE = 1.0  # seconds that a face may be out of sight
FRAME_SECONDS = 1 / 25  # between frames without times
_AGILITY = 0.5  # share of a new velocity in a track's


@dataclass
class Track:
    """A face that is followed.

    Attributes:
        number: from 0, in the order of appearance.
        box: (4,) where it was last.
        velocity: (4,) pixels a second of the box's sides.
        seen: seconds.
        passed: seconds between its last two boxes.
        probs: smoothed; None before the first.
    """

    number: int
    box: list[float]
    velocity: list[float]
    seen: float
    passed: float = 0.0
    probs: list[float] | None = None

    def expected(self, now: float) -> np.ndarray:
        """Return the box (4,) that moves on as before."""
        return np.array(self.box) + np.array(self.velocity) * (now - self.seen)


@dataclass
class Scene:
    """The tracks of one input.

    Each frame's boxes are assigned to the tracks so that the sum of the overlaps is largest (Hungarian method). The
    overlap is that with the track's last box or with the box where it would be by its velocity, the larger one. A track
    that nothing overlaps waits for PATIENCE seconds.

    Attributes:
        input: name of the input.
        smooth: seconds after which an old picture counts 1/e; 0: only the newest counts.
    """

    input: str
    smooth: float = 0.0
    tracks: list[Track] = field(default_factory=list)
    count: int = 0

    def assign(self, boxes: np.ndarray, now: float) -> list[int]:
        """Return the number of the track of each of (n, 4) boxes."""
        self.tracks = [track for track in self.tracks if now - track.seen <= PATIENCE]
        numbers = [-1] * len(boxes)
        if len(boxes) and self.tracks:
            overlaps = np.stack([_overlap(boxes.astype(np.float64), track, now) for track in self.tracks])
            overlaps[overlaps < MIN_IOU] = 0
            for row, column in zip(*linear_sum_assignment(-overlaps), strict=True):
                if overlaps[row, column] > 0:
                    numbers[column] = self.tracks[row].number
                    _move(self.tracks[row], boxes[column], now)
        for i, number in enumerate(numbers):
            if number < 0:
                numbers[i] = self.count
                self.tracks.append(Track(self.count, boxes[i].tolist(), [0.0] * 4, now))
                self.count += 1
        return numbers

    def smoothed(self, number: int, probs: np.ndarray) -> np.ndarray:
        """Return probabilities (C,) averaged along a track with weights that fall by 1/e in `smooth` seconds.

        Args:
            number: the track's.
            probs: of the newest frame.
        """
        track = next(track for track in self.tracks if track.number == number)
        if self.smooth > 0 and track.probs is not None:
            keep = math.exp(-track.passed / self.smooth)
            probs = keep * np.array(track.probs) + (1 - keep) * probs
        track.probs = [float(p) for p in probs]
        return np.asarray(probs, np.float32)

    def state(self) -> dict[str, Any]:
        """Return everything as JSON has it; `Scene.from_state` is the way back."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Scene:
        """Return the scene that went on record."""
        return cls(**{**state, "tracks": [Track(**track) for track in state["tracks"]]})


def _overlap(boxes: np.ndarray, track: Track, now: float) -> np.ndarray:
    found: np.ndarray = np.maximum(iou(boxes, track.expected(now)), iou(boxes, np.array(track.box)))
    return found


def _move(track: Track, box: np.ndarray, now: float) -> None:
    passed = now - track.seen
    if passed > 0:
        velocity = (np.asarray(box, np.float64) - track.box) / passed
        track.velocity = (_AGILITY * velocity + (1 - _AGILITY) * np.array(track.velocity)).tolist()
    track.passed = max(passed, 0.0)
    track.box, track.seen = np.asarray(box, np.float64).tolist(), now


def seconds_of(time: float | None, frame: int | None) -> float:
    """Return a frame's time, or one that is made from its number where the input has none."""
    return time if time is not None else (frame or 0) * FRAME_SECONDS


def boxes_of(faces: Sequence[Any]) -> np.ndarray:
    """Return the boxes (n, 4) of faces."""
    return np.stack([face.box for face in faces]) if faces else np.zeros((0, 4))
