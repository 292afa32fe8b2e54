"""Image files for tests: smooth random pictures, encoded, damaged and dangerous ones."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Return a smooth random RGB picture (survives JPEG well)."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in its header and a few bytes of data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def damaged(count: int) -> list[bytes]:
    """Truncated, bit-flipped, spliced and renamed files of all formats, deterministic."""
    rng = np.random.default_rng(7)
    files = [encoded(picture(60, 50, i), kind) for i, kind in enumerate(("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"))]
    files += [encoded(picture(60, 50).convert("CMYK"), "JPEG"), encoded(picture(60, 50).quantize(8)), bomb()]
    found = []
    for n in range(count):
        data = bytearray(files[n % len(files)])
        match n // len(files) % 4:
            case 0:
                data = data[: int(rng.integers(0, len(data)))]
            case 1:
                for position in rng.integers(0, len(data), 8):
                    data[position] ^= 1 << int(rng.integers(0, 8))
            case 2:  # the header is the interesting part
                for position in rng.integers(0, min(64, len(data)), 3):
                    data[position] = int(rng.integers(0, 256))
            case 3:
                data = data[: len(data) // 2] + bytearray(rng.bytes(200)) + data[len(data) // 2 :]
        found.append(bytes(data))
    return found
