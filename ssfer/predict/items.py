"""List what there is to read at paths: photos, members of zip files, videos. Nothing is decoded here."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ssfer.core.errors import SsferError
from ssfer.core.images import EXTENSIONS
from ssfer.datasets.base import FileTooLarge
from ssfer.datasets.shared.archives import MAX_FILE_BYTES, ZipArchive, is_junk

VIDEO_EXTENSIONS = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv", ".mts", ".ts",
)  # fmt: skip
Kind = Literal["photo", "video", "status"]


@dataclass(frozen=True)
class Item:
    """One input.

    Attributes:
        name: as in the table's column `input`.
        kind: photo, video, or status: it cannot be read, and `status` says why.
        path: of the file.
        place: path of its annotated copy, relative to the folder of annotated copies.
        member: name inside the zip file at `path`.
        status: ok, missing, broken_link, unreadable, refused, or empty: a folder or zip file without photos.
    """

    name: str
    kind: Kind
    path: Path
    place: str
    member: str | None = None
    status: str = "ok"

    def read(self) -> bytes:
        """Return a photo's bytes.

        Raises:
            FileTooLarge: it has more than MAX_FILE_BYTES.
            Exception: of any class, from a damaged archive.
        """
        if self.member is not None:
            return _archive(str(self.path)).read(self.member)
        with open(self.path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise FileTooLarge(str(self.path))
        return data


def name_of(path: Path) -> str:
    """Return the name that the copies of a path's photos lie under."""
    return path.resolve().name if path.name in ("", "..") else path.name


def items_of(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Item]:
    """Yield what there is to read at some paths: files, everything in folders, the photos in zip files."""
    count: Counter[str] = Counter()
    for path in map(Path, paths):
        name = _unused(name_of(path), count)
        if os.path.isdir(path):
            yield from _or_empty(_items_in_folder(path, name), path, name)
        else:
            yield from _items_at(path, name)


def _unused(name: str, count: Counter[str]) -> str:
    """Return a name, with a number if it was given away before: several files must not share an annotated copy."""
    found = name
    while found in count:
        count[name] += 1
        found = f"{Path(name).stem}-{count[name]}{Path(name).suffix}"
    count[found] = 1
    return found


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the photos, videos and zip files in a folder and its subfolders, in the order of their names.

    Hidden files are left out. Links are followed, but no folder is visited twice. A folder that cannot be read is
    yielded itself.
    """
    seen, waiting = set[Path](), [folder]
    while waiting:  # no recursion, because folders may be a thousand deep
        path = waiting.pop()
        if not os.path.isdir(path):
            if path.suffix.lower() in (*EXTENSIONS, *VIDEO_EXTENSIONS, ".zip"):
                yield path
        elif (real := path.resolve()) not in seen:
            seen.add(real)
            try:
                inside = sorted(os.scandir(path), key=lambda entry: entry.name, reverse=True)
            except OSError:
                yield path
                continue
            waiting += [Path(entry.path) for entry in inside if not is_junk(entry.name)]


def _items_in_folder(folder: Path, place: str) -> Iterator[Item]:
    for file in files_below(folder):
        yield from _items_at(file, f"{place}/{file.relative_to(folder).as_posix()}")


def _or_empty(items: Iterator[Item], path: Path, place: str) -> Iterator[Item]:
    """Yield the items of a folder or zip file, or one with status empty if there is none."""
    first = next(items, Item(str(path), "status", path, place, status="empty"))
    yield from itertools.chain([first], items)


def _items_at(path: Path, place: str) -> Iterator[Item]:
    suffix = path.suffix.lower()
    if not os.path.exists(path):
        status = "broken_link" if os.path.islink(path) else "missing"
        yield Item(str(path), "status", path, place, status=status)
    elif not os.path.isfile(path):  # a folder that cannot be read, or a pipe, which could block forever
        yield Item(str(path), "status", path, place, status="unreadable")
    elif suffix in VIDEO_EXTENSIONS:
        yield Item(str(path), "video", path, place)
    elif suffix == ".zip":
        yield from _or_empty(_items_in_zip(path, place), path, place)
    else:
        yield Item(str(path), "photo", path, place)


def _items_in_zip(path: Path, place: str) -> Iterator[Item]:
    try:
        names = _archive(str(path)).names()
    except (SsferError, OSError):
        yield Item(str(path), "status", path, place, status="refused")
        return
    for name in names:
        if Path(name).suffix.lower() in EXTENSIONS:
            yield Item(f"{path}/{name}", "photo", path, f"{place}/{name}", member=name)


@lru_cache(maxsize=2)
def _archive(path: str) -> ZipArchive:
    return ZipArchive(Path(path))
