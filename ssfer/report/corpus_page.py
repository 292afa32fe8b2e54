"""The report about the corpus: a page with what was left out and why, and a table of every left-out row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ssfer.core import files
from ssfer.core.images import data_uri
from ssfer.formats.manifest import read_manifest
from ssfer.formats.shards import PLACE, ShardReader
from ssfer.report.html import environment

# In the order in which the reasons are checked.
REASONS = {
    "evaluated_on": "validation and test images of all data sets",
    "not_stored": "nothing was stored: unreadable, too small or too large, or several faces with the policy 'drop'",
    "no_face": "no face was found (corpus.keep_undetected keeps them)",
    "low_score": "the detector's confidence is too low (corpus.min_score)",
    "small_face": "the face is too small in its photo (corpus.min_side)",
    "doubtful_landmarks": "landmarks that can hardly be the face's (corpus.flagged)",
    "exact_copy_of_evaluation_image": "same file or same pixels as a validation or test image",
    "near_copy_of_evaluation_image": "a validation or test image, re-encoded, mirrored, turned, cropped or edited",
    "exact_copy_of_image": "same file or same pixels as an image that stays",
    "near_copy_of_image": "the same picture as one that stays, re-encoded, rescaled or edited",
    "over_identity_cap": "more images of a person than corpus_max_per_identity of the source",
    "over_source_cap": "more images than corpus_max of the source",
    "over_cap": "more images than corpus.max_images",
}
_SHOWN_WITH_PAIR = ("near_copy_of_evaluation_image", "near_copy_of_image")


def write_report(counts: Mapping[str, Any], fate: pa.Table, faces: Path, out: Path, examples: int) -> None:
    """Write `out`: index.html and dropped.parquet (source, sample_id, reason, copy_of of each row left out).

    Args:
        counts: of `build_corpus`.
        fate: of `build_corpus`.
        faces: the folder data/faces.
        out: the folder of the report, replaced as a whole.
        examples: pictures per reason on the page, drawn at random with a fixed seed; 0: no faces are shown.
    """
    left_out = fate.filter(pc.not_equal(fate.column("reason"), ""))
    context = {
        "counts": counts,
        "reasons": [(name, text, counts["dropped"].get(name, 0)) for name, text in REASONS.items()],
        "pictures": _pictures(left_out, faces, examples) if examples else {},
        "pairs": _SHOWN_WITH_PAIR,
    }
    page = environment(autoescape=True).get_template("corpus.html.j2").render(context)
    with files.new_dir(out) as folder:
        pq.write_table(
            left_out.select(["source", "sample_id", "reason", "copy_of"]),
            folder / "dropped.parquet",
            compression="zstd",
        )
        files.write_bytes(folder / "index.html", page.encode())


def _pictures(left_out: pa.Table, faces: Path, examples: int) -> dict[str, list[list[str]]]:
    """Return for each reason up to `examples` entries: the stored crop, and for near copies what it copies."""
    rng = np.random.default_rng(0)
    chosen: dict[str, list[dict[str, Any]]] = {}
    stored = left_out.filter(pc.is_valid(left_out.column("shard")))
    for reason in (r for r in REASONS if r != "evaluated_on"):
        rows = stored.filter(pc.equal(stored.column("reason"), reason))
        if rows.num_rows:
            order = rng.permutation(rows.num_rows)[:examples]
            chosen[reason] = rows.take(pa.array(np.sort(order))).to_pylist()
    wanted = {r["copy_of"] for rows in chosen.values() for r in rows if r["copy_of"]}
    places = _places(faces, wanted)
    readers: dict[str, ShardReader] = {}

    def picture(place: Mapping[str, Any]) -> str:
        reader = readers.setdefault(place["source"], ShardReader(faces / place["source"]))
        return data_uri(reader.read(*(place[key] for key in PLACE)))

    shown = {}
    for reason, rows in chosen.items():
        pairs = [[row, places[row["copy_of"]]] if reason in _SHOWN_WITH_PAIR else [row] for row in rows]
        shown[reason] = [[picture(place) for place in pair] for pair in pairs]
    for reader in readers.values():
        reader.close()
    return shown


def _places(faces: Path, ids: set[str]) -> dict[str, dict[str, Any]]:
    """Return where the crops of these samples are stored."""
    found: dict[str, dict[str, Any]] = {}
    for folder in sorted(p for p in faces.iterdir() if p.is_dir()) if ids else []:
        table = read_manifest(folder).select(["sample_id", "source", *PLACE])
        rows = table.filter(pc.is_in(table.column("sample_id"), value_set=pa.array(sorted(ids))))
        found |= {row["sample_id"]: row for row in rows.to_pylist()}
    return found
