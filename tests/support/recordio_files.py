"""RecordIO files written by hand."""

from __future__ import annotations

import struct
from pathlib import Path

from ssfer.datasets.shared.recordio import MAGIC

MAGIC_BYTES = struct.pack("<I", MAGIC)


def frame(part: int, data: bytes) -> bytes:
    return struct.pack("<II", MAGIC, part << 29 | len(data)) + data + bytes(-len(data) % 4)


def record(content: bytes) -> bytes:
    """Frame a record's bytes as dmlc's RecordIOWriter does: cut at every aligned magic number, which is left out."""
    parts, begin = [], 0
    for at in range(0, len(content) // 4 * 4, 4):
        if content[at : at + 4] == MAGIC_BYTES:
            parts.append(content[begin:at])
            begin = at + 4
    parts.append(content[begin:])
    kinds = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(frame(kind, part) for kind, part in zip(kinds, parts, strict=True))


def content(label: float | list[float], data: bytes, key: int = 0) -> bytes:
    """Return a record's bytes as mxnet.recordio.pack makes them: several labels go behind the header."""
    if isinstance(label, list):
        return struct.pack("<IfQQ", len(label), 0.0, key, 0) + struct.pack(f"<{len(label)}f", *label) + data
    return struct.pack("<IfQQ", 0, label, key, 0) + data


def write_pair(folder: Path, records: list[tuple[int, bytes]], name: str = "train") -> Path:
    """Write framed records in this order, and the index."""
    folder.mkdir(parents=True, exist_ok=True)
    data, lines = b"", []
    for key, framed in records:
        lines.append(f"{key}\t{len(data)}\n")
        data += framed
    (folder / f"{name}.rec").write_bytes(data)
    (folder / f"{name}.idx").write_text("".join(lines))
    return folder / f"{name}.rec"


def write_insightface(folder: Path, photos: dict[int, tuple[float | list[float], bytes]]) -> Path:
    """Write a set in insightface's order: photos, one record per person, and record 0 last in the file."""
    people = sorted({label[0] if isinstance(label, list) else label for label, _ in photos.values()})
    end = max(photos) + 1
    records = [(key, record(content(label, data, key))) for key, (label, data) in photos.items()]
    records += [(end + i, record(content([1.0, float(end)], b"", end + i))) for i in range(len(people))]
    records.append((0, record(content([float(end), float(end + len(people))], b""))))
    return write_pair(folder, records)
