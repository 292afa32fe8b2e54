"""FERPlus and FER2013 in the exact form of their files, with a handful of images."""

from __future__ import annotations

import numpy as np

from ssfer.core.labels import FERPLUS_VOTES
from ssfer.datasets.base import RawRecord
from tests.support.source_files import png

BOX = "(0, 0, 48, 48)"

# name, votes (neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF) -> label
TRAIN_ROWS = [
    ("fer0000000.png", (4, 0, 0, 1, 3, 2, 0, 0, 0, 0), "neutral"),
    ("fer0000001.png", (3, 0, 0, 0, 0, 0, 0, 3, 3, 1), "neutral"),  # three-way tie: the first column
    ("fer0000002.png", (0, 0, 0, 2, 0, 0, 3, 2, 2, 1), "fear"),  # no majority, still the largest
    ("fer0000003.png", (1, 1, 0, 1, 0, 0, 0, 0, 7, 0), None),  # unknown
    ("fer0000004.png", (0, 4, 0, 0, 0, 0, 0, 0, 4, 2), "happiness"),  # ties with unknown: earlier column wins
    ("fer0000005.png", (0, 0, 0, 0, 0, 0, 0, 0, 0, 10), None),  # not a face
    ("", (0, 0, 0, 0, 0, 0, 0, 9, 0, 0), None),  # no name
    ("fer0000007.png", (0, 0, 0, 0, 0, 1, 0, 8, 0, 0), "contempt"),  # nine votes: counted all the same
]
VALID_ROWS = [("fer0028638.png", (0, 0, 0, 0, 0, 6, 0, 0, 3, 0), "disgust")]
TEST_ROWS = [("fer0032220.png", (0, 0, 7, 0, 0, 0, 2, 0, 1, 0), "surprise")]
ROWS = {"FER2013Train": TRAIN_ROWS, "FER2013Valid": VALID_ROWS, "FER2013Test": TEST_ROWS}


def ferplus_files(part: str, rows: list, prefix: bool = True) -> dict[str, bytes]:
    label = "".join(f'{name},"{BOX}",{",".join(map(str, v))}\n' for name, v, _ in rows).encode()
    files = {"label.csv": label} | {name: png(i) for i, (name, _, _) in enumerate(rows) if name}
    return {f"{part}/{name}" if prefix else name: data for name, data in files.items()}


def kept(*parts: str) -> list[RawRecord]:
    usage = {"FER2013Train": "train"}
    return [
        RawRecord(f"{part}/{name}", label=label, usage=usage.get(part, "test"), votes=v)
        for part in parts
        for name, v, label in ROWS[part]
        if label
    ]


def fer2013_rows() -> list[tuple[int, str, bytes]]:
    """Original label, usage and pixels of every image, in the order of fer2013new.csv."""
    usages = {"FER2013Train": "Training", "FER2013Valid": "PublicTest", "FER2013Test": "PrivateTest"}
    rows = [usages[part] for part, rows in ROWS.items() for _ in rows]
    pictures = [np.random.default_rng(i).integers(0, 256, 2304, dtype=np.uint8).tobytes() for i in range(len(rows))]
    return [(i % 7, usage, pixels) for i, (usage, pixels) in enumerate(zip(rows, pictures, strict=True))]


def pixel_csv(name: str = "fer2013.csv") -> bytes:
    lines = ["emotion,pixels,Usage" if name == "fer2013.csv" else "emotion, Usage, pixels"]
    for label, usage, pixels in fer2013_rows():
        text = " ".join(map(str, pixels))
        lines.append(f"{label},{text},{usage}" if name == "fer2013.csv" else f"{label},{usage},{text}")
    return ("\n".join(lines) + "\n").encode()


def new_labels() -> bytes:
    rows = [f"Usage,Image name,{','.join(FERPLUS_VOTES)}"]
    flat = [(name, v) for part in ROWS.values() for name, v, _ in part]
    rows += [
        f"{usage},{name},{','.join(map(str, v))}" for (_, usage, _), (name, v) in zip(fer2013_rows(), flat, strict=True)
    ]
    return ("\r\n".join(rows) + "\r\n").encode()
