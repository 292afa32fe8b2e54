"""What a request may cost."""

from __future__ import annotations

from dataclasses import dataclass

from ssfer.core.images import FORMATS


@dataclass(frozen=True)
class Limits:
    """Bounds of memory and time; `waiting * bytes` is the most memory that uploads can take.

    Attributes:
        bytes: of one picture's file.
        pixels: of one picture.
        waiting: requests that are read, waiting or worked on at the same time; others get 503.
        upload_seconds: for reading a request.
        work_seconds: from the end of the upload to the answer, waiting included.
        retry_seconds: when a client that got 503 may try again.
    """

    bytes: int = 20_000_000
    pixels: int = 50_000_000
    waiting: int = 32
    upload_seconds: float = 20.0
    work_seconds: float = 60.0
    retry_seconds: int = 1


CONTENT_TYPES = tuple(f"image/{name.lower()}" for name in FORMATS)
