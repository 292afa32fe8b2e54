"""Stage log: parameters, results, curves and report of the whole run -> the run's parent in MLflow.

DVC always runs it, so the parent is complete when other stages were skipped or restored. It writes no file.

Command: python -m stages.log (seconds). Reads metrics/, MODEL_CARD.md and params.yaml.
"""

from __future__ import annotations

from pathlib import Path

from ssfer.config.schema import PARAMS_FILE, load_params
from ssfer.core.process import stage_main
from ssfer.tracking.tracker import log_build


def main() -> None:
    """Run the stage with params.yaml."""
    log_build(load_params(), files=(Path("metrics/report.html"), Path("MODEL_CARD.md"), PARAMS_FILE))


if __name__ == "__main__":
    stage_main("log", main)
