"""Bytes of a stored crop to RGB pixels, as fast as the same bytes allow.

Pillow's pixels are the reference. simplejpeg (libjpeg-turbo without a copy and without Pillow's image object) needs
half the time. It is used for JPEG only after it gave Pillow's bytes for a set of probe pictures in the same process, so
batches, and resumed runs, do not depend on which of the two is used.
"""

import io
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssfer.core.images import FORMATS

Pixels = NDArray[np.uint8]
# Larger pictures go to Pillow, which has limits against decompression bombs; a stored crop has about 50,000 pixels.
_FAST_PIXELS = 2**24
_FAST_COLORS = ("YCbCr", "Gray")  # CMYK becomes RGB in more than one way
_JPEG = b"\xff\xd8\xff"


def decode_rgb(data: bytes) -> Pixels:
    """Return the pixels (H, W, 3), RGB, of one picture file; the array is the caller's own and writable.

    Raises:
        ValueError: the bytes are not a complete picture of a known format; has the decoder's message.
    """
    fast = fast_decoder()
    if fast is not None and data[:3] == _JPEG:
        try:
            return fast(data)
        except ValueError:  # a rare color space, a huge picture or damage: Pillow decides
            pass
    return decode_with_pillow(data)


def decode_with_pillow(data: bytes) -> Pixels:
    """Return what `decode_rgb` does, with Pillow only: the reference.

    Raises:
        ValueError: see `decode_rgb`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return np.array(image.convert("RGB"))
    except Exception as error:  # decoders raise anything, from struct.error to KeyError, on damaged input
        raise ValueError(str(error) or type(error).__name__) from error


@cache
def fast_decoder() -> Callable[[bytes], Pixels] | None:
    """Return a JPEG decoder that is faster than Pillow and gives the same bytes; None if there is none."""
    try:
        library = import_module("simplejpeg")
    except ImportError:
        return None

    def decode(data: bytes) -> Pixels:
        height, width, colors, _ = library.decode_jpeg_header(data)
        if height * width > _FAST_PIXELS or colors not in _FAST_COLORS:
            raise ValueError(f"{width} x {height} pixels, {colors}")
        pixels: Pixels = library.decode_jpeg(data, "RGB")
        return pixels

    return decode if agrees(decode) else None


def agrees(decode: Callable[[bytes], Any]) -> bool:
    """Return whether `decode` gives Pillow's bytes for every probe: all samplings, odd sizes, gray, progressive."""
    try:
        return all(np.array_equal(decode(data), decode_with_pillow(data)) for data in probes())
    except ValueError:
        return False


@cache
def probes() -> tuple[bytes, ...]:
    """Return JPEG files that reveal differences between decoders: noise on a gradient, so that no DCT term is zero."""
    rng = np.random.default_rng(0)
    found = []
    for height, width, quality, subsampling in ((64, 48, 95, 0), (53, 37, 95, 0), (61, 47, 75, 1), (45, 59, 90, 2)):
        y, x = np.mgrid[:height, :width, :1][:2]
        slope = np.concatenate([4 * x, 3 * y, 255 - 2 * (x + y)], axis=2)
        picture = Image.fromarray((slope + rng.normal(0, 30, slope.shape)).clip(0, 255).astype(np.uint8))
        found.append(_encode(picture, quality=quality, subsampling=subsampling))
        found.append(_encode(picture.convert("L"), quality=quality))
        found.append(_encode(picture, quality=quality, subsampling=subsampling, progressive=True))
    return tuple(found)


def _encode(picture: Image.Image, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **settings)
    return buffer.getvalue()
