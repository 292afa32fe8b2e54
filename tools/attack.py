"""Table 7 with its control, of the demo, from metrics/robustness.json: a section of docs/results/results.md."""

from __future__ import annotations

from pathlib import Path

from ssfer.formats.metrics import read_metrics

EPSILON = "0.02"
REGIONS = {
    "focused": "focused: where the model looks",
    "unfocused": "unfocused: all other pixels",
    "random": "random: as many pixels as focused",
}
FOUND = (
    "Attacking the unfocused region hurts more than the focused one, against the paper, because it is larger: with "
    "equal areas, attacking the focused region hurts more than random pixels."
)


def attack_of(metrics: Path) -> str:
    """Return the section; "" without metrics of stage robustness. Figures that contradict `FOUND` leave it out."""
    if not (metrics / "robustness.json").is_file():
        return ""
    section = read_metrics("robustness", metrics)
    name, measured = next(iter(section["models"].items()))
    at = {region: measured[region][EPSILON] for region in REGIONS}
    clean, share = measured["focused"]["0"]["accuracy"], measured["focused_share"]
    shares = {"focused": share, "unfocused": 1 - share, "random": share}
    lines = [
        "## Table 7 with a control",
        "",
        f"The demo's {name} under FGSM with epsilon {EPSILON}, on {section['test_images']:,} test faces; without an "
        f"attack {100 * clean:.1f} %. In brackets: 95 % Wilson intervals.",
        "",
        "| attacked | share of the pixels, mean | accuracy |",
        "|---|---|---|",
    ]
    for region, text in REGIONS.items():
        low, high = at[region]["accuracy_ci95"]
        accuracy = f"{100 * at[region]['accuracy']:.1f} % ({100 * low:.1f}–{100 * high:.1f})"
        lines.append(f"| {text} | {100 * shares[region]:.1f} % | {accuracy} |")
    if at["unfocused"]["accuracy"] < at["focused"]["accuracy"] < at["random"]["accuracy"]:
        lines += ["", FOUND]
    return "\n".join(lines) + "\n"
