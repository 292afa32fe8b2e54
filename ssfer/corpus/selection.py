"""The unlabeled corpus: training faces of all sources, without copies and without evaluation images.

Labels are ignored by pretraining but kept in the manifest. Reasons to drop a row are checked in a fixed order, so each
dropped row is counted once. It is written for over a million rows: whole columns at a time, and at most one shard's
rows as Python objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ssfer.copies.find import matches, repeated
from ssfer.core import files
from ssfer.core.errors import SsferError
from ssfer.core.progress import track
from ssfer.core.workers import HERE, Workers
from ssfer.corpus.settings import CorpusSettings
from ssfer.datasets.base import SourceSettings
from ssfer.formats.manifest import EVALUATED, MANIFEST_NAME, doubtful, read_manifest, write_manifest
from ssfer.formats.shards import PLACE, ShardReader, ShardWriter, crc32

# Columns that the search for copies reads.
_COPY_COLUMNS = [
    "source",
    "sha256",
    "pixel_sha256",
    "phash",
    "matrix",
    "crop_size",
    "width",
    "height",
    "landmarks",
    "crop_recipe",
]


def check_feeding(sources: Sequence[SourceSettings], absent: Sequence[str] = ()) -> None:
    """Raise SsferError if no source feeds the corpus; `absent` has the names of missing optional sources."""
    if not any(source.corpus for source in sources):
        raise SsferError(
            "no source feeds the corpus, pretraining needs at least one; set 'corpus: true' of one in params.yaml"
            + (f", or add what is absent ({', '.join(absent)}) and run: dvc repro align" if absent else "")
        )


def build_corpus(
    sources: Sequence[SourceSettings],
    params: CorpusSettings,
    faces: Path,
    out: Path,
    shard_size: int,
    workers: Workers = HERE,
) -> tuple[dict[str, Any], pa.Table]:
    """Write the corpus to `out` (manifest in shuffled order, shards in the same order).

    Args:
        sources: all sources; those with `corpus: true` feed it, the evaluation images of all of them are kept out.
            Optional ones may be absent from `faces`.
        params: section `corpus` of params.yaml.
        faces: the folder data/faces, one folder per source.
        out: the folder data/corpus, replaced as a whole.
        shard_size: images per shard.
        workers: what looks for copies.

    Returns:
        The counts, whose "absent" has the names of missing optional sources; and one row per considered face: source,
        sample_id, shard, offset, size, crc32, `reason` (why it was left out, "" for those kept) and `copy_of` (the
        sample_id of the image that it copies).

    Raises:
        SsferError: a source was not aligned, none feeds the corpus, or nothing is left.
    """
    absent = [s.name for s in sources if s.optional and not s.labeled and not (faces / s.name).exists()]
    sources = [source for source in sources if source.name not in absent]
    tables = {source.name: read_manifest(faces / source.name) for source in sources}
    feeding = [tables[source.name] for source in sources if source.corpus]
    check_feeding(sources, absent)
    considered = pa.concat_tables(feeding)
    evaluated = pa.concat_tables([t.filter(_is_evaluated(t)) for t in tables.values()])
    del tables, feeding
    reasons, copy_of = select(considered, evaluated, params, faces, workers)
    order = np.random.default_rng(params.seed).permutation(np.flatnonzero(reasons == ""))
    order = _capped(order, considered, sources, params.max_images, reasons)
    if not len(order):
        raise SsferError(
            f"none of the {considered.num_rows} faces qualifies for the corpus ({_tally(reasons)}); lower "
            "corpus.min_score or corpus.min_side, or set corpus.keep_undetected"
        )
    with files.new_dir(out) as folder:
        write_manifest(_rewrite(considered.take(pa.array(order)), faces, folder, shard_size), folder / MANIFEST_NAME)
    fate = considered.select(["source", "sample_id", *PLACE])
    for name, values in (("reason", reasons), ("copy_of", copy_of)):
        fate = fate.append_column(name, pa.array(values, pa.string()))
    return {**_counts(fate), **({"absent": absent} if absent else {})}, fate


def select(
    considered: pa.Table,
    evaluated: pa.Table,
    params: CorpusSettings,
    faces: Path,
    workers: Workers = HERE,
) -> tuple[np.ndarray, np.ndarray]:
    """Return why each considered row is left out ("": kept), and the id of the image it copies or None; (n,) each.

    Args:
        considered: manifest rows of the sources that feed the corpus.
        evaluated: manifest rows of all evaluation images.
        params: section `corpus` of params.yaml.
        faces: the folder data/faces.
        workers: what looks for copies.
    """
    reasons = np.full(considered.num_rows, "", dtype=object)

    def drop(mask: np.ndarray, reason: str) -> None:
        reasons[mask & (reasons == "")] = reason

    found = considered.column("face_found").to_numpy(zero_copy_only=False).astype(bool)
    drop(_is_evaluated(considered).to_numpy(zero_copy_only=False), "evaluated_on")
    drop(pc.is_null(considered.column("shard")).to_numpy(zero_copy_only=False), "not_stored")
    if not params.keep_undetected:
        drop(~found, "no_face")
    drop(found & (considered.column("score").to_numpy(zero_copy_only=False) < params.min_score), "low_score")
    drop(found & (_short_sides(considered) < params.min_side), "small_face")
    if params.flagged == "drop":
        drop(doubtful(considered), "doubtful_landmarks")
    near = (params.near_duplicate_bits, params.near_duplicate_correlation)
    copy_of = np.full(considered.num_rows, None, dtype=object)
    columns = ["sample_id", *_COPY_COLUMNS, *PLACE]
    considered, evaluated = considered.select(columns), evaluated.select(columns)
    for kind in ("evaluation_image", "image"):
        rows = np.flatnonzero(reasons == "")
        left = considered.take(pa.array(rows))
        if kind == "image":
            others, copies = left, repeated(left, faces, *near, workers)
        else:
            others, copies = evaluated, matches(left, evaluated, faces, *near, workers)
        some = np.flatnonzero(copies.how != "")
        reasons[rows[some]] = [f"{how}_copy_of_{kind}" for how in copies.how[some]]
        copy_of[rows[some]] = others.column("sample_id").take(pa.array(copies.of[some])).to_pylist()
    return reasons, copy_of


def _is_evaluated(table: pa.Table) -> Any:
    return pc.is_in(table.column("usage"), value_set=pa.array(EVALUATED))


def _short_sides(table: pa.Table) -> np.ndarray:
    """Return (n,) the shorter side of each face box in the photo, NaN without one."""
    boxes = table.column("box").combine_chunks()
    sides = np.full(table.num_rows, np.nan)
    x1, y1, x2, y2 = pc.list_flatten(boxes).to_numpy(zero_copy_only=False).reshape(-1, 4).astype(np.float64).T
    sides[pc.is_valid(boxes).to_numpy(zero_copy_only=False)] = np.minimum(x2 - x1, y2 - y1)
    return sides


def _capped(
    order: np.ndarray, table: pa.Table, sources: Sequence[SourceSettings], max_images: int | None, reasons: np.ndarray
) -> np.ndarray:
    """Return the rows of `order` up to the caps; the others get their reason in `reasons`.

    The order is random, so the kept rows are a random sample. Caps per person are applied first, then those per source,
    then the one for all. Rows without an identity are not capped per person.
    """
    who = table.select(["source", "identity"]).take(pa.array(order)).to_pandas()
    caps = {s.name: (s.corpus_max_per_identity, s.corpus_max) for s in sources}
    for i, (reason, group) in enumerate(
        (("over_identity_cap", ["source", "identity"]), ("over_source_cap", ["source"]))
    ):
        cap = who["source"].map(lambda name, i=i: caps[name][i]).astype(float)  # None becomes NaN: no cap
        over = (who.groupby(group).cumcount() >= cap) & who[group[-1]].notna()
        reasons[order[over]] = reason
        order, who = order[~over], who[~over]
    if max_images is not None:
        reasons[order[max_images:]] = "over_cap"
        order = order[:max_images]
    return order


def _tally(values: Any) -> dict[str, int]:
    counts = pd.Series(values).value_counts()
    return {str(k): int(counts[k]) for k in sorted(counts.index) if k}


def _counts(fate: pa.Table) -> dict[str, Any]:
    rows = fate.select(["source", "reason"]).to_pandas()
    by_source = {
        str(name): {"considered": len(part), "kept": int((part == "").sum()), "dropped": _tally(part)}
        for name, part in rows.groupby("source")["reason"]
    }
    return {
        "considered": len(rows),
        "kept": int((rows["reason"] == "").sum()),
        "kept_by_source": {name: counts["kept"] for name, counts in by_source.items() if counts["kept"]},
        "dropped": _tally(rows["reason"]),
        "by_source": by_source,
    }


def _rewrite(table: pa.Table, faces: Path, folder: Path, shard_size: int) -> pa.Table:
    """Copy the stored crops of `table` into new shards in row order; return the table with the new places."""
    readers = {s: ShardReader(faces / s) for s in pc.unique(table.column("source")).to_pylist()}
    places = table.select(["source", *PLACE])
    new: list[tuple[str, int, int, int]] = []
    progress = iter(track(range(table.num_rows), table.num_rows, "corpus"))
    for shard, start in enumerate(range(0, table.num_rows, shard_size)):
        with ShardWriter(folder / f"shard-{shard:05d}.tar") as writer:
            for place in places.slice(start, shard_size).to_pylist():
                data = readers[place.pop("source")].read(**place)
                new.append((*writer.add(f"{next(progress):09d}.jpg", data), crc32(data)))
    next(progress, None)  # lets the bar end
    for reader in readers.values():
        reader.close()
    for name, values in zip(PLACE, zip(*new, strict=True), strict=True):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    return table
