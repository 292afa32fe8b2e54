"""Imitations of the data sets of profile corpus-1.2m in their published layouts, a handful of pictures each.

Test images of the benchmarks are planted in other sources, as the same file and re-encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests.support.face_sets import copies
from tests.support.image_files import encoded, picture
from tests.support.recordio_files import write_insightface
from tests.support.source_files import write_files, write_zip

RAFDB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # RAF-DB's numbers, from 1
AFFECTNET_HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
)
# What enters the corpus where nothing is planted: training images, and the photos of people after the caps.
KEPT = {"ferplus": 24, "rafdb": 21, "affectnet": 24, "affectnet-automatic": 9, "casia-webface": 8, "celeba": 7}
KEPT |= {"vggface2": 20}
TESTED = {"ferplus": 16, "rafdb": 14, "affectnet": 16}
PLANTED = 6


def jpeg(seed: int, size: int = 100) -> bytes:
    return encoded(picture(size, size, seed), "JPEG", quality=92)


def recoded(data: bytes) -> bytes:
    """Return the same picture as another file."""
    return encoded(copies(Image.open(BytesIO(data)).convert("RGB"))[0], "JPEG", quality=85)


def grey(seed: int) -> bytes:
    return encoded(picture(48, 48, seed).convert("L"))


def write_six_sources(root: Path) -> None:
    """Fill `root` with ferplus, rafdb, affectnet, affectnet-automatic, casia-webface, celeba and vggface2."""
    tests = [*_ferplus(root / "ferplus"), *_rafdb(root / "rafdb"), *_affectnet(root)]
    _people(root, [tests[0], recoded(tests[1]), tests[2], recoded(tests[3]), tests[4], recoded(tests[5])])


def _ferplus(folder: Path) -> Sequence[bytes]:
    found: list[bytes] = []
    for part, start, per_class in (("FER2013Train", 0, 3), ("FER2013Valid", 100, 1), ("FER2013Test", 200, 1)):
        photos = {f"fer{start + i:07d}.png": grey(1000 + start + i) for i in range(8 * per_class)}
        votes = ["10" if k == i % 8 else "0" for i in range(len(photos)) for k in range(10)]
        rows = [f'{name},"(0, 0, 48, 48)",{",".join(votes[10 * i : 10 * i + 10])}' for i, name in enumerate(photos)]
        write_files(folder / part, {"label.csv": "\n".join(rows).encode() + b"\n", **photos})
        found += photos.values() if part != "FER2013Train" else []
    return found[:2]


def _rafdb(folder: Path) -> Sequence[bytes]:
    train = {f"train_{i + 1:05d}": 1 + i % len(RAFDB) for i in range(21)}
    test = {f"test_{i + 1:04d}": 1 + i % len(RAFDB) for i in range(14)}
    photos = {name: jpeg(2000 + i) for i, name in enumerate({**train, **test})}
    labels = "".join(f"{name}.jpg {number}\n" for name, number in {**train, **test}.items())
    write_files(
        folder / "basic",
        {
            "EmoLabel/list_patition_label.txt": labels.encode(),
            **{f"Image/aligned/{name}_aligned.jpg": data for name, data in photos.items()},
        },
    )
    return [photos["test_0001"], photos["test_0002"]]


def _affectnet(root: Path) -> Sequence[bytes]:
    def rows(names: Sequence[str]) -> bytes:
        lines = [f"{name},5,5,90,90,1;2,{i % 8},0,0" for i, name in enumerate(names)]
        return "\n".join([AFFECTNET_HEADER, *lines]).encode()

    train, valid = [f"1/t{i:02d}.jpg" for i in range(24)], [f"2/v{i:02d}.jpg" for i in range(16)]
    photos = {name: jpeg(3000 + i) for i, name in enumerate([*train, *valid])}
    manual = {f"Manually_Annotated_Images/{name}": data for name, data in photos.items()}
    write_files(root / "affectnet", {"training.csv": rows(train), "validation.csv": rows(valid), **manual})
    names = [f"{1 + i % 2}/a{i:02d}.jpg" for i in range(9)]
    automatic = {f"Automatically_Annotated_Images/{name}": jpeg(4000 + i) for i, name in enumerate(names)}
    write_zip(root / "affectnet-automatic", {"automatically_annotated.csv": rows(names), **automatic})
    return [photos[valid[0]], photos[valid[1]]]


def _people(root: Path, planted: Sequence[bytes]) -> None:
    faces = {i + 1: (float(i % 2), jpeg(5000 + i, 112)) for i in range(8)}
    faces |= {9: (0.0, planted[2]), 10: (1.0, planted[3])}
    write_insightface(root / "casia-webface/faces_webface_112x112", faces)
    photos = [*(jpeg(6000 + i) for i in range(7)), planted[0], planted[5]]
    write_files(root / "celeba/img_align_celeba", {f"{i + 1:06d}.jpg": data for i, data in enumerate(photos)})
    many = {f"train/n{k:06d}/{i:04d}_01.jpg": jpeg(7000 + 20 * k + i) for k in (1, 2) for i in range(14)}
    few = {"train/n000003/0001_01.jpg": planted[1], "train/n000003/0002_01.jpg": planted[4]}
    write_files(root / "vggface2", {**many, **few})
