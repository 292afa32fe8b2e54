"""Stage evaluate: every file of weights is measured once on the test part, with the settings of its section."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from ssfer.config.schema import Params
from ssfer.core.places import TRAINED_MODEL, WEIGHTS
from ssfer.data.split import load_split, open_test_part
from ssfer.evaluation.calibration import calibrated, fit_temperature
from ssfer.evaluation.inference import predict
from ssfer.evaluation.metrics import expected_calibration_error, summarize
from ssfer.formats.manifest import MANIFEST_NAME, fingerprint, read_manifest, write_manifest
from ssfer.formats.weights import load_weights
from ssfer.predict.crop import recipe_of
from ssfer.stages.common import load_classifier, save_classifier, seeded_classifier, split_dataset, stored_faces
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
            headline, told = probs, [split["classes"][k] for k in probs.argmax(axis=1)]
    assert found == expected and len({m["cross_entropy"] for m in found}) == len(files)
    assert result["headline"] == result["models"]["teacher"]["last"]
    with open("metrics/confusion.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["predicted"] for row in rows] == told
    sure = [row.max() for row in calibrated(headline, result["calibration"]["temperature"])]
    assert [float(row["confidence"]) for row in rows] == pytest.approx(sure, abs=6e-4)
    assert [row["actual"] for row in rows] == [split["classes"][k] for k in test.labels]
    assert result["majority_rate"] == pytest.approx(np.bincount(test.labels).max() / 12, abs=1e-6)


def write_two_models(params: Params) -> None:
    for seed, name in enumerate(("finetune/facemix", "semisup/student", "semisup/teacher")):
        network = seeded_classifier(params, 3, seed)
        with torch.no_grad():
            network.head.weight.normal_(0, 1)  # type: ignore[operator,union-attr]
        save_classifier(WEIGHTS / f"{name}_last.safetensors", network.state_dict(), params, load_split())


def test_the_model_handed_on_is_the_headlines_with_a_temperature_of_the_validation_part(project: Path) -> None:
    factory.write_project(project)
    params = factory.tiny_params(finetune={"baselines": []}, align={"outside": "blur", "quality": 90, "min_face": 0.05})
    write_two_models(params)
    result = run_evaluate(params)
    split = load_split()
    state, meta = load_weights(TRAINED_MODEL)
    original, _ = load_weights(WEIGHTS / "semisup/teacher_last.safetensors")
    assert all(torch.equal(state[key], original[key]) for key in original) and state.keys() == original.keys()
    network, machine = load_classifier(TRAINED_MODEL, params, split), Machine(params.machine)
    valid = split_dataset(split, "valid", params)
    temperature = fit_temperature(predict(network, valid, machine=machine, model=params.model), valid.labels)
    assert meta["temperature"] == result["calibration"]["temperature"] == temperature != 1
    assert result["calibration"]["validation_images"] == 6
    test = stored_faces(split, open_test_part(split), params)
    probs = calibrated(predict(network, test, machine=machine, model=params.model), temperature)
    ece = expected_calibration_error(probs, test.labels, 15)
    assert result["calibration"]["ece_calibrated"] == pytest.approx(ece, abs=1e-6) != result["headline"]["ece"]
    recipe = recipe_of(meta, TRAINED_MODEL)
    assert (recipe.detector, recipe.outside, recipe.quality, recipe.size) == ("mtcnn", "blur", 90, 64)
    assert recipe.points is None and recipe.turned and recipe.min_face == 0.05


def test_without_a_validation_part_the_temperature_is_1(project: Path) -> None:
    factory.write_project(project)
    factory.change_split(valid=[])
    params = factory.tiny_params(finetune={"baselines": []})
    write_two_models(params)
    assert run_evaluate(params)["calibration"] == {"temperature": 1.0, "validation_images": 0}
    assert load_weights(TRAINED_MODEL)[1]["temperature"] == 1.0


def test_of_ready_made_crops_the_places_of_their_landmarks_are_handed_on(project: Path) -> None:
    factory.write_project(project)
    manifest = project / "data/faces/faces" / MANIFEST_NAME
    rows = read_manifest(manifest.parent).to_pylist()
    labeled = set(load_split()["labeled"])
    for i, row in enumerate(rows):
        # An image of 48 px resized to 24: a landmark at its pixel x lies at (x - 0.5) / 2 of the crop.
        points = [[10.5 + i % 3, 20.5], [30.5, 20.5], [20.5, 28.5], [12.5, 38.5], [28.5, 38.5]]
        row |= {"crop_recipe": "resize-v1-24", "matrix": [0.5, 0, -0.25, 0, 0.5, -0.25]}
        row["landmarks"] = [v for point in points for v in point] if row["sample_id"] in labeled else [0.0] * 10
    write_manifest(rows, manifest)
    tables = [read_manifest(project / "data/faces" / name) for name in ("faces", "exam")]
    factory.change_split(faces_fingerprint=fingerprint(pa.concat_tables(tables)))
    params = factory.tiny_params(finetune={"baselines": []})
    write_two_models(params)
    run_evaluate(params)
    recipe = recipe_of(load_weights(TRAINED_MODEL)[1], TRAINED_MODEL)
    assert recipe.points is not None and not recipe.turned
    assert recipe.points[0] == pytest.approx((0.25, 21 / 48), abs=1e-5)  # (11.5 + 0.5) / 48 in the middle
    assert recipe.points[4] == pytest.approx((29 / 48, 39 / 48), abs=1e-5)
