"""Detect, align and crop the faces of every source: data/raw/<data.raw> -> data/faces/<source>.

Reads params sections data, align, machine. Writes data/faces/<source>/{manifest.parquet,shard-*.tar} and
metrics/align.json. Run in the project's root: python -m stages.align; on several GPUs, or machines that share the
folder: torchrun --nproc-per-node 8 -m stages.align && dvc commit align. Kill it at any time and run it again: finished
parts are kept. Per CPU core about 4 ms a 48 px crop, 12 ms a 96 px photo, 20 ms a 350 px photo (MTCNN). SSFER
specification section 3.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from ssfer.config.schema import Params, load_params
from ssfer.core.files import write_json
from ssfer.core.process import rank_and_world, stage_main
from ssfer.faces.build import build_faces
from ssfer.faces.workers import detection_device, worker_count
from ssfer.tracking.tracker import Tracker

RAW, FACES, METRICS = Path("data/raw"), Path("data/faces"), Path("metrics/align.json")


def main() -> None:
    """Run the stage with params.yaml."""
    params = load_params()
    start = time.monotonic()
    if rank_and_world()[0]:  # of torchrun: works on the same chunks, writes no results
        _align(params)
        return
    with Tracker("align", params) as tracker:
        counts = _align(params)
        tracker.log_metrics(counts)
    images, found = (sum(c[key] for c in counts.values()) for key in ("images", "face_found"))
    print(f"align: {images} images, a face in {found}, {time.monotonic() - start:.0f} s")


def _align(params: Params) -> dict[str, dict[str, Any]]:
    workers, device = worker_count(params.machine.num_workers), detection_device(params.machine.device)
    counts, scratches, raw = {}, [], RAW / params.data.raw
    for source in params.data.sources:
        if built := build_faces(source, raw, FACES / source.name, params.align, workers, device):
            counts[source.name] = built[0]
            scratches.append(built[1])
    if rank_and_world()[0]:
        return {}
    for folder in FACES.iterdir():  # sources that are no longer listed
        if folder.is_dir() and folder.name not in counts:
            shutil.rmtree(folder)
    write_json(METRICS, {"align": counts})
    for scratch in scratches:
        shutil.rmtree(scratch, ignore_errors=True)
    return counts


if __name__ == "__main__":
    stage_main("align", main)
