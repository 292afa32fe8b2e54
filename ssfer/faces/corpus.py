"""The unlabeled corpus: training faces of all sources, without copies and without anything that is evaluated on.

Labels are ignored by pretraining but kept in the manifest. Rows leave in a fixed order of reasons, so each dropped row
is counted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ssfer import runtime
from ssfer.errors import SsferError
from ssfer.faces.duplicates import matches, repeated
from ssfer.manifest import MANIFEST_NAME, read_manifest, write_manifest
from ssfer.params import CorpusParams, SourceParams
from ssfer.progress import track
from ssfer.shards import ShardReader, ShardWriter

EVALUATED = ("valid", "test")


def build_corpus(
    sources: Sequence[SourceParams], params: CorpusParams, faces: Path, out: Path, shard_size: int
) -> dict[str, Any]:
    """Write the corpus to `out` (manifest in shuffled order, shards in the same order); return its counts.

    Args:
        sources: all sources; those with `corpus: true` feed it, the evaluation images of all of them are kept out.
        faces: the folder data/faces, one folder per source.
        shard_size: images per shard.

    Raises:
        SsferError: a source was not aligned, or nothing is left.
    """
    tables = {source.name: read_manifest(faces / source.name) for source in sources}
    feeding = [tables[source.name] for source in sources if source.corpus]
    if not feeding:
        raise SsferError("no source has 'corpus: true' in params.yaml; pretraining needs at least one")
    considered = pa.concat_tables(feeding)
    evaluated = pa.concat_tables([t.filter(_is_evaluated(t)) for t in tables.values()])
    reasons = select(considered, evaluated, params, faces)
    kept = np.flatnonzero(reasons == "")
    if not len(kept):
        raise SsferError(
            f"none of the {considered.num_rows} faces qualifies for the corpus ({dict(_count(reasons))}); lower "
            "corpus.min_score or corpus.min_side, or set corpus.keep_undetected"
        )
    order = np.random.default_rng(params.seed).permutation(kept)
    if params.max_images is not None and len(order) > params.max_images:
        reasons[order[params.max_images :]] = "over_cap"
        order = order[: params.max_images]
    table = considered.take(pa.array(order))
    folder = runtime.temp_dir_for(out)
    write_manifest(_rewrite(table, faces, folder, shard_size), folder / MANIFEST_NAME)
    runtime.replace_dir(folder, out)
    return {
        "considered": considered.num_rows,
        "kept": table.num_rows,
        "kept_by_source": dict(sorted(Counter(table.column("source").to_pylist()).items())),
        "dropped": dict(sorted(_count(reasons).items())),
    }


def select(considered: pa.Table, evaluated: pa.Table, params: CorpusParams, faces: Path) -> np.ndarray:
    """Return for each considered row why it is left out, "" if it stays; (n,) str."""
    reasons = np.full(considered.num_rows, "", dtype=object)

    def drop(mask: np.ndarray, reason: str) -> None:
        reasons[mask & (reasons == "")] = reason

    found = considered.column("face_found").to_numpy(zero_copy_only=False).astype(bool)
    drop(_is_evaluated(considered).to_numpy(zero_copy_only=False), "evaluated_on")
    drop(pc.is_null(considered.column("shard")).to_numpy(zero_copy_only=False), "not_stored")
    if not params.keep_undetected:
        drop(~found, "no_face")
    drop(found & (_numbers(considered.column("score").to_pylist()) < params.min_score), "low_score")
    drop(found & (_short_sides(considered) < params.min_side), "small_face")
    near = (params.near_duplicate_bits, params.near_duplicate_correlation)
    for kind, against in (("evaluation_image", evaluated), ("image", None)):
        rows = np.flatnonzero(reasons == "")
        left = considered.take(pa.array(rows))
        found_copies = matches(left, against, faces, *near) if against is not None else repeated(left, faces, *near)
        for how in ("exact", "near"):
            reasons[rows[found_copies == how]] = f"{how}_copy_of_{kind}"
    return reasons


def _is_evaluated(table: pa.Table) -> Any:
    return pc.is_in(table.column("usage"), value_set=pa.array(EVALUATED))


def _numbers(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def _short_sides(table: pa.Table) -> np.ndarray:
    boxes = table.column("box").to_pylist()
    return _numbers([None if b is None else min(b[2] - b[0], b[3] - b[1]) for b in boxes])


def _count(reasons: np.ndarray) -> Counter[str]:
    return Counter(str(r) for r in reasons if r)


def _rewrite(table: pa.Table, faces: Path, folder: Path, shard_size: int) -> pa.Table:
    """Copy the stored crops of `table` into new shards in row order; return the table with the new places."""
    readers = {s: ShardReader(faces / s) for s in set(table.column("source").to_pylist())}
    places = table.select(["source", "shard", "offset", "size"]).to_pylist()
    rows = iter(track(enumerate(places), len(places), "corpus"))
    new: list[tuple[str, int, int]] = []
    for shard in range(-(-len(places) // shard_size)):
        with ShardWriter(folder / f"shard-{shard:05d}.tar") as writer:
            for _ in range(min(shard_size, len(places) - len(new))):
                i, place = next(rows)
                data = readers[place["source"]].read(place["shard"], place["offset"], place["size"])
                new.append(writer.add(f"{i:09d}.jpg", data))
    for reader in readers.values():
        reader.close()
    for name, values in zip(("shard", "offset", "size"), zip(*new, strict=True), strict=True):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    return table
