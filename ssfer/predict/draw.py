"""Draw predictions into pictures and videos: box, expression, one bar per class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ssfer.core.errors import SsferError
from ssfer.core.images import EXTENSIONS
from ssfer.predict.frames import Frame
from ssfer.predict.items import VIDEO_EXTENSIONS
from ssfer.predict.table import BOX, Row
from ssfer.predict.tracks import seconds_of
from ssfer.predict.video import pyav

_COLORS = ("#ffb000", "#648fff", "#fe6100", "#dc267f", "#785ef0", "#00b090", "#d0d000", "#40c0ff")
_GAP, _BARS, _LINE = 3, 5.5, 9.0  # pixels from box to bars; bars' width in line heights; least line height in pixels
_Box = tuple[float, ...]  # x1, y1, x2, y2
JPEG_SIDE = 65_500  # longest side of a JPEG file, pixels
_CLOCK = 90_000  # ticks per second in annotated videos, as usual in MPEG


def annotated(image: Image.Image, rows: Sequence[Row], widen: bool = False) -> Image.Image:
    """Return a copy of an RGB picture with the faces of its rows; rows without a face draw nothing.

    Args:
        image: the picture.
        rows: its rows.
        widen: make the copy wider where its only face leaves too little room for the bars.
    """
    faces = [row for row in rows if row.get("face") is not None]
    boxes = [tuple(float(row[name]) for name in BOX) for row in faces]
    shown = image.copy()
    if widen and len(faces) == 1 and _room(boxes[0], image.size) < max(_BARS * _LINE, (boxes[0][3] - boxes[0][1]) / 3):
        strip = _GAP + round(_BARS * max(_LINE, 0.08 * image.width))
        shown = ImageOps.expand(image, (0, 0, strip, 0), "#303030")
    draw = ImageDraw.Draw(shown, "RGBA")
    for i, (row, box) in enumerate(zip(faces, boxes, strict=True)):
        _draw_face(draw, row, box, shown.size, boxes[:i] + boxes[i + 1 :])
    return shown


def _draw_face(draw: ImageDraw.ImageDraw, row: Row, box: _Box, size: tuple[int, int], others: Sequence[_Box]) -> None:
    number = row["face"] if row["track"] is None else row["track"]
    color = _COLORS[number % len(_COLORS)]
    x1, y1, x2, y2 = box
    unit = max(10, round(0.09 * max(x2 - x1, y2 - y1)))  # height of a line of text
    font = ImageFont.load_default(unit)
    draw.rectangle((x1, y1, x2, y2), outline=color, width=max(1, unit // 8))
    probs = {key[2:]: p for key, p in row.items() if key.startswith("p_")}
    _draw_bars(draw, probs, box, size, others, color)
    name = row["expression"] or row["status"]
    label = f"{name} {row['confidence']:.0%}" if row["track"] is None else f"{number}: {name} {row['confidence']:.0%}"
    left, _, right, _ = draw.textbbox((0, 0), label, font=font)
    y = y1 - unit * 1.4 if y1 >= unit * 1.4 else y1
    draw.rectangle((x1, y, x1 + right - left + unit / 2, y + unit * 1.4), fill=color)
    draw.text((x1 + unit / 4 - left, y + unit * 0.1), label, fill="black", font=font)


def _room(box: _Box, size: tuple[int, int]) -> float:
    """Return the width that is free beside a box, on the side with more of it."""
    return max(size[0] - box[2], box[0]) - _GAP


def _draw_bars(
    draw: ImageDraw.ImageDraw,
    probs: Mapping[str, float],
    box: _Box,
    size: tuple[int, int],
    others: Sequence[_Box],
    color: str,
) -> None:
    """Draw a bar per class beside the box, or none where they would cover a face or leave the picture."""
    x1, y1, x2, y2 = box
    line = max(_LINE, min((y2 - y1) / max(len(probs), 4) * 0.9, _room(box, size) / _BARS))
    width, bottom = _BARS * line, y1 + line * len(probs)
    for left in (x2 + _GAP, x1 - _GAP - width):
        free = all(left + width <= o[0] or o[2] <= left or bottom <= o[1] or o[3] <= y1 for o in others)
        if left >= 0 and left + width <= size[0] and free:
            break
    else:
        return
    font = ImageFont.load_default(max(7, round(0.6 * line)))
    draw.rectangle((left, y1, left + width, bottom), fill=(0, 0, 0, 110))
    for i, (name, p) in enumerate(probs.items()):
        top = y1 + i * line
        draw.rectangle((left, top + 0.1 * line, left + width * p, top + 0.9 * line), fill=color)
        draw.text((left + 2, top + 0.1 * line), name, fill="white", font=font, stroke_width=1, stroke_fill="black")


class Annotator:
    """Write annotated copies into a folder: JPEG for photos, MP4 for videos and cameras; a context manager.

    Args:
        folder: made if it does not exist.

    Raises:
        SsferError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._input = folder, ""
        self._video: VideoFile | None = None
        self._made(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._end_video()

    def add(self, frame: Frame, rows: Sequence[Row]) -> None:
        """Write or append the annotated copy of a frame; frames without a picture are skipped."""
        if frame.image is None:
            return
        shown = annotated(frame.image, rows, widen=not frame.moving)
        if frame.moving:
            if self._video is None or self._input != frame.input:
                self._end_video()
                self._video, self._input = VideoFile(self._target(frame, ".mp4"), shown.size), frame.input
            self._video.add(shown, seconds_of(frame.time, frame.frame))
        else:
            shown.thumbnail((JPEG_SIDE, JPEG_SIDE))
            shown.save(self._target(frame, ".jpg"), "JPEG", quality=90)

    def _end_video(self) -> None:
        if self._video is not None:
            self._video.close()
            self._video = None

    def _target(self, frame: Frame, suffix: str) -> Path:
        place = Path(frame.place or f"{frame.input}{suffix}")
        # The copies of a.png and of a.png.jpg must not meet, nor those of a.mov and a.mov.mp4.
        kept = place.suffix.lower() == suffix and Path(place.stem).suffix.lower() not in EXTENSIONS + VIDEO_EXTENSIONS
        name = place if kept else place.with_name(place.name + suffix)
        target = self._folder / name
        if not Path(os.path.normpath(target)).is_relative_to(os.path.normpath(self._folder)):
            raise SsferError(f"the copy of {frame.input} would lie outside of --annotate {self._folder}")
        if target.exists() and os.path.exists(frame.input) and target.samefile(frame.input):
            raise SsferError(f"the copy of {frame.input} would replace it; name another folder than {self._folder}")
        self._made(target.parent)
        return target

    def _made(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SsferError(f"--annotate {folder} cannot be made ({error.strerror}); name another folder") from error


class VideoFile:
    """Write an MP4 (H.264) that keeps its frames' times, also if they are not evenly spaced."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self._av: Any = pyav()
        self._size = (size[0] - size[0] % 2, size[1] - size[1] % 2)  # H.264 needs even sides
        self._container = self._av.open(str(path), "w")
        self._stream = self._container.add_stream("libx264", rate=30)
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, _CLOCK)
        self._last = -1

    def add(self, image: Image.Image, seconds: float) -> None:
        """Append a picture that is shown from time `seconds`."""
        if image.size != self._size:
            image = image.crop((0, 0, *self._size))
        frame = self._av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
        frame.time_base = Fraction(1, _CLOCK)
        self._last = frame.pts = max(round(seconds * _CLOCK), self._last + 1)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write the remaining frames and the index."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
