"""The embedded data set: rendered people, in the two forms in which real data comes.

`expressions/` is a labeled expression data set (train and test); `people/` is what face recognition offers: many
people, no expression labels. No identity occurs in two of train, test and people, except for the copies that TROUBLES
plants on purpose. Picture i of a part depends on (seed, part, i) only: not on how many others there are, nor on the
number of workers. Both folders hold raw photos: nothing is detected yet, and what is known about a picture is in the
manifest's `truth` column as JSON.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from ssfer.labels import HAPPINESS, NEUTRAL
from ssfer.manifest import MANIFEST_NAME, write_manifest
from ssfer.params import GenerateParams
from ssfer.runtime import replace_dir, temp_dir_for
from ssfer.shards import ShardWriter
from ssfer.sources.appearance import Array, Person, display, draw_background, draw_person, draw_shot
from ssfer.sources.expressions import RENDERED, draw_actions
from ssfer.sources.render import Renderer

TRAIN, TEST, PEOPLE = "train", "test", "people"
# First digit of an identity's number and of its random stream; COPIES are strangers' copies of others' pictures.
_CODES = {TRAIN: 1, TEST: 2, PEOPLE: 3}
_COPIES = 4
TWO_HEADS, NO_HEAD, TRUNCATED = "two_heads", "no_head", "truncated"
EXACT, NEAR = "exact_duplicate_of:", "near_duplicate_of:"
# How many images of each kind of trouble are added to a part; the test part stays clean.
TROUBLES = {TRAIN: {TWO_HEADS: 4, NO_HEAD: 4, TRUNCATED: 3}, PEOPLE: {TWO_HEADS: 4, NO_HEAD: 4, TRUNCATED: 3}}
# How many images of `people` copy one of the given part.
COPIES = ((EXACT, TEST, 4), (NEAR, TEST, 6), (EXACT, TRAIN, 4))
_KEPT_BYTES = (0.6, 0.3, 0.0)  # of the truncated files, in turn
_SHARD_SIZE = 1000
_QUALITY = 95

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]


@dataclass(frozen=True)
class Picture:
    """One image to be made: number `index` of `part`, all else follows from it and the seed."""

    part: str
    index: int
    identity: int
    expression: str | None  # None: drawn
    trouble: str | None = None

    @property
    def identity_name(self) -> str:
        return f"id{_CODES[self.part]}{self.identity:05d}"

    @property
    def path(self) -> str:
        name = f"{self.identity_name}_{self.index:06d}.jpg"
        return f"{self.part}/{self.expression}/{name}" if self.part != PEOPLE else f"{self.identity_name}/{name}"

    @property
    def source(self) -> str:
        return "people" if self.part == PEOPLE else "expressions"


def generate(
    params: GenerateParams, out: Path, progress: Track | None = None, workers: int | None = None
) -> dict[str, Any]:
    """Render the data set into `out`/expressions and `out`/people and return its counts.

    Either `out` is complete afterwards or it is what it was before.

    Args:
        progress: wraps the loop over images, as `ssfer.progress.track`.
        workers: processes; default one per CPU. The bytes written do not depend on it.

    Returns:
        Counts of images per part, class and trouble, of identities, and the seconds taken.
    """
    start = time.monotonic()
    pictures = [*plan(TRAIN, params), *plan(TEST, params), *plan(PEOPLE, params)]
    made: Iterable[tuple[dict[str, Any], bytes]] = _render_all(params, pictures, workers or _cpus())
    if progress is not None:
        made = progress(made, len(pictures), "render faces")
    folder = temp_dir_for(out)
    with _Writer(folder / "expressions") as expressions, _Writer(folder / "people") as people:
        originals: list[tuple[dict[str, Any], bytes]] = []
        for row, data in made:
            (expressions if row["source"] == "expressions" else people).add(row, data)
            if params.troubles and row["source"] == "expressions" and json.loads(row["truth"])["trouble"] is None:
                if sum(r["usage"] == row["usage"] for r, _ in originals) < max(count for _, _, count in COPIES) * 2:
                    originals.append((row, data))
        for row, data in _copies(originals):
            people.add(row, data)
    replace_dir(folder, out)
    rows = expressions.rows + people.rows
    return {**_counts(rows), "seconds": round(time.monotonic() - start, 1)}
