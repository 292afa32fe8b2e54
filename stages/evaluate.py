"""Evaluate every model on the test part, on which only stage robustness also evaluates (SSFER section 11).

Reads:  data/faces, data/splits, data/weights/{finetune,semisup}
Writes: data/weights/model.safetensors, metrics/evaluate.json, metrics/confusion.csv
Run:    python -m stages.evaluate        (seconds)
"""

from __future__ import annotations

from ssfer.config.schema import load_params
from ssfer.core.process import stage_main
from ssfer.stages.evaluate import run_evaluate


def main() -> None:
    """Run the stage with params.yaml."""
    result = run_evaluate(load_params())
    accuracy = 100 * result["headline"]["accuracy"]
    print(f"evaluate: {result['headline_model']} {accuracy:.2f} % on {result['test_images']} test faces")


if __name__ == "__main__":
    stage_main("evaluate", main)
