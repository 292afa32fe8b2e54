"""`ssfer doctor` from arguments to exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ssfer.doctor.examination import Settings, examine
from ssfer.doctor.json_report import as_values
from ssfer.doctor.text_report import show


def run_doctor(paths: Sequence[Path], settings: Settings, as_json: bool) -> int:
    """Examine the paths, print the report on stdout, and return the exit status: 0, 1 (warnings) or 2 (errors).

    Raises:
        SsferError: see `ssfer.doctor.examination.examine`.
    """
    values = as_values(examine(paths, settings))
    if as_json:
        print(json.dumps(values, indent=2))
    else:
        show(values, sys.stdout)
    return int(values["exit_status"])
