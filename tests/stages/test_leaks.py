"""What each stage learns from: one part of the split is poisoned at a time, and only named outputs may change."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssfer.config.schema import Params
from ssfer.core.places import ENCODER
from ssfer.data.split import load_split
from ssfer.formats.metrics import read_metrics
from ssfer.formats.weights import load_weights, save_weights
from ssfer.models.classifier import metadata
from ssfer.models.vit import HEAD_KEYS
from ssfer.stages.common import save_classifier, seeded_classifier
from ssfer.stages.evaluate import run_evaluate
from ssfer.stages.finetune import run_finetune
from ssfer.stages.pretrain import run_pretrain
from ssfer.stages.robustness import run_robustness
from ssfer.stages.semisup import run_semisup
from tests.support import factory

STAGES: dict[str, Callable[[Params], Any]] = {
    "pretrain": run_pretrain,
    "finetune": run_finetune,
    "semisup": run_semisup,
    "evaluate": run_evaluate,
    "robustness": run_robustness,
}
MODELS = ("finetune/facemix", "semisup/student", "semisup/teacher")
LAST = r"_last/"  # the weights of the last epoch, which the headline is measured on
SELECTION = r"_best/|val_|best_epoch"  # what the validation part is for
MONITORS = r"pseudo_acc|accuracy|correct"  # true classes of unlabeled images: shown, never trained on
EVERYTHING, NOTHING = r"", r"$^"
# stage, poisoned parts, what is poisoned, what has to change, what may change.
CASES = [
    ("pretrain", "labeled valid unlabeled test", "noise mislabeled", None, NOTHING),
    ("finetune", "labeled", "noise", LAST, EVERYTHING),
    ("finetune", "labeled", "mislabeled", LAST, EVERYTHING),
    ("finetune", "valid", "noise", "val_loss", SELECTION),
    ("finetune", "valid", "mislabeled", "val_loss", SELECTION),
    ("finetune", "unlabeled test", "noise mislabeled", None, NOTHING),
    ("semisup", "labeled", "noise", LAST, EVERYTHING),
    ("semisup", "labeled", "mislabeled", LAST, EVERYTHING),
    ("semisup", "unlabeled", "noise", LAST, EVERYTHING),
    ("semisup", "unlabeled", "mislabeled", "pseudo_acc", MONITORS),
    ("semisup", "valid", "noise", "val_loss", SELECTION),
    ("semisup", "valid", "mislabeled", "val_loss", SELECTION),
    ("semisup", "test", "noise mislabeled", None, NOTHING),
    ("evaluate", "test", "noise", "headline", EVERYTHING),
    ("evaluate", "test", "mislabeled", "headline", EVERYTHING),
    ("evaluate", "labeled unlabeled", "noise mislabeled", None, NOTHING),
    ("evaluate", "valid", "noise mislabeled", "temperature", "temperature|calibrated"),
    ("robustness", "test", "noise", "metrics", EVERYTHING),
    ("robustness", "test", "mislabeled", "metrics", EVERYTHING),
    ("robustness", "labeled valid unlabeled", "noise mislabeled", None, NOTHING),
]


def flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested metrics with their full names, without hashes of the split."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key != "split":
                yield from flat(inner, f"{name}/{key}")
    else:
        yield name, value


def outputs(stage: str) -> dict[str, Any]:
    """Return what a stage wrote: tensors, metrics and columns of curves by name."""
    found = dict(flat(read_metrics(stage), "metrics"))
    for path in Path("metrics").rglob("*.csv"):
        with open(path) as file:
            rows = list(csv.DictReader(file))
        found |= {f"{path.stem}/{column}": [row[column] for row in rows] for column in (rows[0] if rows else ())}
    for path in Path("data/weights", stage).glob("*.safetensors"):
        found |= {f"{path.stem}/{k}": v.numpy().tobytes() for k, v in load_weights(path)[0].items()}
    return found


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Return a function that runs a stage on a poisoned project, once each, and returns its outputs."""

    @cache
    def run(stage: str, noise: str = "", mislabeled: str = "") -> dict[str, Any]:
        root = tmp_path_factory.mktemp(stage)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            patch.setenv("DVC_ROOT", str(root))
            factory.write_project(root, noise.split(), mislabeled.split())
            params = factory.tiny_params(
                finetune={"baselines": [], "lr_max": 0.01},
                semisup={"lr": 0.01, "epochs": 3},
                methods={"ema_teacher": {"threshold": 0.3}},
                robustness={"epsilons": [0.0, 0.01]},
            )
            if stage != "pretrain":
                write_models(params)
            torch.manual_seed(0)
            STAGES[stage](params)
            return outputs(stage)

    return run


def write_models(params: Params) -> None:
    """Write the weights that stages start from or evaluate; each is wrong and right about some images."""
    split, model = load_split(), seeded_classifier(params, 3, 1)
    state = {
        k: torch.from_numpy(np.random.RandomState(3).normal(0, 0.3, v.shape)).float()
        for k, v in model.state_dict().items()
    }
    encoder = {k: v for k, v in model.state_dict().items() if k not in HEAD_KEYS}
    save_weights(ENCODER, encoder, metadata("encoder", params.model, "x", "y"))
    for name in MODELS:
        save_classifier(Path(f"data/weights/{name}_last.safetensors"), state, params, split)


@pytest.mark.parametrize(("stage", "parts", "poison", "has_to", "may"), CASES, ids=lambda v: str(v).replace(" ", "+"))
def test_a_part_of_the_split_changes_only_what_it_is_for(
    result: Callable[..., dict[str, Any]], stage: str, parts: str, poison: str, has_to: str | None, may: str
) -> None:
    clean, poisoned = result(stage), result(stage, **dict.fromkeys(poison.split(), parts))
    assert clean.keys() == poisoned.keys()
    changed = {name for name in clean if clean[name] != poisoned[name]}
    assert [name for name in changed if not re.search(may, name)] == []
    assert has_to is None or any(re.search(has_to, name) for name in changed)
    if stage in ("finetune", "semisup"):  # what the patterns are about is there
        assert all(any(word in name for name in clean) for word in ("_last/", "_best/", "/val_loss", "metrics/"))
