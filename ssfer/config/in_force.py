"""The settings in force: params.yaml with the defaults of what it leaves out."""

from __future__ import annotations

import json

from ssfer.config.components import chosen
from ssfer.config.identity import STAGES, settings
from ssfer.config.schema import load_params
from ssfer.core.errors import unknown_name
from ssfer.core.yaml import flatten


def in_force(stage: str | None = None, every: bool = False) -> dict[str, str]:
    """Return the settings of this project's params.yaml with defaults filled in, by dotted key, values as JSON.

    Args:
        stage: only what decides this stage's result.
        every: also settings of components that are not chosen.

    Raises:
        SsferError: see `load_params`; an unknown stage.
    """
    params = load_params()
    if stage is not None and stage not in STAGES:
        raise unknown_name("stage", stage, STAGES)
    if stage is not None:
        found = settings(stage, params)
    else:
        only = {} if every else chosen(params)
        found = dict(flatten({**params.model_dump(mode="json"), **only}))
    return {key: json.dumps(value, ensure_ascii=False) for key, value in found.items()}
