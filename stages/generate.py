"""Render the embedded data set: labeled expressions and unlabeled people.

Reads:   params.yaml, section `generate`.
Writes:  data/raw/synthetic/expressions/ and data/raw/synthetic/people/ (manifest.parquet, shard-*.tar of JPEG files),
         metrics/generate.json (counts).
Command: python -m stages.generate
Takes:   about two minutes for 9,000 faces of 96 px on two CPU cores (22 ms per face and core, 300 MB per process).
"""

from __future__ import annotations

from pathlib import Path

from ssfer.config.schema import load_params
from ssfer.core.process import stage_main
from ssfer.formats.metrics import write_metrics
from ssfer.rendered.generate import generate
from ssfer.tracking.tracker import Tracker

OUT = Path("data/raw/synthetic")


def main() -> None:
    """Run the stage with params.yaml."""
    params = load_params()
    if params.data.raw != OUT.name:  # `dvc exp run` without a target runs this stage for any data
        OUT.mkdir(parents=True, exist_ok=True)
        write_metrics("generate", {"images": {}, "identities": {}})
        print(f"generate: nothing to do, as data.raw is {params.data.raw}")
        return
    with Tracker("generate", params) as tracker:
        counts = generate(params.generate, OUT)
        write_metrics("generate", counts)
        tracker.log_metrics(counts)
    print(f"generate: {sum(counts['images'].values())} photos in {OUT}")


if __name__ == "__main__":
    stage_main("generate", main)
