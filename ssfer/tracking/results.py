"""Find in dvc.yaml the files with the results of a stage and of the stages before it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ssfer.core.yaml import read_yaml

PIPELINE = Path("dvc.yaml")


def stages_before(stage: str, raw: str, pipeline: Path = PIPELINE) -> list[str]:
    """Return the stages whose outputs a stage needs, directly or not, in the order of dvc.yaml.

    Args:
        stage: its name in dvc.yaml.
        raw: data.raw, which replaces ${data.raw} in the paths of dvc.yaml.
        pipeline: path of dvc.yaml.
    """
    stages = read_yaml(pipeline)["stages"]
    found, left = set(), [stage]
    while left:
        needed = [PurePosixPath(p.replace("${data.raw}", raw)) for p in _paths(stages[left.pop()], "deps")]
        for name, content in stages.items():
            made = [PurePosixPath(path) for path in _paths(content, "outs", "metrics", "plots")]
            if name not in found and any(a.is_relative_to(b) or b.is_relative_to(a) for a in needed for b in made):
                found.add(name)
                left.append(name)
    return [name for name in stages if name in found]


def result_files(stage: str) -> list[Path]:
    """Return the existing files among a stage's metrics and curves, metrics first."""
    content = read_yaml(PIPELINE)["stages"][stage]
    return [path for path in map(Path, _paths(content, "metrics", "plots")) if path.is_file()]


def _paths(stage: Mapping[str, Any], *kinds: str) -> list[str]:
    entries = [entry for kind in kinds for entry in stage.get(kind, ())]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
