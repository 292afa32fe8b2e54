"""ssfer.data.decode: simplejpeg only where it gives Pillow's bytes; anything else, and every verdict, from Pillow."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssfer.data import decode
from ssfer.data.decode import agrees, decode_rgb, decode_with_pillow, fast_decoder, probes


@pytest.fixture(autouse=True)
def _fresh_choice() -> Iterator[None]:
    fast_decoder.cache_clear()
    yield
    fast_decoder.cache_clear()


def picture(seed: int, height: int = 40, width: int = 56) -> Image.Image:
    """A slope with noise of a strength that depends on the seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([4 * x, 5 * y, 200 - 2 * x], axis=2) + rng.normal(0, 1 + seed % 40, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def test_the_fast_decoder_is_chosen_here_and_gives_pillows_bytes_for_many_files() -> None:
    fast = fast_decoder()
    assert fast is not None
    rng = np.random.default_rng(1)
    for seed in range(250):
        height, width = rng.integers(1, 80, 2).tolist()
        settings: dict[str, Any] = {"quality": int(rng.integers(1, 101)), "subsampling": seed % 3}
        settings |= {"progressive": seed % 4 == 0, "optimize": seed % 5 == 0}
        data = encoded(picture(seed, height, width), "JPEG", **settings)
        expected = np.array(Image.open(io.BytesIO(data)))
        found = fast(data)
        assert found.dtype == np.uint8
        assert np.array_equal(found, expected), (height, width, settings)
        assert np.array_equal(decode_rgb(data), expected)


def test_a_decoder_that_is_off_by_one_level_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import simplejpeg

    assert agrees(decode_with_pillow)
    assert not agrees(lambda data: decode_with_pillow(data) ^ 1)
    assert not agrees(lambda data: decode_with_pillow(data)[:-1])
    right = simplejpeg.decode_jpeg

    def wrong(data: bytes, *args: Any) -> Any:
        pixels = right(data, *args)
        pixels[-1, -1, -1] ^= 1
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", wrong)
    assert fast_decoder() is None
    data = encoded(picture(3))
    assert np.array_equal(decode_rgb(data), decode_with_pillow(data))


def test_probes_tell_the_usual_short_cuts_apart() -> None:
    import simplejpeg

    assert agrees(lambda data: simplejpeg.decode_jpeg(data, "RGB"))
    assert not agrees(lambda data: simplejpeg.decode_jpeg(data, "RGB", fastdct=True))
    assert not agrees(lambda data: simplejpeg.decode_jpeg(data, "RGB", fastupsample=True))
    assert len(set(probes())) == 12


def test_without_the_library_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)  # importing it raises ImportError
    assert fast_decoder() is None
    data = encoded(picture(4), quality=95, subsampling=0)
    assert np.array_equal(decode_rgb(data), np.array(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpegs_become_rgb_as_pillow_says(mode: str) -> None:
    data = encoded(picture(5).convert(mode), quality=90)
    assert np.array_equal(decode_rgb(data), np.array(Image.open(io.BytesIO(data)).convert("RGB")))


def test_other_formats_are_pillows() -> None:
    image = picture(6)
    assert np.array_equal(decode_rgb(encoded(image, "PNG")), np.array(image))


def test_pixels_are_the_callers_own() -> None:
    for kind in ("JPEG", "PNG"):
        data = encoded(picture(7), kind)
        first = decode_rgb(data)
        kept = first.copy()
        first[:] = 0
        assert np.array_equal(decode_rgb(data), kept)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_damaged_files_are_value_errors(kind: str) -> None:
    data = encoded(picture(8), kind)
    zeros = bytes(len(data))
    for bad in (b"", data[:2], data[:3], data[: len(data) // 2], zeros, data[:3] + zeros[3:]):
        with pytest.raises(ValueError, match=r"."):
            decode_rgb(bad)


def test_a_header_that_claims_a_huge_picture_is_refused_before_memory_is_claimed() -> None:
    data = bytearray(encoded(picture(9)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"  # height and width: 12 GB of pixels
    with pytest.raises(ValueError, match="exceeds limit"):
        decode_rgb(bytes(data))


def test_the_fast_path_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = fast_decoder()
    assert fast is not None
    monkeypatch.setattr(decode, "_FAST_PIXELS", 40 * 56 - 1)
    with pytest.raises(ValueError, match="56 x 40 pixels"):
        fast(encoded(picture(1)))
    monkeypatch.setattr(decode, "_FAST_PIXELS", 40 * 56)
    assert fast(encoded(picture(1))).shape == (40, 56, 3)
