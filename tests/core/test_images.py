"""Decoding of anything that calls itself an image."""

from __future__ import annotations

import hashlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ssfer.core import images
from ssfer.core.images import MIN_SIDE, decode, encode_jpeg, phash, pixel_sha256, undecodable
from ssfer.formats.manifest import STATUSES
from tests.support.image_files import bomb, damaged, encoded, picture

MAX_PIXELS = 1_000_000


def pixels(data: bytes) -> np.ndarray:
    decoded = decode(data, MAX_PIXELS)
    assert decoded.status == "ok"
    assert decoded.image is not None
    assert decoded.image.mode == "RGB"
    return np.asarray(decoded.image).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    data = encoded(picture(), kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(pixels(data), np.asarray(picture()))


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_photos_of_phones_are_read(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    data = encoded(Image.new("RGB", (32, 32), (200, 40, 90)), kind, quality=95)
    np.testing.assert_allclose(pixels(data)[16, 16], (200, 40, 90), atol=6)


def test_a_missing_decoder_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_formats", lambda: images.FORMATS)
    assert undecodable(["a.jpg", "b.avif"]) == ""
    assert undecodable(["a.jpg", "b.HEIC", "c.heif"]).startswith("2 photos are HEIC files")
    assert "pip install 'ssfer[heif]'" in undecodable(["b.heic"])
    monkeypatch.setattr(images, "_formats", lambda: (*images.FORMATS, "HEIF"))
    assert undecodable(["b.heic"]) == ""


def test_extension_plays_no_role_and_other_formats_are_refused() -> None:
    assert decode(encoded(picture(), "JPEG"), MAX_PIXELS).status == "ok"
    for kind in ("EPS", "PPM", "TGA"):
        assert decode(encoded(picture(), kind), MAX_PIXELS).status == "unreadable"
    assert decode(b"<svg xmlns='http://www.w3.org/2000/svg'/>", MAX_PIXELS).status == "unreadable"


def test_first_frame_of_an_animation_is_taken() -> None:
    first, second = Image.new("RGB", (32, 32), (255, 0, 0)), Image.new("RGB", (32, 32), (0, 0, 255))
    data = encoded(first, "GIF", save_all=True, append_images=[second])
    np.testing.assert_array_equal(pixels(data)[0, 0], (255, 0, 0))


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    grey = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (32, 1))
    found = pixels(encoded(Image.fromarray(grey)))
    np.testing.assert_array_equal(found[0, :, 0], np.round(grey[0] / 257))
    assert found[0, -1, 0] == 255
    assert found[0, 32, 0] == round(float(grey[0, 32]) / 257)


def test_cmyk_becomes_rgb() -> None:
    data = encoded(Image.new("RGB", (32, 32), (200, 40, 90)).convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_allclose(pixels(data)[16, 16], (200, 40, 90), atol=6)


def test_palette_and_grey_become_rgb() -> None:
    grey = picture().convert("L")
    np.testing.assert_array_equal(pixels(encoded(grey))[..., 1], np.asarray(grey))
    palette = picture().quantize(16)
    np.testing.assert_array_equal(pixels(encoded(palette)), np.asarray(palette.convert("RGB")))


def test_transparency_lies_on_neutral_grey() -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    image.paste((0, 255, 0, 255), (0, 0, 16, 32))
    found = pixels(encoded(image))
    np.testing.assert_array_equal(found[5, 5], (0, 255, 0))
    np.testing.assert_array_equal(found[5, 25], (128, 128, 128))  # not the hidden red
    half = pixels(encoded(Image.new("RGBA", (32, 32), (0, 0, 0, 128))))
    np.testing.assert_allclose(half[0, 0], 64, atol=1)


# How each EXIF orientation stores an upright picture: the operation a camera's file undergoes.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(orientation: int) -> None:
    upright = np.asarray(picture())
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))), exif=exif)
    np.testing.assert_array_equal(pixels(data), upright)


def test_damaged_exif_does_not_spoil_the_picture() -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\x01\x12" * 20)
    assert pixels(data).shape == (30, 40, 3)


def test_statuses_of_bad_input() -> None:
    good = encoded(picture(200, 200), "JPEG")
    assert decode(b"", MAX_PIXELS).status == "empty"
    assert decode(b"not an image", MAX_PIXELS).status == "unreadable"
    assert decode(good[: len(good) // 2], MAX_PIXELS).status == "unreadable"
    assert decode(encoded(picture(MIN_SIDE - 1, 50)), MAX_PIXELS).status == "too_small"
    assert decode(encoded(picture(MIN_SIDE, 50)), MAX_PIXELS).status == "ok"
    assert decode(encoded(picture(50, 21)), 50 * 21).status == "ok"
    assert decode(encoded(picture(50, 21)), 50 * 21 - 1).status == "too_large"


@pytest.mark.parametrize("limit", [1_000_000, 50_000_000, 2_000_000_000])
def test_bomb_is_refused_from_its_header(limit: int) -> None:
    assert decode(bomb(), limit).status == "too_large"


def test_damaged_files_never_raise() -> None:
    results = [decode(data, MAX_PIXELS) for data in damaged(400)]
    assert {r.status for r in results} <= set(STATUSES) - {"no_face", "several_faces"}
    assert all((r.image is None) == (r.status != "ok") for r in results)
    assert all(r.image.mode == "RGB" for r in results if r.image)
    assert sum(r.status == "unreadable" for r in results) > 100  # the damage is real


def test_pixel_hash_sees_pixels_and_size_only() -> None:
    image = picture()
    expected = hashlib.sha256(b"40x30:RGB:" + np.asarray(image).tobytes()).hexdigest()
    assert pixel_sha256(image) == expected
    for kind in ("BMP", "TIFF"):
        assert pixel_sha256(decode(encoded(image, kind), MAX_PIXELS).image) == expected
    assert pixel_sha256(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) != expected
    assert pixel_sha256(Image.fromarray(np.asarray(image).reshape(40, 30, 3))) != expected


def test_perceptual_hash_survives_reencoding_and_tells_pictures_apart() -> None:
    image = picture(96, 96)
    value = phash(image)
    assert len(value) == 16
    other = decode(encoded(image.resize((80, 80)), "JPEG", quality=50), MAX_PIXELS).image
    assert (int(value, 16) ^ int(phash(other), 16)).bit_count() <= 6
    assert (int(value, 16) ^ int(phash(picture(96, 96, seed=1)), 16)).bit_count() > 12


def test_written_jpeg_has_no_metadata_and_full_chroma() -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    options = {"exif": exif, "comment": b"secret remark", "icc_profile": b"secret!"}
    source = Image.open(BytesIO(encoded(picture(), "JPEG", **options)))
    for image in (source, decode(encoded(picture(), "JPEG", **options), MAX_PIXELS).image):
        data = encode_jpeg(image, 95)
        assert b"secret" not in data
        written = Image.open(BytesIO(data))
        assert not written.getexif()
        assert written.layer[0][1:3] == written.layer[1][1:3] == (1, 1)  # sampling factors of luma and chroma
        assert data == encode_jpeg(image, 95)
        assert len(encode_jpeg(image, 30)) < len(data)
