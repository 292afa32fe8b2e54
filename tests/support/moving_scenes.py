"""Videos of bright squares that move on known ways, written with PyAV at known times."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.rendered_photos import bright_photo

Box = tuple[int, int, int, int]
TIMES = (0.0, 0.04, 0.08, 0.2, 0.24, 0.5)  # not even


def crossing(step: int) -> list[Box]:
    """Return two squares, one going right, one going left below it."""
    return [(4 + 6 * step, 6, 28 + 6 * step, 30), (68 - 6 * step, 46, 88 - 6 * step, 66)]


def write_video(path: Path, frames: Sequence[Sequence[Box]], times: Sequence[float], rotation: int = 0) -> Path:
    """Write a video of 100 x 80 pixels whose frames are shown from `times` (seconds) on.

    Args:
        path: its suffix says the container.
        frames: the bright squares of each frame.
        times: of each frame.
        rotation: degrees that a player is told to turn it by, clockwise; 0 or 90.
    """
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 100, 80, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for boxes, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.asarray(bright_photo(*boxes)), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if rotation:
        _turn(path, rotation)
    return path


def _turn(path: Path, degrees: int) -> None:
    """Set the display matrix in the track header of an MP4 file (ISO/IEC 14496-12, section 8.3.2)."""
    assert degrees == 90
    data = path.read_bytes()
    identity = b"".join(value.to_bytes(4, "big") for value in (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000))
    numbers = (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    turned = b"".join(value.to_bytes(4, "big", signed=True) for value in numbers)
    at = data.index(identity, data.index(b"tkhd"))
    path.write_bytes(data[:at] + turned + data[at + len(identity) :])


def dark(size: tuple[int, int] = (100, 80)) -> Image.Image:
    """Return a photo without a bright square."""
    return bright_photo(size=size)


class FakeCapture:
    """Stands in for cv2.VideoCapture: three blue pictures, or no camera."""

    def __init__(self, number: int) -> None:
        self.there, self.left = number == 0, 3

    def isOpened(self) -> bool:
        return self.there

    def read(self) -> tuple[bool, Any]:
        self.left -= 1
        return self.left >= 0, np.full((20, 30, 3), (255, 0, 0), np.uint8)

    def release(self) -> None:
        self.there = False
