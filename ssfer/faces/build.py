"""A whole source to data/faces/<source>: in chunks, over processes or the nodes of a cluster, resumable at any instant.

A chunk of `align.shard_size` records becomes one shard and one part of the manifest in the scratch folder of this exact
work (same records, parameters and code); a rerun skips finished chunks. Chunks are cut by record order and every worker
computes with one thread, so the bytes do not depend on the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from ssfer.core import files
from ssfer.core.errors import SsferError
from ssfer.core.images import undecodable
from ssfer.core.own_code import failure_in
from ssfer.core.progress import Progress
from ssfer.core.settings import Section
from ssfer.core.source_code import code_of
from ssfer.datasets.base import MAX_MISSING, RawRecord, Source, SourceSettings
from ssfer.datasets.registry import SOURCES, open_source
from ssfer.datasets.shared.import_caps import capped
from ssfer.faces.detectors.registry import DETECTORS, build_detector, detectors_of
from ssfer.faces.settings import AlignSettings
from ssfer.faces.shared_detector import Build
from ssfer.faces.workers import Chunk, Executor, Job, LocalProcesses
from ssfer.formats.manifest import MANIFEST_NAME, SCHEMA, USAGES, read_manifest, shows_no_face, write_manifest

_CORPUS_KEYS = (
    "labeled",
    "corpus",
    "corpus_max",
    "corpus_max_per_identity",
    "counts",
    "optional",
)  # no part in aligning


def build_faces(
    source_params: SourceSettings,
    raw: Path,
    out: Path,
    align: AlignSettings,
    executor: Executor = LocalProcesses(),  # noqa: B008 - immutable
    sections: Mapping[str, Section] | None = None,
    detector: Build | None = None,
    max_missing: float = MAX_MISSING,
) -> tuple[dict[str, Any], Path]:
    """Write `out` (manifest and shards) from the source at `raw`/<path>; `out` appears, or is replaced, at the end.

    Args:
        source_params: the source's entry in `data.sources`.
        raw: folder of the raw data.
        out: the folder data/faces/<source>.
        align: section `align` of params.yaml.
        executor: where the chunks are worked on: processes of this machine, or nodes of a cluster.
        sections: `detectors` of params.yaml; missing sections have their defaults.
        detector: builds the detector in each process (picklable); default: `align.detector`.
        max_missing: see `open_source`.

    Returns:
        The counts for metrics/align.json, and the scratch folder, which the caller removes when the stage is done:
        until then a rerun finds all chunks finished.

    Raises:
        SsferError: missing or malformed source, no readable image at all, a second writer, a killed worker.
    """
    source = open_source(source_params, raw, max_missing)
    records = capped(source.records(), source_params)
    if not records:
        raise SsferError(f"source '{source_params.name}' at {raw / source_params.path} has no images")
    if missing := undecodable(record.path for record in records):
        raise SsferError(f"source '{source_params.name}': {missing}")
    scratch = files.scratch_dir(
        "align", f"{source_params.name}-{_fingerprint(source, source_params, align, sections or {})[:24]}"
    )
    first, *second = (
        partial(build_detector, name, DETECTORS.settings(name, sections or {}), executor.device, align.min_face)
        for name in detectors_of(align)
    )
    chunks = [
        Chunk(i, records[start : start + align.shard_size], scratch)
        for i, start in enumerate(range(0, len(records), align.shard_size))
    ]
    with _sole_writer(scratch):
        with executor.detectors([detector or first, *second]) as builds:
            _run(Job(source, source_params, align, *builds), chunks, executor)
        table = pa.concat_tables(read_manifest(chunk.part) for chunk in chunks)
        if table.column("width").null_count == table.num_rows:
            raise SsferError(
                f"none of the {len(records)} images of source '{source_params.name}' could be read; expected image "
                f"files (JPEG, PNG, WEBP, BMP, GIF, TIFF) in {raw / source_params.path}"
                + _why_unread(source, records[0])
            )
        with files.new_dir(out) as folder:
            for chunk in chunks:
                _link_or_copy(chunk.shard, folder / chunk.shard.name)
            write_manifest(table, folder / MANIFEST_NAME)
    over = len(source.records()) - len(records)
    return _counts(table, {**source.dropped, "over_import_max": over}), scratch


def _why_unread(source: Source, record: RawRecord) -> str:
    """Return what reading a record ends in, if it fails, for the end of a sentence."""
    try:
        source.read(record)
    except Exception as error:
        return f"; reading '{record.path}' ends in {failure_in(error) or f'{type(error).__name__}: {error}'}"
    return ""


def _fingerprint(source: Source, params: SourceSettings, align: AlignSettings, sections: Mapping[str, Section]) -> str:
    """Return a hash of everything that the chunks depend on."""
    code = code_of(["ssfer.faces.build", SOURCES.module(params.kind), *map(DETECTORS.module, detectors_of(align))])
    parts = [params.model_dump(exclude=set(_CORPUS_KEYS)), align.model_dump(), code, SCHEMA.to_string()]
    for name in detectors_of(align):
        settings = DETECTORS.settings(name, sections)
        weights = [files.sha256_file(f) if f.is_file() else "missing" for f in DETECTORS[name].files(settings)]
        parts += [settings.model_dump(), weights]
    digest = hashlib.sha256(files.sha256_json(parts).encode())
    for record in source.records():  # one by one, because one JSON text of a million records would fill the memory
        digest.update(json.dumps([astuple(record), source.stamp(record)]).encode())
    return digest.hexdigest()


@contextmanager
def _sole_writer(scratch: Path) -> Iterator[None]:
    lock = FileLock(scratch / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise SsferError(
            f"another process is aligning the same source (it holds {lock.lock_file}); wait for it"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _run(job: Job, chunks: Sequence[Chunk], executor: Executor) -> None:
    """Work until all chunks are done; those of an earlier run are checked first."""
    _discard_damaged(chunks)
    todo = [chunk for chunk in chunks if not chunk.is_done()]
    total, left = (sum(len(chunk.records) for chunk in some) for some in (chunks, todo))
    with Progress(f"align {job.params.name}", total, done=total - left) as progress:
        for chunk in executor.run(job, todo):
            progress.advance(len(chunk.records))


def _discard_damaged(chunks: Sequence[Chunk]) -> None:
    """Delete finished chunks of an earlier run whose bytes have changed since."""
    damaged = [chunk for chunk in chunks if chunk.is_done() and not chunk.is_whole()]
    for chunk in damaged:
        chunk.discard()
    if damaged:
        print(
            f"align: {len(damaged)} finished parts in {damaged[0].folder} were damaged and are done again",
            file=sys.stderr,
            flush=True,
        )


def _link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a finished shard, so that it is not written again; copy it if the file system cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _without_face(table: pa.Table) -> dict[str, int]:
    """Return the number of stored crops that show no detected face and no annotated one, by usage."""
    pairs = pc.value_counts(table.filter(shows_no_face(table)).column("usage")).to_pylist()
    return {p["values"]: p["counts"] for p in sorted(pairs, key=lambda p: USAGES.index(p["values"]))}


def _counts(table: pa.Table, dropped: Mapping[str, int]) -> dict[str, Any]:
    """Return the counts of outcomes of the images, for metrics/align.json."""

    def tally(column: str) -> dict[str, int]:
        pairs = pc.value_counts(table.column(column)).to_pylist()
        return {
            p["values"]: p["counts"] for p in sorted(pairs, key=lambda p: str(p["values"])) if p["values"] is not None
        }

    counts: dict[str, Any] = {
        "images": table.num_rows,
        "stored": table.num_rows - table.column("shard").null_count,
        "face_found": pc.sum(table.column("face_found")).as_py(),
        "status": tally("status"),
        "face_choice": tally("face_choice"),
        "crop_box_fallback": pc.sum(table.column("crop_box_fallback")).as_py() or 0,
    }
    if faceless := _without_face(table):
        counts["no_face"] = faceless
    if flags := tally("landmark_flag"):
        counts["landmark_flag"] = flags
    left_out = {reason: n for reason, n in sorted(dropped.items()) if n}
    return {**counts, "left_out": left_out} if left_out else counts
