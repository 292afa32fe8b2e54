"""Train the classifier on the labeled part with FaceMix, and its baselines (SSFER sections 8 and 9).

Reads:  data/faces, data/splits, data/weights/pretrain
Writes: data/weights/finetune, metrics/finetune.json, metrics/curves/finetune*.csv
Run:    python -m stages.finetune        (about 4 minutes on 2 CPU cores with the demo's settings)
"""

from __future__ import annotations

from ssfer.config.schema import load_params
from ssfer.core.distributed import leave_processes
from ssfer.core.process import stage_main
from ssfer.stages.finetune import run_finetune


def main() -> None:
    """Run the stage with params.yaml."""
    result = run_finetune(load_params())
    leave_processes()
    if result is None:  # not the first of torchrun's processes, which writes and prints
        return
    print("finetune: " + ", ".join(f"{arm} loss {r['loss']:.4f}" for arm, r in result.items()))


if __name__ == "__main__":
    stage_main("finetune", main)
