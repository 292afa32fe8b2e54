"""`ssfer doctor` from arguments to exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ssfer.core.errors import SsferError
from ssfer.core.places import RAW
from ssfer.doctor.examination import Settings, examine, examine_sources
from ssfer.doctor.json_report import as_values
from ssfer.doctor.text_report import show


def run_doctor(paths: Sequence[Path], profiles: Sequence[str], settings: Settings, as_json: bool) -> int:
    """Examine the paths, print the report on stdout, and return the exit status: 0, 1 (warnings) or 2 (errors).

    Args:
        paths: data sets; without any, the sources of this project are examined.
        profiles: merged into params.yaml before its sources are taken.
        settings: options.
        as_json: print JSON instead of text.

    Raises:
        SsferError: see `ssfer.doctor.examination.examine`; or neither a path nor a project.
    """
    if paths and profiles:
        raise SsferError("--profile examines the sources of a profile, expected no PATH beside it; leave one out")
    if paths:
        result = examine(paths, settings)
    else:
        if settings.kind or settings.labels:
            raise SsferError("--kind and --labels are about a PATH; sources of params.yaml say their own")
        from ssfer.config.profiles import resolve  # these import torch
        from ssfer.config.schema import load_params

        data = (resolve(profiles)[1] if profiles else load_params()).data
        result = examine_sources(data, RAW / data.raw, settings)
    values = as_values(result)
    if as_json:
        print(json.dumps(values, indent=2))
    else:
        show(values, sys.stdout)
    return int(values["exit_status"])
