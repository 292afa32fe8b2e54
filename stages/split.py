"""Draw the labeled, validation, unlabeled and test parts once, for every later stage (SSFER section 7).

Reads:  data/faces of the labeled sources (with split.bare_faces: all, of all sources)
Writes: data/splits/split.json, metrics/split.json
Run:    python -m stages.split        (seconds)
"""

from __future__ import annotations

from ssfer.config.schema import load_params
from ssfer.core.process import stage_main
from ssfer.stages.split import run_split


def main() -> None:
    """Run the stage with params.yaml."""
    result = run_split(load_params())
    print("split: " + ", ".join(f"{result[part]} {part}" for part in ("labeled", "valid", "unlabeled", "test")))


if __name__ == "__main__":
    stage_main("split", main)
