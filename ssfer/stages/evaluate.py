"""Stage evaluate: tests every model once on the test part; only stage robustness also uses it (SSFER section 11).

It also fits the temperature of the headline model on the validation part, and writes data/weights/model.safetensors.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import nn

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.files import sha256_json, write_csv
from ssfer.core.places import FACES, METRICS, WEIGHTS
from ssfer.data.dataset import FaceDataset
from ssfer.data.split import load_split, open_test_part
from ssfer.evaluation.calibration import calibrated, fit_temperature
from ssfer.evaluation.inference import predict
from ssfer.evaluation.metric import own_metrics
from ssfer.evaluation.metrics import DIGITS, ECE_BINS, accuracy, expected_calibration_error, summarize
from ssfer.formats.manifest import read_manifest, shows_no_face
from ssfer.formats.metrics import write_metrics
from ssfer.methods.registry import METHODS, headline_of
from ssfer.models.classifier import parts_of
from ssfer.stages.common import Split, arms, load_classifier, passed_on, split_dataset, stored_faces
from ssfer.stages.trained_model import write_trained_model
from ssfer.tracking.tracker import Tracker
from ssfer.train.device import Machine


def run_evaluate(params: Params) -> dict[str, Any]:
    """Evaluate every arm, last and validation-selected; write metrics/evaluate.json, confusion.csv and the model.

    Raises:
        SsferError: no test image, or a headline that the method does not train.
    """
    p, split, machine = params.evaluate, load_split(), Machine(params.machine)
    classes = split["classes"]
    method = METHODS[params.semisup.method]
    chosen = headline_of(params.semisup.method, params.semisup.average, p.headline)
    paths = {name: WEIGHTS / "finetune" / name for name in arms(params.finetune)}
    averages = {f"{name}_ema": path.with_name(f"{name}_ema") for name, path in paths.items()}
    paths |= {k: path for k, path in averages.items() if path.with_name(f"{k}_last.safetensors").exists()}
    arm = passed_on(chosen)
    if arm is None:
        paths |= {name: WEIGHTS / "semisup" / name for name in method.exported(params.semisup.average)}
    else:
        _say(f"{params.semisup.method} trained nothing, so the result is that of {arm} and carries its name")
        chosen = arm
    with Tracker("evaluate", params, split["hash"]) as tracker:
        ids = open_test_part(split)
        if not ids:
            raise SsferError("the split has no test image; a labeled source must have images with usage 'test'")
        test = stored_faces(split, ids, params)
        models: dict[str, dict[str, Any]] = {}
        headline: np.ndarray[Any, Any] | None = None
        calibration: dict[str, Any] = {}
        for name, stem in paths.items():
            for when in ("last", "best"):
                path = stem.with_name(f"{stem.name}_{when}.safetensors")
                if when == "best" and not path.exists():
                    continue
                model = load_classifier(path, params, split).to(machine.device)
                probs = predict(model, test, machine=machine, model=params.model)
                models.setdefault(name, {})[when] = _measured(model, probs, test, classes, params, machine)
                if (name, when) == (chosen, "last"):
                    headline = probs
                    calibration = _calibrate(model, probs, test.labels, params, split, machine)
        assert headline is not None
        counts = np.bincount(test.labels, minlength=len(classes))
        result = {
            "test_images": len(test),
            "test_sha256": sha256_json(ids),  # of the ids, in the order of confusion.csv
            "classes": list(classes),
            "chance": round(1 / len(classes), 6),
            "majority_class": classes[int(counts.argmax())],
            "majority_rate": round(float(counts.max() / counts.sum()), 6),
            "headline_model": f"{chosen}_last",
            "headline": models[chosen]["last"],
            "calibration": calibration,
            "models": models,
            **({} if arm is None else {"trained_nothing": params.semisup.method}),
            **_without_face(split, test, headline),
        }
        write_trained_model(
            paths[chosen].with_name(f"{chosen}_last.safetensors"), calibration["temperature"], params, split
        )
        write_metrics("evaluate", result)
        sure = calibrated(headline, calibration["temperature"])
        rows = [
            {"actual": classes[y], "predicted": classes[int(p.argmax())], "confidence": round(float(p.max()), 3)}
            for y, p in zip(test.labels, sure, strict=True)
        ]
        write_csv(METRICS / "confusion.csv", rows)
        tracker.log_metrics(result)
        tracker.log_file(METRICS / "confusion.csv")
    return result


def _measured(
    model: nn.Module,
    probs: np.ndarray[Any, Any],
    test: FaceDataset,
    classes: Sequence[str],
    params: Params,
    machine: Machine,
) -> dict[str, Any]:
    """Return the metrics of a model's probabilities, its own metrics and the accuracy of each of its levels."""
    found = summarize(probs, test.labels, classes)
    found |= own_metrics(params.evaluate.metrics, params.metrics, probs, test.labels, classes, found)
    if parts := parts_of(model):
        found["levels"] = {
            level: round(accuracy(predict(part, test, machine=machine, model=params.model), test.labels), 6)
            for level, part in parts.items()
        }
    return found


def _calibrate(
    model: nn.Module,
    probs: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    params: Params,
    split: Split,
    machine: Machine,
) -> dict[str, Any]:
    """Return the temperature fitted on the validation part, and the test part's calibration error with it.

    Args:
        model: the headline model.
        probs, labels: of the test part; not used in the fit.
    """
    valid = split_dataset(split, "valid", params)
    if len(valid) == 0:
        return {"temperature": 1.0, "validation_images": 0}
    temperature = fit_temperature(predict(model, valid, machine=machine, model=params.model), valid.labels)
    ece = expected_calibration_error(calibrated(probs, temperature), labels, ECE_BINS)
    return {"temperature": temperature, "validation_images": len(valid), "ece_calibrated": round(ece, DIGITS)}


def _without_face(split: Mapping[str, Any], test: FaceDataset, probs: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return the headline model's accuracy on test images without a detected face and on others; {} if all have one.

    Args:
        split: names the sources.
        test: the test part.
        probs: (n, K) of the headline model.
    """
    tables = [read_manifest(FACES / name) for name in split["sources"]]
    faceless = pa.concat_tables([t.filter(shows_no_face(t)).select(["sample_id"]) for t in tables])["sample_id"]
    some = pc.is_in(pa.array(test.ids), value_set=faceless.combine_chunks()).to_numpy(zero_copy_only=False)
    if not some.any():
        return {}
    found = {"test_images": int(some.sum()), "accuracy": round(accuracy(probs[some], test.labels[some]), 6)}
    others = {}
    if not some.all():
        others["accuracy_of_others"] = round(accuracy(probs[~some], test.labels[~some]), 6)
    _say(
        f"no face was found in {found['test_images']:,} of the {len(test):,} test images; see no_face in evaluate.json"
    )
    return {"no_face": {**found, **others}}


def _say(sentence: str) -> None:
    print(f"evaluate: {sentence}", file=sys.stderr, flush=True)
