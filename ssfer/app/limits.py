"""Limits of a request's size and time."""

from __future__ import annotations

from dataclasses import dataclass

from ssfer.core.images import FORMATS
from ssfer.predict.frames import MAX_PIXELS


@dataclass(frozen=True)
class Limits:
    """Limits of memory and time; uploads take at most `waiting * bytes` of memory.

    Attributes:
        bytes: of one picture's file.
        pixels: of one picture.
        waiting: requests that are uploaded, waiting or processed at the same time; others get 503.
        upload_seconds: for reading a request.
        work_seconds: from the end of the upload to the response, waiting included.
        retry_seconds: after which a client that got 503 may try again.
    """

    bytes: int = 20_000_000
    pixels: int = MAX_PIXELS
    waiting: int = 32
    upload_seconds: float = 20.0
    work_seconds: float = 60.0
    retry_seconds: int = 1


CONTENT_TYPES = tuple(f"image/{name.lower()}" for name in FORMATS)
