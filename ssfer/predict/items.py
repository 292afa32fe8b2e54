"""List what there is to read at paths: photos, members of zip files, videos. Nothing is decoded here."""

from __future__ import annotations

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
        status: ok, missing, unreadable or refused.
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
        if not self.path.is_file():  # reading a pipe could block forever
            raise OSError(f"{self.path} is no file")
        with open(self.path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise FileTooLarge(str(self.path))
        return data


def items_of(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Item]:
    """Yield what there is to read at some paths: files, everything in folders, the photos in zip files."""
    count: Counter[str] = Counter()
    for path in map(Path, paths):
        name = path.name or path.resolve().name
        count[name] += 1
        if count[name] > 1:  # files of the same name in several folders must not share an annotated copy
            name = f"{Path(name).stem}-{count[name]}{Path(name).suffix}"
        if path.is_dir():
            for file in files_below(path):
                yield from _items_at(file, f"{name}/{file.relative_to(path).as_posix()}")
        else:
            yield from _items_at(path, name)


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the photos, videos and zip files in a folder and its subfolders, in the order of their names.

    Hidden files are left out. Links are followed, but no folder is visited twice. A folder that cannot be read is
    yielded itself.
    """
    seen = {folder.resolve()}

    def walk(folder: Path) -> Iterator[Path]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
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


def _items_at(path: Path, place: str) -> Iterator[Item]:
    suffix = path.suffix.lower()
    if not os.path.lexists(path):
        yield Item(str(path), "status", path, place, status="missing")
    elif path.is_dir():  # `files_below` yields folders that cannot be read
        yield Item(str(path), "status", path, place, status="unreadable")
    elif suffix in VIDEO_EXTENSIONS:
        yield Item(str(path), "video", path, place)
    elif suffix == ".zip":
        yield from _items_in_zip(path, place)
    else:
        yield Item(str(path), "photo", path, place)


def _items_in_zip(path: Path, place: str) -> Iterator[Item]:
    try:
        names = _archive(str(path)).names() if path.is_file() else None
    except (SsferError, OSError):
        names = None
    if names is None:
        yield Item(str(path), "status", path, place, status="refused")
        return
    for name in names:
        if Path(name).suffix.lower() in EXTENSIONS:
            yield Item(f"{path}/{name}", "photo", path, f"{place}/{name}", member=name)


@lru_cache(maxsize=2)
def _archive(path: str) -> ZipArchive:
    return ZipArchive(Path(path))
