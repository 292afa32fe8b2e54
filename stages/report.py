"""Stage report: metrics/*.json and curves -> metrics/report.html and MODEL_CARD.md.

Command: python -m stages.report (seconds). Reads data/ only for the weights' hashes and, if params.report.gallery is
true, for pictures of faces.
"""

from __future__ import annotations

from pathlib import Path

from ssfer.config.schema import load_params
from ssfer.core.files import write_bytes
from ssfer.core.process import stage_main
from ssfer.report.model_card import build_model_card
from ssfer.report.page import build_report

REPORT = Path("metrics/report.html")
MODEL_CARD = Path("MODEL_CARD.md")


def main() -> None:
    """Build both texts before writing either, so that an error leaves the old ones in place."""
    params = load_params()
    page, card = build_report(params), build_model_card(params)
    write_bytes(REPORT, page.encode())
    write_bytes(MODEL_CARD, card.encode())
    print(f"report: {REPORT} ({len(page) // 1024} KiB) and {MODEL_CARD}")


if __name__ == "__main__":
    stage_main("report", main)
