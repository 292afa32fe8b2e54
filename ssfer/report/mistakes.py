"""Pictures of wrongly classified test faces. Only called if params.report.gallery is true.

Which faces are wrong comes from metrics/confusion.csv, which stage evaluate writes in the order of the split's test
part; no label is read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from itertools import chain, zip_longest
from pathlib import Path

import pandas as pd
from PIL import Image

from ssfer.core.errors import SsferError
from ssfer.core.files import read_json, sha256_json
from ssfer.core.images import data_uri
from ssfer.formats.manifest import read_manifest
from ssfer.formats.shards import PLACE, ShardReader
from ssfer.report.gallery import FACE_SIDE
from ssfer.report.licensed import licensed
from ssfer.report.results import Results

Wrong = tuple[str, tuple[str, str], float]  # sample id, (true class, predicted class), confidence in the latter


@dataclass(frozen=True)
class Mistake:
    """A wrongly classified test face, the calibrated probability of the wrong class, and the picture, a data URI."""

    true: str
    predicted: str
    confidence: float
    picture: str


def mistakes(results: Results, metrics: Path = Path("metrics"), data: Path = Path("data")) -> list[Mistake]:
    """Return at most params.report.mistakes faces; [] if the data is not here or must not be shown.

    Raises:
        SsferError: confusion.csv is of another test part than the split, or of an older version of ssfer.
    """
    most = results.params.report.mistakes
    if not most or licensed(results.params):
        return []
    pairs = pd.read_csv(metrics / "confusion.csv", dtype=str, keep_default_na=False)
    try:
        ids = list(read_json(data / "splits" / "split.json")["test"])
    except (SsferError, OSError, KeyError, TypeError):
        return []  # a clone with metrics but without data still gets its report
    _check(ids, results)
    if "confidence" not in pairs:
        raise SsferError("metrics/confusion.csv is of an older version without confidences; run dvc repro evaluate")
    wrong = [
        (name, (true, told), float(sure))
        for name, true, told, sure in zip(ids, *(pairs[c] for c in ("actual", "predicted", "confidence")), strict=True)
        if true != told
    ]
    chosen = in_turn(wrong)[:most]
    try:
        pictures = _pictures([name for name, *_ in chosen], results, data)
    except (SsferError, OSError):
        return []
    return [Mistake(*pair, sure, pictures[name]) for name, pair, sure in chosen if name in pictures]


def in_turn(wrong: Sequence[Wrong]) -> list[Wrong]:
    """Return the faces in turn from each pair of classes: the most frequent pair and the surest faces first."""
    pairs = [pair for pair, _ in Counter(pair for _, pair, _ in wrong).most_common()]
    surest = sorted(wrong, key=lambda face: -face[2])
    queues = [[face for face in surest if face[1] == pair] for pair in pairs]
    return [face for face in chain(*zip_longest(*queues)) if face is not None]


def _check(ids: Sequence[str], results: Results) -> None:
    told = results.evaluate.get("test_sha256")
    if len(ids) != results.evaluate["test_images"] or told not in (None, sha256_json(ids)):
        raise SsferError(
            "data/splits/split.json has another test part than metrics/evaluate.json; they are of different runs: "
            "run dvc repro evaluate"
        )


def _pictures(ids: Sequence[str], results: Results, data: Path) -> Mapping[str, str]:
    """Return sample id -> picture of the stored crops."""
    wanted, found = set(ids), {}
    for source in (s for s in results.params.data.sources if s.labeled):
        folder = data / "faces" / source.name
        with closing(ShardReader(folder)) as reader:
            for row in read_manifest(folder).select(["sample_id", *PLACE]).to_pylist():
                if row["sample_id"] in wanted and row["shard"]:
                    found[row["sample_id"]] = _small(reader.read(*(row[key] for key in PLACE)))
    return found


def _small(image: bytes) -> str:
    buffer = BytesIO()
    with Image.open(BytesIO(image)) as face:
        small = face.convert("RGB").resize((FACE_SIDE, FACE_SIDE), Image.Resampling.LANCZOS)
    small.save(buffer, format="JPEG", quality=88)  # a new file without the source's EXIF
    return data_uri(buffer.getvalue())
