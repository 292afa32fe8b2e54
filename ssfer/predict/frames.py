"""Frames, the inputs of prediction: a picture, or the reason why there is none."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from ssfer.core import images
from ssfer.core.errors import SsferError
from ssfer.faces.settings import AlignSettings

MAX_PIXELS = AlignSettings().max_pixels
WINDOW_IMAGES, WINDOW_PIXELS = 128, 64_000_000  # most pictures in memory at the same time
FLOAT_PIXELS = "float_pixels"  # status of pictures of floating-point numbers, whose white is not defined


@dataclass(frozen=True)
class Frame:
    """One picture, or the reason why there is none.

    Attributes:
        input: what the user passed: a path, a member of a zip as archive.zip/name, the index of an array.
        image: upright RGB; None unless the status is ok.
        status: ok, missing, broken_link, empty, unreadable, float_pixels, too_large, too_small, refused (a zip file
            that is damaged or hostile), no_frames.
        frame, time: number and seconds from the start; None unless it is of a video.
        moving: whether it is of a video or camera, so that faces are tracked.
        place: path of its annotated copy, relative to the folder of annotated copies.
    """

    input: str
    image: Image.Image | None = None
    status: str = "ok"
    frame: int | None = None
    time: float | None = None
    moving: bool = False
    place: str = ""


def windows(frames: Iterable[Frame], most: int) -> Iterator[list[Frame]]:
    """Yield the frames in lists of at most `most`, shorter ones for large pictures; photos and videos are apart."""
    window: list[Frame] = []
    pixels = 0
    for frame in frames:
        if window and frame.moving != window[0].moving:
            yield window
            window, pixels = [], 0
        window.append(frame)
        pixels += frame.image.width * frame.image.height if frame.image else 0
        if len(window) >= most or pixels >= WINDOW_PIXELS:
            yield window
            window, pixels = [], 0
    if window:
        yield window


def decoded_bytes(data: bytes, max_pixels: int) -> images.Decoded:
    """Return a picture file's pixels as `ssfer.core.images.decode` does; FLOAT_PIXELS is a status of its own."""
    decoded = images.decode(data, max_pixels)
    if decoded.status == "unreadable":
        with suppress(Exception), warnings.catch_warnings():  # damaged data can raise anything
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data), formats=("TIFF",)) as file:
                if file.mode == "F":
                    return images.Decoded(FLOAT_PIXELS)
    return decoded


def from_memory(picture: Any, name: str) -> Frame:
    """Return the frame of an array or of a PIL image.

    Raises:
        SsferError: it is neither, or the array is not an RGB or gray picture of uint8.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
            raise no_picture(picture, name)
        if 0 in picture.shape:
            return Frame(name, status="empty")
        picture = Image.fromarray(np.ascontiguousarray(picture))
    if not isinstance(picture, Image.Image):
        raise no_picture(picture, name)
    if picture.mode == "F":
        return Frame(name, status=FLOAT_PIXELS)
    try:
        decoded = images.upright(picture, MAX_PIXELS)
    except Exception:  # an image object reads its file only now
        return Frame(name, status="unreadable")
    return Frame(name, decoded.image, decoded.status)


def no_picture(found: Any, name: str) -> SsferError:
    """Return the error for an input that is not a picture."""
    what = f"an array {found.shape} of {found.dtype}" if isinstance(found, np.ndarray) else f"a {type(found).__name__}"
    return SsferError(
        f"{name}: expected a path, a PIL image or an RGB array (H, W, 3) of uint8, found {what}; convert it"
    )
