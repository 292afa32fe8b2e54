"""Untrusted bytes to upright RGB pixels, and pixels to clean JPEG bytes.

Every image of every source is read by `decode` and written by `encode_jpeg`. An image that cannot be read safely gets a
status instead of an exception, and only pixels are written (no EXIF, comment or color profile).
"""

import base64
import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import imagehash
import numpy as np
from PIL import Image, ImageOps, features

# Decoders for anything else (EPS starts Ghostscript, for instance) are never tried.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_HEIC = (".heic", ".heif")  # photos of phones; their decoder is an extra
EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", *_HEIC)
# A face below this side carries no expression, and the detector's window is 12 px.
MIN_SIDE = 16
# Background under transparent pixels: neutral gray, so that neither a light nor a dark face gets an edge.
_GROUND = (128, 128, 128)
_FRAME, _BOX = 224, (25.0, 25.0, 220.0, 220.0)  # px; the box of a crop without a detected face
_MODES_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


@cache
def _formats() -> tuple[str, ...]:
    """Return the names of the formats that can be decoded here; HEIF is among them if the extra `heif` is installed."""
    avif = ("AVIF",) if features.check("avif") else ()
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return (*FORMATS, *avif)
    register_heif_opener()
    return (*FORMATS, *avif, "HEIF")


def undecodable(names: Iterable[str]) -> str:
    """Return a sentence that says what to install to decode files of these names; "" if nothing is missing."""
    number = 0 if "HEIF" in _formats() else sum(name.lower().endswith(_HEIC) for name in names)
    if not number:
        return ""
    return (
        f"{number:,} photos are HEIC files, whose decoder is not installed; expected the extra 'heif': "
        "pip install 'ssfer[heif]', or save them as JPEG"
    )


@dataclass(frozen=True)
class Decoded:
    """Result of `decode`: `status` is "ok" with an image, or why there is none (`ssfer.formats.manifest.STATUSES`)."""

    status: str
    image: Image.Image | None = None


def decode(data: bytes, max_pixels: int) -> Decoded:
    """Decode the first frame of an image file into upright 8-bit RGB; never raises for bad input.

    The size is checked from the header before any pixel is decoded. The EXIF orientation is applied here and nowhere
    else, so all coordinates of the project are in the upright frame. 16-bit gray is scaled to 8 bits, transparent
    pixels are blended with a neutral gray, CMYK and palettes are converted.

    Args:
        data: the file's bytes.
        max_pixels: larger images are refused; Pillow itself refuses those above 179 million pixels.
    """
    if not data:
        return Decoded("empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and of the size, which is checked below
            with Image.open(BytesIO(data), formats=_formats()) as file:
                return upright(file, max_pixels)
    except Image.DecompressionBombError:
        return Decoded("too_large")
    except Exception:  # decoders raise anything, from struct.error to KeyError, on damaged input
        return Decoded("unreadable")


def upright(image: Image.Image, max_pixels: int) -> Decoded:
    """Return an opened picture as `decode` does; exceptions of its decoder on damaged input are not caught."""
    if image.width * image.height > max_pixels:
        return Decoded("too_large")
    if min(image.size) < MIN_SIDE:
        return Decoded("too_small")
    image.load()  # a truncated file raises here
    return Decoded("ok", _upright_rgb(image))


def _upright_rgb(image: Image.Image) -> Image.Image:
    rgb = _to_rgb(image)
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # damaged metadata does not spoil good pixels
        orientation = 1
    if orientation in range(2, 9):
        turned = Image.new("RGB", rgb.size)
        turned.getexif()[0x0112] = orientation
        turned.paste(rgb)
        rgb = ImageOps.exif_transpose(turned)
    # A new image from bare pixels: `info` (comment, EXIF, ICC profile) stays behind.
    return Image.fromarray(np.asarray(rgb).copy())


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _MODES_16_BIT or image.mode == "I":
        # Pillow would clip at 255. 65535 / 257 = 255, so the full range maps to the full range.
        gray = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(np.round(gray / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point images have no defined white")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (*_GROUND, 255))
        return Image.alpha_composite(ground, rgba).convert("RGB")
    return image.convert("RGB")


def pixel_sha256(image: Image.Image) -> str:
    """Return the sha256 of an RGB image's size and pixels: equal for any lossless re-encoding of the same picture."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:RGB:".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def phash(image: Image.Image) -> str:
    """Return the 64-bit perceptual hash (signs of low DCT frequencies against their median) as 16 hex digits."""
    return str(imagehash.phash(image))


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """Encode RGB pixels as JPEG without chroma subsampling and without metadata; equal pixels give equal bytes."""
    buffer = BytesIO()
    bare = image if not image.info else Image.fromarray(np.asarray(image).copy())
    bare.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def fallback_box(size: int) -> tuple[float, float, float, float]:
    """Return the face box (x1, y1, x2, y2) of a crop of `size` px where none is known (SSFER specification, section 3).

    Alignment uses it, and training when a crop cuts a box away.
    """
    x1, y1, x2, y2 = (v * size / _FRAME for v in _BOX)
    return x1, y1, x2, y2


def data_uri(data: bytes, kind: str = "jpeg") -> str:
    """Return the bytes of a picture as a data URI for a page."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
