"""Train the classifier further on labeled and unlabeled faces with the method of semisup.method (SSFER section 10).

Reads:  data/faces, data/splits, data/weights/finetune; with semisup.extra also data/corpus
Writes: data/weights/semisup, metrics/semisup.json, metrics/curves/{semisup,pseudo_labels}.csv
Run:    python -m stages.semisup        (about 2 minutes on 2 CPU cores with the demo's settings)
"""

from __future__ import annotations

from ssfer.config.schema import load_params
from ssfer.core.distributed import leave_processes
from ssfer.core.process import stage_main
from ssfer.stages.semisup import run_semisup


def main() -> None:
    """Run the stage with params.yaml."""
    result = run_semisup(load_params())
    leave_processes()
    if result is None:  # not the first of torchrun's processes, which writes and prints
        return
    if not result["epochs"]:
        return  # no unlabeled images, as the stage has printed
    share = 100 * result["util_ratio"]
    print(f"semisup: {share:.1f} % of the unlabeled faces pass the threshold after {result['epochs']} epochs")


if __name__ == "__main__":
    stage_main("semisup", main)
