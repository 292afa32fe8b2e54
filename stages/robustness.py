"""Attack the test faces on the pixels a model focuses on, on others, and on random ones (SSFER section 12, Table 7).

Reads:  data/faces, data/splits, data/weights/{finetune,semisup}
Writes: metrics/robustness.json, metrics/curves/robustness.csv, data/reports/robustness (faces only if report.gallery)
Run:    python -m stages.robustness        (seconds with the demo's settings)
"""

from __future__ import annotations

from ssfer.config.schema import load_params
from ssfer.core.process import stage_main
from ssfer.evaluation.attack.masks import REGIONS
from ssfer.stages.robustness import run_robustness


def main() -> None:
    """Run the stage with params.yaml."""
    params = load_params()
    result = run_robustness(params)
    largest = f"{params.robustness.epsilons[-1]:g}"
    for name, measured in result["models"].items():
        clean, *attacked = (
            100 * measured[region][epsilon]["accuracy"]
            for region, epsilon in (("focused", "0"), *((region, largest) for region in REGIONS))
        )
        print(
            f"robustness: {name} {clean:.2f} % on {result['test_images']} test faces; at epsilon {largest} "
            f"{attacked[0]:.2f} % (focused region attacked), {attacked[1]:.2f} % (the rest), "
            f"{attacked[2]:.2f} % (random pixels, as many as focused)"
        )


if __name__ == "__main__":
    stage_main("robustness", main)
