"""Inputs of any kind as a stream of pictures: paths, folders, zip files, videos, arrays, iterators of frames.

What cannot be read becomes a frame with a status and without a picture; nothing in the data raises.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssfer.core import images
from ssfer.core.errors import SsferError
from ssfer.core.images import EXTENSIONS
from ssfer.datasets.base import FileTooLarge
from ssfer.datasets.shared.archives import MAX_FILE_BYTES, ZipArchive, is_junk

MAX_PIXELS = 50_000_000  # as align.max_pixels has it
VIDEO_EXTENSIONS = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv", ".mts", ".ts",
)  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """One picture, or why there is none.

    Attributes:
        input: what the user handed in: a path, a member of a zip as archive.zip/name, the position of an array.
        image: upright RGB; None unless the status is ok.
        status: ok, missing, empty, unreadable, too_large, too_small, refused (a hostile zip), no_frames.
        frame, time: number and seconds from the start, in videos.
        moving: whether the next frame of the same input shows the same scene a little later.
    """

    input: str
    image: Image.Image | None = None
    status: str = "ok"
    frame: int | None = None
    time: float | None = None
    moving: bool = False


def frames_of(inputs: Any, every: int = 1, fps: float | None = None) -> Iterator[Frame]:
    """Yield the frames of one input or of several.

    Args:
        inputs: a path, an array (H, W, 3) or (H, W), uint8, RGB, an array (N, H, W, 3) of such, a PIL image, a list or
            an iterator of these. An iterator of arrays and images is one moving scene; its items may be
            (seconds, image).
        every: of videos each so-manieth frame.
        fps: of videos at most so many frames a second; None: all.

    Raises:
        SsferError: something that is no picture at all.
    """
    if isinstance(inputs, (str, os.PathLike)):
        yield from frames_at(Path(inputs), every, fps)
    elif isinstance(inputs, Image.Image) or (isinstance(inputs, np.ndarray) and inputs.ndim < 4):
        yield _from_memory(inputs, "0")
    elif isinstance(inputs, Iterable):
        moving = isinstance(inputs, Iterator)
        for i, item in enumerate(inputs):
            if isinstance(item, (str, os.PathLike)):
                yield from frames_at(Path(item), every, fps)
            elif moving:
                time, picture = item if isinstance(item, tuple) and len(item) == 2 else (None, item)
                yield _from_memory(picture, "frames", frame=i, time=time, moving=True)
            else:
                yield _from_memory(item, str(i))
    else:
        raise _no_picture(inputs, "input")


def frames_at(path: Path, every: int = 1, fps: float | None = None) -> Iterator[Frame]:
    """Yield the frames of a file, of a folder (recursive, photos and videos) or of a zip file (photos)."""
    if path.is_dir():
        for file in files_below(path):
            yield from frames_at(file, every, fps)
    elif not os.path.lexists(path):
        yield Frame(str(path), status="missing")
    elif path.suffix.lower() in VIDEO_EXTENSIONS:
        from ssfer.predict.video import video_frames  # PyAV is an extra

        yield from video_frames(path, every, fps)
    elif path.suffix.lower() == ".zip":
        yield from _frames_in_zip(path)
    else:
        yield _read(str(path), lambda: _file_bytes(path))


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the photos, videos and zip files below a folder, in the order of their names.

    Hidden files are left out. Links are followed, but no folder is visited twice.
    """
    seen = {folder.resolve()}

    def walk(folder: Path) -> Iterator[Path]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:  # no permission: a row for the folder
            yield folder
            return
        for entry in entries:
            path = Path(entry.path)
            if is_junk(entry.name):
                continue
            if entry.is_dir():
                real = path.resolve()
                if real not in seen:
                    seen.add(real)
                    yield from walk(path)
            elif path.suffix.lower() in (*EXTENSIONS, *VIDEO_EXTENSIONS, ".zip"):
                yield path

    yield from walk(folder)


def _frames_in_zip(path: Path) -> Iterator[Frame]:
    try:
        archive = ZipArchive(path)
    except (SsferError, OSError):
        yield Frame(str(path), status="refused")
        return
    for name in archive.names():
        if Path(name).suffix.lower() in EXTENSIONS:
            yield _read(f"{path}/{name}", lambda name=name: archive.read(name))  # type: ignore[misc]


def _file_bytes(path: Path) -> bytes:
    if not path.is_file():  # a pipe would be waited for for ever
        raise OSError(f"{path} is no file")
    with open(path, "rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise FileTooLarge(str(path))
    return data


def _read(name: str, read: Any) -> Frame:
    try:
        decoded = images.decode(read(), MAX_PIXELS)
    except FileTooLarge:
        return Frame(name, status="too_large")
    except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError):
        return Frame(name, status="unreadable")
    except Exception:  # a damaged member of an archive raises anything; it is one image among many
        return Frame(name, status="unreadable")
    return Frame(name, decoded.image, decoded.status)


def _from_memory(picture: Any, name: str, **place: Any) -> Frame:
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
            raise _no_picture(picture, name)
        if 0 in picture.shape:
            return Frame(name, status="empty", **place)
        picture = Image.fromarray(np.ascontiguousarray(picture))
    if not isinstance(picture, Image.Image):
        raise _no_picture(picture, name)
    try:
        decoded = images.upright(picture, MAX_PIXELS)
    except Exception:  # an image object reads its file only now
        return Frame(name, status="unreadable", **place)
    return Frame(name, decoded.image, decoded.status, **place)


def _no_picture(found: Any, name: str) -> SsferError:
    what = f"an array {found.shape} of {found.dtype}" if isinstance(found, np.ndarray) else f"a {type(found).__name__}"
    return SsferError(
        f"{name}: expected a path, a PIL image or an RGB array (H, W, 3) of uint8, found {what}; convert it"
    )
