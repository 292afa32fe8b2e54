"""The embedded data set: rendered people, in two folders like those of real data sets.

`expressions/` is a labeled expression data set (train and test); `people/` is like a data set for face recognition:
many people, no expression labels. No identity occurs in two of train, test and people, except for the planted copies.
A picture depends only on the seed and its own number, not on the number of pictures or workers. Both folders hold raw
photos, in which no face has been detected yet. The ground truth is JSON in the manifest's `truth` column: box,
landmarks, yaw, pitch, roll, expression, intensity, identity, heads, trouble.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ssfer.core.files import new_dir
from ssfer.core.process import available_cpus
from ssfer.core.process_pool import map_in_processes
from ssfer.core.progress import track
from ssfer.formats.manifest import MANIFEST_NAME, write_manifest
from ssfer.formats.shards import ShardWriter, crc32
from ssfer.rendered.expressions import RENDERED
from ssfer.rendered.pictures import Picture, make_image
from ssfer.rendered.settings import GenerateSettings

# Number of difficult images of each kind added to train and to people; the test part has none.
TROUBLES = {"two_heads": 4, "no_head": 4, "truncated": 3}
# How many images of `people` copy images of another part: (kind, part, first index, count).
COPIES = (("exact", "test", 0, 4), ("near", "test", 4, 6), ("exact", "train", 0, 4))
SHARD_SIZE = 1000
_CHUNK = 28  # pictures per task: whole identities, so that each person is drawn once
IN_PROCESS = 64  # fewer images than this are rendered in this process


def generate(params: GenerateSettings, out: Path, workers: int = 0) -> dict[str, Any]:
    """Render the data set into `out`/expressions and `out`/people; `out` is replaced as a whole, at the end.

    Args:
        params: section `generate` of params.yaml.
        out: the folder.
        workers: processes; 0 means one per CPU. The bytes written do not depend on it.

    Returns:
        Counts of images per part, class and trouble, of identities and of bytes.
    """
    pictures = plan(params)
    made = _render(params, pictures, workers or available_cpus())
    with (
        new_dir(out) as folder,
        _Writer(folder / "expressions") as expressions,
        _Writer(folder / "people") as people,
    ):
        for row, data in track(made, len(pictures), "render faces"):
            (people if row["source"] == "people" else expressions).add(row, data)
    return _counts(expressions.rows + people.rows)


def plan(params: GenerateSettings) -> list[Picture]:
    """Return all pictures of the data set in the order in which they are written.

    In train and test each identity shows all seven expressions once, so classes differ by at most one image.
    """
    classes = len(RENDERED)
    labeled = {part: [_labeled(part, i) for i in range(getattr(params, part))] for part in ("train", "test")}
    people = [Picture("people", i, i % params.people_identities) for i in range(params.people)]
    if params.troubles:
        for kind, count in TROUBLES.items():
            labeled["train"] += [Picture("train", i, i, RENDERED[i % classes], kind) for i in range(count)]
            people += [Picture("people", i, i, kind=kind) for i in range(count)]
        copies = [
            (labeled[part][i % getattr(params, part)], kind == "exact")
            for kind, part, first, count in COPIES
            for i in range(first, first + count)
            if getattr(params, part)
        ]
        people += [
            Picture("people", i, i, kind="copy", original=original, exact=exact)
            for i, (original, exact) in enumerate(copies)
        ]
    return [*labeled["train"], *labeled["test"], *people]


def _labeled(part: str, index: int) -> Picture:
    return Picture(part, index, index // len(RENDERED), RENDERED[index % len(RENDERED)])


def _render(
    params: GenerateSettings, pictures: Sequence[Picture], workers: int
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield manifest row and JPEG bytes of each picture, in order."""
    chunks = [pictures[i : i + _CHUNK] for i in range(0, len(pictures), _CHUNK)]
    if len(pictures) < IN_PROCESS:
        workers = 1
    if workers > 1:
        make_image(params.seed, params.size, pictures[0])  # compiles Warp's kernel once, before all processes need it
    advice = "free some memory and run again"
    yield from chain.from_iterable(map_in_processes(_make_images, params, chunks, workers, advice))


def _make_images(params: GenerateSettings, pictures: Sequence[Picture]) -> list[tuple[dict[str, Any], bytes]]:
    return [make_image(params.seed, params.size, picture) for picture in pictures]


class _Writer:
    """Writes one source's shards and, at a clean end, its manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, list[dict[str, Any]]()
        self._shard: ShardWriter | None = None

    def add(self, row: dict[str, Any], data: bytes) -> None:
        if len(self.rows) % SHARD_SIZE == 0:
            self._close()
            self._shard = ShardWriter(self.folder / f"shard-{len(self.rows) // SHARD_SIZE:05d}.tar")
        assert self._shard is not None
        shard, offset, size = self._shard.add(row["path"], data)
        self.rows.append({**row, "shard": shard, "offset": offset, "size": size, "crc32": crc32(data)})

    def _close(self, *error: Any) -> None:
        if self._shard is not None:
            self._shard.__exit__(*(error or (None, None, None)))

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error: Any) -> None:
        self._close(*error)
        if error[0] is None:
            write_manifest(self.rows, self.folder / MANIFEST_NAME)


def _counts(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the counts of what was written."""
    parts = {"train": "train", "test": "test", "none": "people"}
    troubles = [(json.loads(row["truth"])["trouble"] or "").split(":")[0] for row in rows]
    return {
        "images": Counter(parts[row["usage"]] for row in rows),
        "classes": {u: Counter(row["label"] for row in rows if row["usage"] == u) for u in ("train", "test")},
        "troubles": Counter(trouble for trouble in troubles if trouble),
        "identities": {p: len({r["identity"] for r in rows if r["usage"] == u}) for u, p in parts.items()},
        "status": Counter(row["status"] for row in rows),
        "bytes": sum(row["size"] for row in rows),
    }
