"""Track faces in videos, and smooth probabilities along the tracks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from ssfer.faces.alignment import iou

MIN_IOU = 0.2  # of a box with a track's last or expected box
PATIENCE = 1.0  # seconds after which a track without a face ends
FRAME_SECONDS = 1 / 25  # assumed between frames without times
_AGILITY = 0.5  # weight of the newest velocity in a track's


@dataclass
class Track:
    """A tracked face.

    Attributes:
        number: from 0, in the order of appearance.
        box: the last one (4,), x1, y1, x2, y2 in pixels.
        velocity: of the box's coordinates (4,), in pixels per second.
        seen: time of the last box in seconds.
        passed: seconds between the last two boxes.
        probs: smoothed (C,); None before the first.
    """

    number: int
    box: list[float]
    velocity: list[float]
    seen: float
    passed: float = 0.0
    probs: list[float] | None = None

    def expected(self, now: float) -> np.ndarray:
        """Return the box (4,) at time `now` if it keeps its velocity."""
        return np.array(self.box) + np.array(self.velocity) * (now - self.seen)


@dataclass
class Scene:
    """The tracks of one input.

    Each frame's boxes are assigned to the tracks so that the sum of the overlaps (IoU) is largest (Hungarian method).
    The overlap is the larger one of those with the track's last box and with the box expected from its velocity. A
    track that no box overlaps ends after PATIENCE seconds.

    Attributes:
        input: name of the input.
        smooth: seconds in which the weight of an older frame falls to 1/e; 0: only the newest frame counts.
        tracks: those that have not ended.
        count: number of tracks so far.
    """

    input: str
    smooth: float = 0.0
    tracks: list[Track] = field(default_factory=list)
    count: int = 0

    def assign(self, boxes: np.ndarray, now: float) -> list[int]:
        """Return the track number of each of n boxes (n, 4) at time `now` in seconds."""
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
        """Return probabilities (C,) averaged along a track with weights that fall to 1/e in `smooth` seconds.

        Args:
            number: the track's.
            probs: of the newest frame (C,).
        """
        track = next(track for track in self.tracks if track.number == number)
        if self.smooth > 0 and track.probs is not None:
            keep = math.exp(-track.passed / self.smooth)
            probs = keep * np.array(track.probs) + (1 - keep) * probs
        track.probs = [float(p) for p in probs]
        return np.asarray(probs, np.float32)

    def state(self) -> dict[str, Any]:
        """Return the scene as JSON values; `Scene.from_state` is the inverse."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Scene:
        """Return the scene with a state of `state`."""
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
    """Return a frame's time in seconds; without one, an estimate from its number."""
    return time if time is not None else (frame or 0) * FRAME_SECONDS


def boxes_of(faces: Sequence[Any]) -> np.ndarray:
    """Return the boxes (n, 4) of faces."""
    return np.stack([face.box for face in faces]) if faces else np.zeros((0, 4))
