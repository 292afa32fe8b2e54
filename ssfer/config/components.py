"""The components that settings choose: their own settings, and the modules or files that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssfer.config.schema import Params
from ssfer.core.registry import section_name
from ssfer.data.augmentations.registry import AUGMENTATIONS, VIEWS
from ssfer.datasets.registry import SOURCES
from ssfer.evaluation.metric import METRICS
from ssfer.faces.detectors.registry import DETECTORS, detectors_of
from ssfer.methods.registry import METHODS
from ssfer.models.base import BACKBONES, is_own

Tree = dict[str, Any]


def chosen(params: Params) -> Tree:
    """Return the sections of components with the chosen components only."""
    views = augmentations(params, "finetune", "semisup")
    return {"methods": methods(params), **detectors(params), **views, "metrics": metrics(params)}


def dump(section: Any, **only: Any) -> Tree:
    """Return a section as JSON values; `only` as in `model_dump`."""
    found: Tree = section.model_dump(mode="json", **only)
    return found


def methods(params: Params) -> Tree:
    """Return the settings of the chosen method, and LEAF's where its parts are used in another one."""
    chosen = [params.semisup.method, *(["leaf"] if any(on for _, on in params.semisup.leaf_parts) else [])]
    return {section_name(name): dump(METHODS.settings(name, params.methods)) for name in dict.fromkeys(chosen)}


def detectors(params: Params) -> Tree:
    """Return the settings of the chosen detectors."""
    settings = {name: dump(DETECTORS.settings(name, params.detectors)) for name in detectors_of(params.align)}
    return {"detectors": {section_name(name): values for name, values in settings.items()}}


def augmentations(params: Params, *stages: str) -> Tree:
    """Return the section `augmentations` with those that the stages' views name."""
    named = set(map(section_name, _views(params, *stages)))
    return {"augmentations": {name: dict(values) for name, values in params.augmentations.items() if name in named}}


def metrics(params: Params) -> Tree:
    """Return the settings of the chosen metrics that have any."""
    found = {section_name(name): METRICS.settings(name, params.metrics) for name in params.evaluate.metrics}
    return {name: values for name, section in found.items() if (values := dump(section))}


def semisup_settings(params: Params) -> Tree:
    """Return section semisup; `average` is null where the method's own average takes its place."""
    found, method = dump(params.semisup), METHODS[params.semisup.method]
    return found | ({} if method.running_average == "average" else {"average": None})


def detects_in_finetune(p: Params) -> bool:
    """Whether stage finetune runs the detector of stage align on its views."""
    return p.finetune.facemix.box_source == "detect"


def modules(stage: str, params: Params) -> list[str | Path]:
    """Return modules or files of the components that the settings choose, which no import names."""
    found: list[str | Path] = []
    if stage == "align":
        found += [SOURCES.module(kind) for kind in dict.fromkeys(s.kind for s in params.data.sources)]
    if stage == "align" or (stage == "finetune" and detects_in_finetune(params)):
        found += [DETECTORS.module(name) for name in detectors_of(params.align)]
    if is_own(params.model.backbone) and stage in ("pretrain", "finetune", "semisup", "evaluate", "robustness"):
        found.append(BACKBONES.module(params.model.backbone))
    found += [METHODS.module(params.semisup.method)] if stage in ("semisup", "evaluate") else []
    found += [METRICS.module(name) for name in (params.evaluate.metrics if stage == "evaluate" else ())]
    return [*found, *map(AUGMENTATIONS.module, _views(params, stage))]


def _views(params: Params, *stages: str) -> list[str]:
    """Return the names of the augmentations that these stages use."""
    return [getattr(getattr(params, stage), key) for stage, key in VIEWS if stage in stages]
