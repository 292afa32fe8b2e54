"""Runs in MLflow's stores for the tests of tracking, and what stages leave in metrics/."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ssfer.config.schema import Params, load_params, parse_params

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ["generate", "align", "corpus", "split", "pretrain", "finetune", "semisup", "evaluate", "robustness"]


def make_params(**changes: Any) -> Params:
    """Shipped params.yaml with changes given as section__key=value."""
    raw = load_params(ROOT / "params.yaml").model_dump(mode="json")
    fixed = {"split__labeled_fraction": 0.1, "split__seed": 2024, "pretrain__lr": 0.002, "data__raw": "synthetic"}
    for name, value in (fixed | changes).items():
        section, key = name.split("__")
        raw[section][key] = value
    return parse_params(raw)


def client_of(root: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")


def all_runs(root: Path, name: str = "ssfer") -> list[Any]:
    client = client_of(root)
    return list(client.search_runs([client.get_experiment_by_name(name).experiment_id]))


def by_role(root: Path) -> tuple[Any, list[Any]]:
    """The single parent and the children, oldest first."""
    runs = all_runs(root)
    (parent,) = [r for r in runs if r.data.tags["ssfer.role"] == "pipeline"]
    children = sorted((r for r in runs if r is not parent), key=lambda r: r.info.start_time)
    return parent, children


def write_results(root: Path, stages: Iterable[str]) -> None:
    """Write what the stages leave in metrics/: one number each, and a curve of semisup."""
    (root / "metrics/curves").mkdir(parents=True, exist_ok=True)
    for number, stage in enumerate(stages):
        (root / f"metrics/{stage}.json").write_text(json.dumps({stage: {"figure": number, "name": "x"}}))
    (root / "metrics/curves/semisup.csv").write_text("epoch,loss\n0,1\n")
