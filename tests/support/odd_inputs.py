"""A thousand files that a user may meet or an attacker may send: pictures, videos and zip files, each with a defect."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.fault_data import ARCHIVES
from tests.support.moving_scenes import crossing, write_video

_Save = Callable[[Image.Image, io.BytesIO], None]


def _as(kind: str, mode: str = "RGB", **options: object) -> _Save:
    return lambda image, file: image.convert(mode).save(file, kind, **options)  # type: ignore[arg-type]


def _array(dtype: str, kind: str = "TIFF") -> _Save:
    return lambda image, file: Image.fromarray(257 * np.asarray(image.convert("L")).astype(dtype)).save(file, kind)


# File suffix and writer of every kind of picture; the first two letters of a name keep names apart.
PICTURES: dict[str, tuple[str, _Save]] = {
    "jpeg": ("jpg", _as("JPEG")),
    "jpeg-progressive": ("jpg", _as("JPEG", progressive=True)),
    "jpeg-gray": ("jpg", _as("JPEG", "L")),
    "jpeg-cmyk": ("jpg", _as("JPEG", "CMYK")),
    "png": ("png", _as("PNG")),
    "png-1": ("png", _as("PNG", "1")),
    "png-gray-alpha": ("png", _as("PNG", "LA")),
    "png-palette": ("png", _as("PNG", "P", transparency=3)),
    "png-alpha": ("png", _as("PNG", "RGBA")),
    "png-16": ("png", _array("uint16", "PNG")),
    "webp": ("webp", _as("WEBP")),
    "webp-lossless": ("webp", _as("WEBP", "RGBA", lossless=True)),
    "bmp": ("bmp", _as("BMP")),
    "gif": ("gif", _as("GIF", "P")),
    "gif-animated": ("gif", _as("GIF", "P", save_all=True, append_images=[Image.new("P", (9, 9))] * 3)),
    "tiff": ("tif", _as("TIFF")),
    "tiff-lzw": ("tif", _as("TIFF", compression="tiff_lzw")),
    "tiff-deflate": ("tiff", _as("TIFF", "RGBA", compression="tiff_deflate")),
    "tiff-jpeg": ("tif", _as("TIFF", compression="jpeg")),
    "tiff-float": ("tif", _array("float32")),
    "tiff-32": ("tif", _array("int32")),
    "avif": ("avif", _as("AVIF")),
}


def write_odd_inputs(folder: Path, photo: Image.Image) -> int:
    """Write the inputs into a folder, one entry of it for each; return their number.

    Args:
        folder: exists and is empty.
        photo: RGB, at least 64 px.
    """
    for kind, (suffix, save) in PICTURES.items():
        buffer = io.BytesIO()
        save(photo, buffer)
        for name, data in damaged(buffer.getvalue(), 19):
            (folder / f"{kind}-{name}.{suffix}").write_bytes(data)
    for suffix in ("mp4", "mkv", "avi"):
        whole = write_video(folder / f"clip.{suffix}", [crossing(i) for i in range(4)], [i / 10 for i in range(4)])
        for name, data in damaged(whole.read_bytes(), 6):
            (folder / f"clip-{name}.{suffix}").write_bytes(data)
    for name, write in ARCHIVES.items():
        with warnings.catch_warnings(), zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            warnings.simplefilter("ignore")  # of names that occur twice
            write(archive)
    for name, data in damaged((folder / "another class.zip").read_bytes(), 6):
        (folder / f"zip-{name}.zip").write_bytes(data)
    for name, data in _made(photo):
        (folder / name).write_bytes(data)
    _not_files(folder)
    return len(os.listdir(folder))


def damaged(data: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield a file as it is, then in 2 x count + 5 damaged forms, with their names."""
    rng = np.random.default_rng(len(data))
    yield "whole", data
    yield "twice", data + data
    yield "backwards", data[::-1]
    yield "first-byte", data[:1]
    yield "tail", data + bytes(rng.integers(0, 256, 1000, np.uint8))
    yield "no-head", data[8:]
    for i in range(count):
        yield f"cut-{i}", data[: int(len(data) * (i + 0.5) / count)]
        changed = np.frombuffer(data, np.uint8).copy()
        near = len(data) if i % 2 else min(len(data), 200)  # headers decide what a decoder does
        changed[rng.integers(0, near, 1 + i)] = rng.integers(0, 256, 1 + i)
        yield f"changed-{i}", changed.tobytes()


def _made(photo: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes of files that are made to harm or to confuse."""
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    for kind in ("jpg", "png", "webp", "gif", "bmp", "tif", "avif", "heic", "mp4", "webm", "mov", "zip"):
        yield f"empty.{kind}", b""
        yield f"text.{kind}", b"#!/bin/sh\nrm -rf /\n" * 40
        yield f"photo-named.{kind}", jpeg
    for side in (60_000, 2**31 - 1):
        yield f"bomb-{side}.png", _png(side, side)
    for width, height in ((1, 1), (16, 16), (15, 4000), (16, 60_000), (60_000, 16), (20_000, 17)):
        buffer = io.BytesIO()
        Image.new("L", (width, height), 90).save(buffer, "PNG")
        yield f"side-{width}x{height}.png", buffer.getvalue()
    for orientation in (0, 1, 3, 6, 8, 9, 65535):
        buffer, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = orientation
        photo.save(buffer, "JPEG", exif=exif)
        yield f"exif-{orientation}.jpg", buffer.getvalue()
    photo.save(buffer := io.BytesIO(), "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 60, icc_profile=b"no profile" * 9)
    yield "exif-and-icc-damaged.jpg", buffer.getvalue()
    yield "svg.png", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\nshowpage\n"
    yield "playlist.mp4", b"#EXTM3U\n#EXTINF:5,\nhttp://192.0.2.1/x.ts\n#EXT-X-ENDLIST\n"
    yield "concat.mkv", b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield "=cmd|' calc'!A0.jpg", jpeg
    yield 'line\nbreak, "quoted" \x1b[2J.jpg', jpeg
    yield "\u202egpj.exe.jpg", jpeg
    yield os.fsdecode(b"latin-\xe9.jpg"), jpeg
    yield f"{'x' * 240}.jpg", jpeg


def _png(width: int, height: int) -> bytes:
    """Return a PNG whose header promises far more than it holds."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(9999))))
    parts = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _not_files(folder: Path) -> None:
    (folder / "folder.jpg").mkdir()
    deep = str(folder / "deep")
    for _ in range(1200):
        os.mkdir(deep)
        deep += "/d"
    (folder / "nowhere.jpg").symlink_to("absent.jpg")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "pipe.mp4", "pipe.zip"):
        os.mkfifo(folder / name)
