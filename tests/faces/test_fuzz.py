"""Two thousand damaged images through the whole of `align`: no crash, no hang, and each has a row and a status.

The work runs in another process with a time limit, so that a decoder that crashes or never returns fails the test.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssfer.faces.detectors.registry import build_detector
from ssfer.formats.manifest import STATUSES, read_manifest
from ssfer.formats.shards import ShardReader
from tests.support.align_runs import PARAMS, align
from tests.support.image_files import bomb, damaged, encoded, picture
from tests.support.launches import Launch
from tests.support.rendered_photos import BrightDetector

EXTENSIONS = ("jpg", "png", "webp", "bmp", "gif", "tif", "JPEG")


def valid_oddities() -> dict[str, bytes]:
    """Files that are unusual and fine: they must all be read."""
    files = {
        "cmyk.jpg": encoded(picture(60, 50).convert("CMYK"), "JPEG"),
        "palette.png": encoded(picture().quantize(8)),
    }
    files["wrong_extension.png"] = encoded(picture(), "JPEG")
    files["grey16.png"] = encoded(Image.fromarray(np.arange(40 * 30, dtype=np.uint16).reshape(30, 40) * 50))
    files["alpha.png"] = encoded(picture().convert("RGBA"))
    files["animated.gif"] = encoded(picture(), "GIF", save_all=True, append_images=[picture(seed=1)])
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"exif{orientation}.jpg"] = encoded(picture(), "JPEG", exif=exif)
    return files


def write_fuzz(folder: Path, count: int) -> dict[str, str]:
    """Write `count` images below folder/people; return what must become of those whose fate is known."""
    (folder / "people" / "p").mkdir(parents=True)
    known = dict.fromkeys(valid_oddities(), "read")
    files = dict(valid_oddities())
    files |= {f"zero{i}.jpg": b"" for i in range(10)} | {f"nil{i}.png": bytes(50 * i + 1) for i in range(20)}
    known |= {f"zero{i}.jpg": "empty" for i in range(10)} | {f"nil{i}.png": "unreadable" for i in range(20)}
    files |= {f"bomb{i}.png": bomb() for i in range(5)}
    known |= {f"bomb{i}.png": "too_large" for i in range(5)}
    bad = damaged(count - len(files))
    files |= {f"damaged{i:04d}.{EXTENSIONS[i % len(EXTENSIONS)]}": data for i, data in enumerate(bad)}
    assert len(files) == count
    for name, data in files.items():
        (folder / "people" / "p" / name).write_bytes(data)
    return known


def align_in_another_process(folder: Path, path: str, detector: str) -> list[dict]:
    build = {"bright": BrightDetector, "mtcnn": partial(build_detector, "mtcnn")}[detector]
    settings = PARAMS.model_copy(update={"shard_size": 250})
    launch = Launch(folder, align, folder, build, 2, path, settings)
    assert launch.wait(300) == [0], launch.errors(0)[-2000:]
    return read_manifest(folder / "out").to_pylist()


@pytest.mark.parametrize(("count", "detector"), [(2000, "bright"), (160, "mtcnn")])
def test_every_damaged_image_has_a_row_and_a_status(tmp_path: Path, count: int, detector: str) -> None:
    known = write_fuzz(tmp_path, count)
    rows = align_in_another_process(tmp_path, "people", detector)
    assert len(rows) == len({r["path"] for r in rows}) == count
    assert {r["status"] for r in rows} <= set(STATUSES)
    fates = {r["path"].removeprefix("p/"): r for r in rows}
    for name, fate in known.items():
        status = fates[name]["status"]
        assert status in ("ok", "no_face", "several_faces") if fate == "read" else status == fate, (name, status)
    counts = Counter(r["status"] for r in rows)
    assert counts["unreadable"] > count / 5
    assert count - counts["unreadable"] > count / 4, "much damage is harmless, and those images are used"
    reader = ShardReader(tmp_path / "out")
    for row in rows:
        assert (row["shard"] is None) == (row["width"] is None), "what can be read is stored, nothing else"
        if row["shard"]:
            with Image.open(BytesIO(reader.read(row["shard"], row["offset"], row["size"]))) as crop:
                assert (crop.size, crop.mode) == ((64, 64), "RGB")
        assert len(row["sha256"]) == 64
        assert row["face_found"] == (row["box"] is not None) == (row["face_choice"] is not None)


def test_damaged_members_of_a_zip_are_rows_like_any_other(tmp_path: Path) -> None:
    """Bytes overwritten inside a zip: checksums fail, headers lie, and still each member gets a status."""
    rng = np.random.default_rng(3)
    path = tmp_path / "people.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(200):
            archive.writestr(f"p{i % 9}/{i:03d}.png", encoded(picture(60, 50, i)))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        spoiled = [m for m in archive.infolist() if int(m.filename[3:6]) % 3 == 0]
    for member in spoiled:  # behind the member's own header, whose name is checked when it is read
        start = member.header_offset + 30 + len(member.filename)
        for position in rng.integers(start, start + member.compress_size, 6):
            data[position] ^= 0xFF
    path.write_bytes(data)
    rows = align_in_another_process(tmp_path, "people.zip", "bright")
    assert len(rows) == 200
    assert {r["path"] for r in rows if r["status"] == "unreadable"} == {m.filename for m in spoiled}
