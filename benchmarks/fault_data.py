"""Hostile archives and tables for the fault campaign."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SECRET = b"the content of a private file"
_Zip = zipfile.ZipFile


def photo(seed: int = 0) -> bytes:
    """Return a small JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 48, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def _plain(archive: _Zip) -> None:
    for part, n in (("train", 4), ("test", 2)):
        for i in range(n):
            archive.writestr(f"photos/{part}/{('smile', 'frown')[i % 2]}/{i}.jpg", photo(i))


def _named(name: str) -> Callable[[_Zip], None]:
    def write(archive: _Zip) -> None:
        _plain(archive)
        archive.writestr(name, photo(9))

    return write


def _link(archive: _Zip) -> None:
    _plain(archive)
    info = zipfile.ZipInfo("photos/train/smile/link.jpg")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, "../../../../private.jpg")


def _bomb(archive: _Zip) -> None:
    _plain(archive)
    archive.writestr("photos/train/smile/big.jpg", bytes(300 * 2**20), zipfile.ZIP_DEFLATED)


def _picture_bomb(archive: _Zip) -> None:
    _plain(archive)
    buffer = io.BytesIO()
    Image.new("1", (30000, 30000)).save(buffer, "PNG")
    archive.writestr("photos/train/smile/huge.png", buffer.getvalue())


def _twice(archive: _Zip) -> None:
    _plain(archive)
    archive.writestr("photos/train/smile/0.jpg", photo(5))


def _many(archive: _Zip) -> None:
    _plain(archive)
    for i in range(2000):
        archive.writestr(f"photos/train/smile/empty-{i}.jpg", b"")


def _deep(archive: _Zip) -> None:
    _plain(archive)
    archive.writestr("photos/train/smile/" + "a/" * 1500 + "x.jpg", photo(1))


ARCHIVES: Mapping[str, Callable[[_Zip], None]] = {
    "as it should be": _plain,
    "leaves the folder": _named("../../outside.jpg"),
    "absolute name": _named("/tmp/ssfer-fault-absolute.jpg"),
    "drive letter": _named("C:\\windows\\x.jpg"),
    "control characters": _named("photos/train/smile/\x1b[2J\x07.jpg"),
    "name of 5,000 characters": _named("photos/train/smile/" + "x" * 5000 + ".jpg"),
    "another class": _named("photos/train/sm\u200bile/x.jpg"),
    "link": _link,
    "deflate bomb": _bomb,
    "picture bomb": _picture_bomb,
    "name twice": _twice,
    "2,000 empty files": _many,
    "1,500 folders deep": _deep,
}
# Bytes of a csv file with the columns path, label and usage.
TABLES: Mapping[str, bytes] = {
    "leaves the folder": b"path,label,usage\n../../private.jpg,smile,train\n",
    "absolute path": b"path,label,usage\n/etc/passwd,smile,train\n",
    "binary": bytes(range(256)) * 40,
    "NUL bytes": b"path,label,usage\n0.jpg\0,smile,train\n",
    "UTF-16": "path,label,usage\n0.jpg,smile,train\n".encode("utf-16"),
    "one endless field": b'path,label,usage\n"' + b"x" * 300_000 + b",smile,train\n",
    "cut in a row": b"path,label,usage\n0.jpg,smile,train\n1.jpg,fr",
    "no rows": b"path,label,usage\n",
    "escape sequences": b"path,label,usage\n0.jpg,\x1b[2Jsmile,train\n",
}


def write_archive(folder: Path, name: str) -> dict[str, Any]:
    """Write a zip to `folder`/raw and a private file that must not be read; return the source's settings."""
    raw = _raw(folder)
    with zipfile.ZipFile(raw / "photos.zip", "w") as archive:
        ARCHIVES[name](archive)
    return _source("class_folders", "photos.zip")


def write_table(folder: Path, name: str) -> dict[str, Any]:
    """Write a table and photos to `folder`/raw and a private file; return the source's settings."""
    raw = _raw(folder)
    for i in range(4):
        (raw / f"{i}.jpg").write_bytes(photo(i))
    (raw / "table.csv").write_bytes(TABLES[name])
    return {**_source("csv", "table.csv"), "usage_column": "usage"}


def _raw(folder: Path) -> Path:
    raw = folder / "raw"
    raw.mkdir(parents=True)
    (folder / "private.jpg").write_bytes(photo(7) + SECRET)
    return raw


def _source(kind: str, path: str) -> dict[str, Any]:
    return {"name": "own", "kind": kind, "path": path, "labeled": True, "align": "resize"}
