"""A whole source to data/faces/<source>: in chunks, over worker processes, resumable at any instant.

A chunk of `align.shard_size` records becomes one shard and one part of the manifest in the scratch folder of this exact
work (same records, parameters and code); a rerun skips finished chunks. Chunks are cut by record order and every worker
computes with one thread, so the bytes do not depend on the number of workers.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from ssfer import runtime
from ssfer.errors import SsferError
from ssfer.faces.detect import Detector, build_detector
from ssfer.faces.workers import Chunk, Job, in_processes, in_this_process
from ssfer.manifest import MANIFEST_NAME, SCHEMA, read_manifest, write_manifest
from ssfer.params import AlignParams, SourceParams
from ssfer.progress import Progress
from ssfer.sources.base import Source, open_source


def build_faces(
    source_params: SourceParams,
    raw: Path,
    out: Path,
    align: AlignParams,
    workers: int = 1,
    device: str = "cpu",
    detector: Callable[[], Detector] | None = None,
) -> tuple[dict[str, Any], Path]:
    """Write `out` (manifest and shards) from the source at `raw`/<path>; `out` appears, or is replaced, at the end.

    Args:
        workers: processes; 0 and 1 work in this process.
        device: of the detector.
        detector: builds the detector in each process (picklable); default: `align.detector`.

    Returns:
        The counts for metrics/align.json, and the scratch folder, which the caller removes when the stage is done:
        until then a rerun finds all chunks finished.

    Raises:
        SsferError: missing or malformed source, no readable image at all, a second writer, a killed worker.
    """
    source = open_source(source_params, raw)
    records = source.records()
    if not records:
        raise SsferError(f"source '{source_params.name}' at {raw / source_params.path} has no images")
    scratch = runtime.scratch_dir("align", f"{source_params.name}-{_fingerprint(source, source_params, align)[:24]}")
    job = Job(source, source_params, align, detector or partial(build_detector, align.detector, device))
    chunks = [
        Chunk(i, records[start : start + align.shard_size], scratch)
        for i, start in enumerate(range(0, len(records), align.shard_size))
    ]
    with _sole_writer(scratch):
        _run(job, chunks, workers)
        table = pa.concat_tables(read_manifest(chunk.part) for chunk in chunks)
        if not any(width is not None for width in table.column("width").to_pylist()):
            raise SsferError(
                f"none of the {len(records)} images of source '{source_params.name}' could be read; expected image "
                f"files (JPEG, PNG, WEBP, BMP, GIF, TIFF) in {raw / source_params.path}"
            )
        folder = runtime.temp_dir_for(out)
        for chunk in chunks:
            _link_or_copy(chunk.shard, folder / chunk.shard.name)
        write_manifest(table, folder / MANIFEST_NAME)
        runtime.replace_dir(folder, out)
    return _counts(table, source), scratch


def _fingerprint(source: Source, params: SourceParams, align: AlignParams) -> str:
    """Identify the work: the same value means that every chunk would come out the same."""
    stamps = [[vars(r), source.stamp(r)] for r in source.records()]
    code = runtime.code_fingerprint()
    return runtime.sha256_json([params.model_dump(), align.model_dump(), stamps, code, SCHEMA.to_string()])


@contextmanager
def _sole_writer(scratch: Path) -> Iterator[None]:
    lock = FileLock(scratch / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise SsferError(
            f"another process is aligning the same source (it holds {scratch}/lock); wait for it"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _run(job: Job, chunks: Sequence[Chunk], workers: int) -> None:
    todo = [chunk for chunk in chunks if not chunk.is_done()]
    total = sum(len(chunk.records) for chunk in chunks)
    done = total - sum(len(chunk.records) for chunk in todo)
    with Progress(f"align {job.params.name}", total, done=done) as progress:
        workers = min(workers, len(todo))
        finished = in_processes(job, todo, workers) if workers > 1 else in_this_process(job, todo)
        for count in finished:
            progress.advance(count)


def _link_or_copy(source: Path, target: Path) -> None:
    """Give a finished shard a second name without writing it again, where the file system can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _counts(table: pa.Table, source: Source) -> dict[str, Any]:
    rows = table.select(["shard", "face_found", "crop_box_fallback", "status"]).to_pydict()
    counts: dict[str, Any] = {
        "images": table.num_rows,
        "stored": sum(s is not None for s in rows["shard"]),
        "face_found": sum(rows["face_found"]),
        "status": dict(sorted(Counter(rows["status"]).items())),
        "crop_box_fallback": sum(bool(f) for f in rows["crop_box_fallback"]),
    }
    left_out = {reason: n for reason, n in sorted(source.dropped.items()) if n}
    return {**counts, "left_out": left_out} if left_out else counts
