"""Turn inputs of any kind into a stream of frames: paths, folders, zip files, videos, arrays, iterators of frames.

What cannot be read becomes a frame with a status and without a picture; damaged data never raises.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from ssfer.datasets.base import FileTooLarge
from ssfer.predict.frames import MAX_PIXELS, Frame, decoded_bytes, from_memory, no_picture
from ssfer.predict.items import Item, items_of
from ssfer.predict.video import Thinning, video_frames


def frames_of(inputs: Any, every: int = 1, fps: float | None = None) -> Iterator[Frame]:
    """Yield the frames of one input or of several.

    Args:
        inputs: a path, an RGB or gray array (H, W, 3) or (H, W) of uint8, an array of several (N, H, W, 3), a PIL
            image, or a list or an iterator of these. An iterator of arrays and images is one video; its items may be
            (seconds, image).
        every, fps: which frames of videos are used; see `ssfer.predict.video.Thinning`.

    Raises:
        SsferError: an input of another type, which cannot be a picture.
    """
    thinning = Thinning(every, fps)
    if isinstance(inputs, (str, os.PathLike)):
        yield from frames_at([inputs], every, fps)
    elif isinstance(inputs, Image.Image) or (isinstance(inputs, np.ndarray) and inputs.ndim < 4):
        yield from_memory(inputs, "0")
    elif isinstance(inputs, Iterable):
        moving = isinstance(inputs, Iterator)
        for i, item in enumerate(inputs):
            if isinstance(item, (str, os.PathLike)):
                yield from frames_at([item], every, fps)
            elif moving:
                time, picture = item if isinstance(item, tuple) and len(item) == 2 else (None, item)
                if thinning.takes(i, time):
                    yield replace(from_memory(picture, "frames"), frame=i, time=time, moving=True)
            else:
                yield from_memory(item, str(i))
    else:
        raise no_picture(inputs, "input")


def frames_at(paths: Iterable[Any], every: int = 1, fps: float | None = None) -> Iterator[Frame]:
    """Yield the frames of files, of folders (recursive, photos and videos) and of zip files (photos)."""
    for item in items_of(paths):
        yield from frames_in(item, every, fps)


def frames_in(item: Item, every: int = 1, fps: float | None = None, after: int | None = None) -> Iterator[Frame]:
    """Yield the frames of one item; of a video those after frame number `after`."""
    if item.kind == "video":
        yield from video_frames(item, every, fps, after)
    elif item.kind == "status":
        yield Frame(item.name, status=item.status, place=item.place)
    else:
        yield replace(_decoded(item), place=item.place)


def _decoded(item: Item) -> Frame:
    try:
        data = item.read()
    except FileTooLarge:
        return Frame(item.name, status="too_large")
    except Exception:  # a damaged member of an archive can raise anything, and must not stop the others
        return Frame(item.name, status="unreadable")
    decoded = decoded_bytes(data, MAX_PIXELS)
    return Frame(item.name, decoded.image, decoded.status)
