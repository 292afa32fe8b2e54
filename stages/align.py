"""Detect, align and crop the faces of every source: data/raw/<data.raw> -> data/faces/<source>.

Reads:  data/raw/<data.raw>
Writes: data/faces/<source>/{manifest.parquet,shard-*.tar}, metrics/align.json
Run:    python -m stages.align        (per CPU core 4 ms a 48 px crop, 12 ms a 96 px photo, 20 ms a 350 px photo)

All GPUs of this machine detect, or the nodes of a cluster with machine.cluster: ray. It can be killed at any time and
run again: finished parts are kept.
"""

from __future__ import annotations

import time

from ssfer.config.schema import load_params
from ssfer.core.process import stage_main
from ssfer.stages.align import run_align


def main() -> None:
    """Run the stage with params.yaml."""
    start = time.monotonic()
    counts = run_align(load_params())
    images, found = (sum(c[key] for c in counts.values()) for key in ("images", "face_found"))
    print(f"align: {images} images, a face in {found}, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    stage_main("align", main)
