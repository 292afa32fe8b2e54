"""Stage evaluate: every file of weights is measured once on the test part, with the settings of its section."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from ssfer.core.places import WEIGHTS
from ssfer.data.split import load_split, open_test_part
from ssfer.evaluation.inference import predict
from ssfer.evaluation.metrics import summarize
from ssfer.stages.common import load_classifier, save_classifier, seeded_classifier, stored_faces
from ssfer.stages.evaluate import run_evaluate
from ssfer.train.device import Machine
from tests.support import factory

NAMES = ("finetune/plain", "finetune/facemix", "semisup/student", "semisup/teacher")


def test_each_model_is_measured_on_the_test_part_and_the_headlines_last_weights_are_shown(project: Path) -> None:
    factory.write_project(project)
    params = factory.tiny_params(
        model={"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
        finetune={"baselines": ["plain"]},
    )
    split = load_split()
    files = [WEIGHTS / f"{name}_{when}.safetensors" for name in NAMES for when in ("last", "best")]
    for seed, path in enumerate(files):
        network = seeded_classifier(params, 3, seed)
        with torch.no_grad():
            network.head.weight.normal_(0, 0.1)  # type: ignore[operator,union-attr]
        save_classifier(path, network.state_dict(), params, split)
    test, machine = stored_faces(split, open_test_part(split), params), Machine(params.machine)
    result = run_evaluate(params)
    assert list(result["models"]) == [name.partition("/")[2] for name in NAMES]
    found, expected = [], []
    for path in files:
        name, when = path.stem.rsplit("_", 1)
        probs = predict(load_classifier(path, params, split), test, machine=machine, model=params.model)
        expected.append(summarize(probs, test.labels, split["classes"]))
        found.append(result["models"][name][when])
        if path.stem == "teacher_last":
            told = [split["classes"][k] for k in probs.argmax(axis=1)]
    assert found == expected and len({m["cross_entropy"] for m in found}) == len(files)
    assert result["headline"] == result["models"]["teacher"]["last"]
    with open("metrics/confusion.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["predicted"] for row in rows] == told
    assert [row["actual"] for row in rows] == [split["classes"][k] for k in test.labels]
    assert result["majority_rate"] == pytest.approx(np.bincount(test.labels).max() / 12, abs=1e-6)
