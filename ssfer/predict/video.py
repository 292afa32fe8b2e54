"""Read videos and cameras as frames with their true times; videos with PyAV, the extra `video`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import cv2
from PIL import Image

from ssfer.core.errors import SsferError
from ssfer.core.extras import need
from ssfer.predict.cut_videos import is_cut
from ssfer.predict.frames import MAX_PIXELS, Frame
from ssfer.predict.items import Item

_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
_EPSILON = 1e-6  # seconds
# Other formats of FFmpeg, such as playlists, open further files that the video names.
_FORMATS = {"format_whitelist": "mov,matroska,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg"}


class Thinning:
    """Which frames of a video are used.

    Args:
        every: every Nth frame, starting with the first.
        fps: at most this many frames per second; None: all.

    Raises:
        SsferError: not positive.
    """

    def __init__(self, every: int = 1, fps: float | None = None) -> None:
        if every < 1 or (fps is not None and not fps > 0):
            raise SsferError(f"expected every of at least 1 and fps above 0, found {every} and {fps}")
        self._every, self._fps, self._due = every, fps, 0.0

    def takes(self, number: int, seconds: float | None) -> bool:
        """Return whether a frame is used; called for each frame in order.

        Args:
            number: of the frame, from 0.
            seconds: its time; None: not known, and `fps` does not count.
        """
        if number % self._every or (self._fps and seconds is not None and seconds < self._due - _EPSILON):
            return False
        if self._fps and seconds is not None:
            self._due = max(self._due + 1 / self._fps, seconds + 0.5 / self._fps)
        return True


def pyav() -> Any:
    """Return the package av.

    Raises:
        SsferError: it is not installed.
    """
    need("av", "video", "reading and writing videos")
    import av

    return av


def video_frames(item: Item, every: int = 1, fps: float | None = None, after: int | None = None) -> Iterator[Frame]:
    """Yield the frames of a video file, upright, with their presentation times; one frame is in memory at a time.

    A file that is damaged or cut (see `is_cut`) ends with a frame of status unreadable; a file without frames gives one
    frame of status no_frames.

    Args:
        item: the file.
        every, fps: see `Thinning`.
        after: skip the frames up to this number; they still count for `every` and `fps`.

    Raises:
        SsferError: PyAV is not installed.
    """
    av = pyav()
    number, thinning = -1, Thinning(every, fps)
    try:
        with av.open(os.path.abspath(item.path), options=_FORMATS) as container:  # "concat:..." is a protocol
            stream = next(iter(container.streams.video), None)
            if stream is not None:
                stream.thread_type = "AUTO"
                begin = (container.start_time or 0) / av.time_base
                for number, frame in enumerate(container.decode(stream)):
                    seconds = None if frame.time is None else frame.time - begin
                    if thinning.takes(number, seconds) and (after is None or number > after):
                        yield _frame(item, number, seconds, frame)
        whole = not is_cut(item.path)
    except (av.error.FFmpegError, ValueError, OSError):
        whole = False
    if not whole:
        yield Frame(item.name, status="unreadable", frame=number + 1 if number >= 0 else None, place=item.place)
    elif number < 0:
        yield Frame(item.name, status="no_frames", place=item.place)


def _frame(item: Item, number: int, seconds: float | None, frame: Any) -> Frame:
    place: dict[str, Any] = {"frame": number, "time": seconds, "moving": True, "place": item.place}
    if frame.width * frame.height > MAX_PIXELS:
        return Frame(item.name, status="too_large", **place)
    image = frame.to_image().convert("RGB")
    turn = _TURNS.get(round(frame.rotation) % 360)  # counterclockwise, as Pillow's
    return Frame(item.name, image if turn is None else image.transpose(turn), **place)


def camera_frames(camera: int, seconds: float | None = None) -> Iterator[Frame]:
    """Yield a camera's frames as fast as they are consumed, until it stops or `seconds` are over.

    The frames' times are those of the clock, from the start.

    Raises:
        SsferError: there is no such camera.
    """
    capture = cv2.VideoCapture(camera)
    try:
        if not capture.isOpened():
            raise SsferError(
                f"there is no camera {camera}; expected the number of a camera that no other program uses, such as 0"
            )
        begin, number = time.monotonic(), 0
        while seconds is None or time.monotonic() - begin < seconds:
            there, pixels = capture.read()
            if not there:
                return
            image = Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
            now = time.monotonic() - begin
            yield Frame(f"camera {camera}", image, frame=number, time=now, moving=True, place=f"camera-{camera}.mp4")
            number += 1
    finally:
        capture.release()
