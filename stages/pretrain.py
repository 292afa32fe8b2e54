"""Pretrain a masked autoencoder on the unlabeled corpus (SSFER section 6).

Reads:  data/corpus
Writes: data/weights/pretrain, metrics/pretrain.json, metrics/curves/pretrain.csv; pictures for monitoring in
        data/reports/pretrain
Run:    python -m stages.pretrain        (about 4 minutes on 2 CPU cores with the demo's settings)
"""

from __future__ import annotations

from ssfer.config.schema import load_params
from ssfer.core.distributed import leave_processes
from ssfer.core.process import stage_main
from ssfer.stages.pretrain import run_pretrain


def main() -> None:
    """Run the stage with params.yaml."""
    params = load_params()
    result = run_pretrain(params)
    leave_processes()
    if result is None:  # not the first of torchrun's processes, which writes and prints
        return
    if not result["epochs"]:
        start = params.pretrain.init_from or f"{params.model.backbone} with random weights"
        print(f"pretrain: took over {start}, nothing was trained")
        return
    print(f"pretrain: loss {result['loss']:.4f} after {result['epochs']} epochs on {result['images']} faces")


if __name__ == "__main__":
    stage_main("pretrain", main)
