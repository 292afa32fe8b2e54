"""metrics/<stage>.json: a few numbers for DVC's tables, and the whole result beside them.

    {"evaluate": {"accuracy": 0.84, "ece": 0.03, ..., "details": [{the whole result}]}}

DVC shows numbers in mappings and leaves lists out, so `dvc exp show` and `dvc metrics diff` print only the few numbers.
The details are not a file of their own, because DVC has no run-cache for stages with plain outputs that git keeps.
Curves and confusion matrices are CSV files elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ssfer.core.errors import SsferError
from ssfer.core.files import read_json, write_json
from ssfer.core.places import METRICS

DETAILS = "details"
MAIN_ARMS = ("facemix", "mixup", "plain")  # variants of fine-tuning; the first that a run has is its main one
# Statuses of files in which no face was looked for.
NOT_READ = ("missing", "unreadable", "empty", "too_large", "too_small")

Details = Mapping[str, Any]


def write_metrics(stage: str, details: Details, folder: Path = METRICS) -> None:
    """Write metrics/<stage>.json: the stage's few numbers, and `details`, its whole result."""
    write_json(folder / f"{stage}.json", {stage: {**summary(stage, details), DETAILS: [details]}})


def read_metrics(stage: str, folder: Path = METRICS) -> dict[str, Any]:
    """Return the details of metrics/<stage>.json.

    Raises:
        SsferError: the file is missing, damaged or of another stage.
    """
    path = folder / f"{stage}.json"
    try:
        return details_of(read_json(path), stage)
    except (KeyError, TypeError, IndexError) as error:
        raise SsferError(
            f"{path} should hold the results of '{stage}', but it has no such section; run dvc repro {stage}"
        ) from error


def details_of(content: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Return the details in a file's content; files of older versions hold nothing else.

    Raises:
        KeyError, TypeError, IndexError: it has no such section.
    """
    section = content[stage]
    found = section[DETAILS][0] if DETAILS in section else section
    if not isinstance(found, dict):
        raise TypeError(type(found).__name__)
    return found


def summary(stage: str, details: Details) -> dict[str, float]:
    """Return the few numbers of a stage that DVC's tables show, without those that are None or missing."""
    numbers = SUMMARIES[stage](details)
    return {name: value for name, value in numbers.items() if value is not None}


def _chosen(*names: str) -> Callable[[Details], dict[str, Any]]:
    return lambda details: {name: details.get(name) for name in names}


def _generate(details: Details) -> dict[str, Any]:
    return {"photos": sum(details["images"].values()), "people": sum(details["identities"].values())}


def _align(details: Details) -> dict[str, Any]:
    totals = {key: sum(source[key] for source in details.values()) for key in ("images", "stored", "face_found")}
    statuses = [source["status"] for source in details.values()]
    return {
        **totals,
        "no_face": sum(status.get("no_face", 0) for status in statuses),
        "unreadable": sum(status.get(name, 0) for status in statuses for name in NOT_READ),
    }


def _corpus(details: Details) -> dict[str, Any]:
    return {**_chosen("considered", "kept")(details), "dropped": sum(details["dropped"].values())}


def _finetune(details: Details) -> dict[str, Any]:
    main: Details = next((details[arm] for arm in MAIN_ARMS if arm in details), {})
    return _chosen("loss", "epochs", "val_accuracy_last", "val_accuracy_best")(main)


def _evaluate(details: Details) -> dict[str, Any]:
    found = _chosen("accuracy", "mean_recall", "macro_f1", "cross_entropy", "ece")(details["headline"])
    without = details.get("no_face", {}).get("test_images")  # images in which no face was found
    return {**found, "test_images": details["test_images"], "without_face": without}


def _robustness(details: Details) -> dict[str, Any]:
    measured: Details = next(iter(details["models"].values()), {})
    if not measured:
        return {}
    largest = max(measured["focused"], key=float)
    regions = [name for name, found in measured.items() if isinstance(found, dict)]
    attacked = {region: measured[region][largest]["accuracy"] for region in regions}
    return {"clean": measured["focused"]["0"]["accuracy"], **attacked}


SUMMARIES: Mapping[str, Callable[[Details], dict[str, Any]]] = {
    "generate": _generate,
    "align": _align,
    "corpus": _corpus,
    "split": _chosen("labeled", "valid", "unlabeled", "test"),
    "pretrain": _chosen("loss", "epochs", "images"),
    "finetune": _finetune,
    "semisup": _chosen("loss", "epochs", "util_ratio", "pseudo_acc", "val_accuracy_last"),
    "evaluate": _evaluate,
    "robustness": _robustness,
}
