"""Check what every stage needs, then write what its result depends on -> data/identity/<stage>.json.

Reads:  params.yaml, the source files of ssfer, stages/, and components of the user's own
Writes: data/identity
Run:    python -m stages.identify        (seconds; DVC runs it before every other stage)
"""

from __future__ import annotations

from ssfer.config.identity import FOLDER, STAGES, identity
from ssfer.config.preflight import preflight
from ssfer.config.schema import load_params
from ssfer.core.files import write_json
from ssfer.core.process import stage_main
from ssfer.project.temporary import bring_raw_data
from ssfer.testing.own import try_own_components


def main() -> None:
    """Run the stage with params.yaml."""
    params = load_params()
    bring_raw_data(params.data.raw)
    preflight(params)
    try_own_components(params)
    for stage in STAGES:
        write_json(FOLDER / f"{stage}.json", identity(stage, params))


if __name__ == "__main__":
    stage_main("identify", main)
