"""The one table that describes face images, stored as Parquet beside the shards.

One row per input image, also for images that could not be read: `status` says what happened and nothing is dropped
silently. Coordinates are pixels, x to the right, y down, corner order (x1, y1, x2, y2); landmarks are five points
(x, y) in the order left eye, right eye, nose, left mouth corner, right mouth corner, left meaning image-left.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ssfer.core.errors import SsferError, shortened
from ssfer.core.files import atomic_file
from ssfer.formats.shards import plain_name

USAGES = ("train", "valid", "test", "none")
EVALUATED = ("valid", "test")
# Outcome of reading an input image. Only rows with a stored image (`shard` not null) can be trained on.
STATUSES = ("ok", "no_face", "several_faces", "missing", "unreadable", "too_large", "too_small", "empty")
# Why a face was chosen: it was the only one, by align.several_faces, by the data set's own box ("annotated"), or
# because all faces were taken (align.all_faces).
CHOICES = ("only", "highest_score", "largest", "central", "annotated", "all")
# Why the landmarks used for alignment are doubtful (`ssfer.faces.landmark_check`).
FLAGS = ("left_right", "eyes_below_mouth", "outside_box", "scale", "detectors_disagree")

SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),  # unique: "<source>/<path>"
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),  # relative to the source, POSIX separators
        pa.field("label", pa.string()),  # canonical class NAME (ssfer.core.labels) or null
        pa.field("usage", pa.string(), nullable=False),  # one of USAGES
        pa.field("identity", pa.string()),
        pa.field("votes", pa.list_(pa.int16())),  # FERPlus: 10 votes in native column order
        pa.field("sha256", pa.string()),  # of the input file's bytes
        pa.field("pixel_sha256", pa.string()),  # of the decoded upright RGB pixels, size included
        pa.field("phash", pa.string()),  # 64-bit perceptual hash of the decoded image, 16 hex digits
        pa.field("width", pa.int32()),  # of the decoded upright image
        pa.field("height", pa.int32()),
        pa.field("status", pa.string(), nullable=False),  # one of STATUSES
        pa.field("face_found", pa.bool_(), nullable=False),
        pa.field("num_faces", pa.int16(), nullable=False),
        pa.field("face_choice", pa.string()),  # why the chosen face is the one, one of CHOICES; null without a face
        pa.field("box", pa.list_(pa.float32())),  # chosen face, in the upright input image
        pa.field("landmarks", pa.list_(pa.float32())),  # same frame, x0, y0, ..., x4, y4
        pa.field("landmark_flag", pa.string()),  # one of FLAGS; null: nothing against them, or not aligned by them
        pa.field("score", pa.float32()),  # detector confidence of the chosen face
        pa.field("matrix", pa.list_(pa.float64())),  # 2x3 row-major: input pixels -> crop pixels
        pa.field("crop_size", pa.int32()),  # side of the stored square crop
        pa.field("crop_box", pa.list_(pa.float32())),  # face box in the stored crop (FaceMix reads this one)
        pa.field("crop_box_fallback", pa.bool_()),  # true: no detection on the crop, constant box used
        pa.field("crop_recipe", pa.string()),  # e.g. "mtcnn-similarity5-v2-224"
        pa.field("shard", pa.string()),  # file name of the tar beside the manifest
        pa.field("offset", pa.int64()),  # of the member's data inside the tar
        pa.field("size", pa.int64()),
        pa.field("crc32", pa.int64()),  # of those bytes (ssfer.formats.shards); null in manifests of older versions
        pa.field("truth", pa.string()),  # JSON of ground truth where it exists (rendered faces)
    ]
)

ADDED = ("landmark_flag", "crc32")  # columns that older manifests lack: they are read with nulls there
MAX_SIDE = 2**13  # of a crop
MANIFEST_NAME = "manifest.parquet"
# Lists of known length. Not fixed-size lists: Parquet readers of those fail on null entries (pyarrow 25).
LENGTHS = {"box": 4, "landmarks": 10, "matrix": 6, "crop_box": 4}


def write_manifest(rows: Iterable[Mapping[str, Any]] | pa.Table, path: Path) -> None:
    """Validate and write rows to `path` (a .parquet file) atomically.

    Raises:
        SsferError: duplicate sample ids, an unknown column, usage or status, a list of the wrong length.
    """
    if isinstance(rows, pa.Table):
        table = rows
        _check_columns(table.schema, "the table to be written")
    else:
        rows = [dict(r) for r in rows]
        unknown = sorted({key for row in rows for key in row} - set(SCHEMA.names))
        if unknown:  # pyarrow would drop them silently
            raise SsferError(f"manifest rows have unknown columns {unknown} (known: {SCHEMA.names})")
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
    validate(table)
    with atomic_file(path) as file:
        # One row group size and one codec: the same rows give the same bytes.
        pq.write_table(
            table, file, compression="zstd", row_group_size=65536, store_schema=True, write_page_checksum=True
        )


def read_manifest(path: Path) -> pa.Table:
    """Read a manifest and check it as `write_manifest` does. Columns that older ones lack (`ADDED`) are null.

    Raises:
        SsferError: the file is missing, damaged, not Parquet or has another schema; see `validate`.
    """
    if path.is_dir():
        path = path / MANIFEST_NAME
    if not path.exists():
        raise SsferError(f"no manifest at {path}; run the stage that writes it (dvc repro)")
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:  # damaged bytes raise all of these
        raise SsferError(f"{path} is not a readable Parquet file ({error}); restore it with dvc checkout") from error
    before = dict(pairwise(reversed(SCHEMA.names)))
    for name in ADDED:
        if name not in table.schema.names and before[name] in table.schema.names:
            field = SCHEMA.field(name)
            place = table.schema.get_field_index(before[name]) + 1
            table = table.add_column(place, field, pa.nulls(table.num_rows, field.type))
    _check_columns(table.schema, str(path))
    try:
        validate(table)
    except SsferError as error:
        raise SsferError(f"{path} cannot be used: {error}; restore it with dvc checkout, or get it again") from error
    return table.cast(SCHEMA)  # files of others may differ in nullability, which `concat_tables` refuses


def _check_columns(schema: pa.Schema, what: str) -> None:
    found, known = ({f.name: f.type for f in s} for s in (schema, SCHEMA))
    differing = sorted(name for name in found | known if found.get(name) != known.get(name))
    if differing or schema.names != SCHEMA.names:
        differing = differing or ["the order of the columns"]
        raise SsferError(f"{what} has another schema than this version writes (differs in: {', '.join(differing)})")


def validate(table: pa.Table) -> None:
    """Raise SsferError unless ids are unique, enumerations hold known values and places lie inside of shards."""
    nulls = [field.name for field in SCHEMA if not field.nullable and table.column(field.name).null_count]
    if nulls:
        raise SsferError(f"manifest column '{nulls[0]}' has rows without a value")
    stored = table.filter(pc.is_valid(table.column("shard")))
    for name in pc.unique(stored.column("shard")).to_pylist():
        if not plain_name(name):
            raise SsferError(
                f"manifest column 'shard' has '{shortened(name)}', expected plain names of files beside the manifest"
            )
    for name in ("offset", "size"):
        column = stored.column(name)
        if column.null_count or (pc.min(column).as_py() or 0) < 0:
            raise SsferError(f"manifest column '{name}' needs a number from 0 on in every row with a shard")
    sides = pc.min_max(stored.column("crop_size")).as_py()
    if sides["min"] is not None and not 1 <= sides["min"] <= sides["max"] <= MAX_SIDE:
        raise SsferError(f"manifest column 'crop_size' needs sides of 1 to {MAX_SIDE} pixels, found {sides}")
    ids = table.column("sample_id")
    if pc.count_distinct(ids, mode="all").as_py() != table.num_rows:
        counts = pc.value_counts(ids)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))[0].as_py()
        raise SsferError(f"sample id '{twice}' occurs more than once; ids must be unique in a manifest")
    for column, length in LENGTHS.items():
        found = set(pc.unique(pc.list_value_length(table.column(column))).to_pylist()) - {None, length}
        if found:
            raise SsferError(
                f"manifest column '{column}' needs lists of length {length}, found lengths {sorted(found)}"
            )
    for column, known in (
        ("usage", USAGES),
        ("status", STATUSES),
        ("face_choice", (*CHOICES, None)),
        ("landmark_flag", (*FLAGS, None)),
    ):
        wrong = set(pc.unique(table.column(column)).to_pylist()) - set(known)
        if wrong:
            raise SsferError(f"manifest column '{column}' holds {sorted(map(str, wrong))}, known are {list(known)}")


def doubtful(table: pa.Table) -> np.ndarray:
    """Return which rows have a landmark flag, bool (n,)."""
    return np.asarray(pc.is_valid(table["landmark_flag"]))


def shows_no_face(table: pa.Table) -> pa.ChunkedArray:
    """Return (n,) bool: stored crops in which no face was found and that were not cut by the data set's box."""
    cut = pc.starts_with(pc.fill_null(table.column("crop_recipe"), ""), "box-")
    return pc.and_(pc.and_(pc.is_valid(table.column("shard")), pc.invert(table.column("face_found"))), pc.invert(cut))


def fingerprint(table: pa.Table) -> str:
    """Return a sha256 over what decides training: ids, labels, usages, pixel hashes and crop recipes, in row order."""
    digest = hashlib.sha256()
    columns = table.select(["sample_id", "label", "usage", "pixel_sha256", "crop_recipe"])
    for batch in columns.to_batches(max_chunksize=65536):  # a million rows of Python strings would not be small
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update(json.dumps(row, separators=(",", ":")).encode())
    return digest.hexdigest()
