"""Stage semisup: a semi-supervised method on labeled and unlabeled faces (SSFER specification, section 10)."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from ssfer.config.identity import identity
from ssfer.config.schema import Params
from ssfer.core.errors import unknown_name
from ssfer.core.files import new_dir, sha256_file, write_csv
from ssfer.core.places import CURVES, WEIGHTS
from ssfer.core.rng import derive
from ssfer.data.augmentations.base import Transform
from ssfer.data.augmentations.registry import build_augmentation
from ssfer.data.batches import StepBatches, Stream
from ssfer.data.dataset import FaceDataset
from ssfer.data.split import load_split
from ssfer.formats.metrics import write_metrics
from ssfer.methods.base import Method, SemiSupervised
from ssfer.methods.build import build_method
from ssfer.methods.facemix import MAIN_ARM
from ssfer.methods.registry import METHODS
from ssfer.methods.shared.imbalance import Population
from ssfer.stages.common import (
    Split,
    curve_rows,
    load_classifier,
    save_classifier,
    split_dataset,
    summary,
    validator,
)
from ssfer.stages.extra_faces import add_extra_faces, find_ensemble
from ssfer.stages.labeled_pass import labeled_pass_batches
from ssfer.tracking.tracker import Tracker
from ssfer.train.checkpoints import Scratch
from ssfer.train.device import Machine
from ssfer.train.loop import fit
from ssfer.train.metrics_history import Progression, Row
from ssfer.train.optim import build_optimizer, param_groups
from ssfer.train.plan import Callbacks, TrainingPlan

COLUMNS = (
    "epoch", "loss", "labeled_loss", "unlabeled_loss", "util_ratio", "pseudo_acc", "lr", "grad_norm",
    "val_accuracy", "val_loss",
)  # fmt: skip
PSEUDO_LABEL_COLUMNS = ("epoch", "class", "coverage", "accuracy")


def run_semisup(params: Params) -> dict[str, Any] | None:
    """Train, then write data/weights/semisup, metrics/semisup.json and the curves; return the metrics.

    The first of several processes writes; the others return None. Without unlabeled images (SSFER, Table 11) or with
    0 epochs nothing is trained: the fine-tuned weights, or with finetune.ema_decay their running average, are passed
    on, so that the later stages are the same.
    """
    p, machine, split = params.semisup, Machine(params.machine), load_split()
    start = WEIGHTS / "finetune" / f"{MAIN_ARM[params.finetune.facemix.mode]}_last.safetensors"
    student = load_classifier(start, params, split)
    labeled, unlabeled = (split_dataset(split, part, params, "semisup") for part in ("labeled", "unlabeled"))
    ensemble = find_ensemble(params)
    if p.epochs == 0 or (len(unlabeled) == 0 and not ensemble):
        if params.finetune.ema_decay is not None:
            student = load_classifier(start.with_name(start.name.replace("_last", "_ema_last")), params, split)
        return None if machine.rank else _pass_on(student, params, split)
    valid = split_dataset(split, "valid", params)
    inputs = {
        "split": split["hash"],
        "start": sha256_file(start),
        "crops": [faces.digest() for faces in (labeled, unlabeled, valid)],
        **({"extra": ensemble.identity()} if ensemble else {}),
    }
    with (
        Scratch("semisup", {**identity("semisup", params), "inputs": inputs}) as scratch,
        Tracker("semisup", params, split["hash"]) as tracker,
    ):
        extra: dict[str, Any] = {}
        if ensemble:
            unlabeled, counts = add_extra_faces(unlabeled, ensemble, params, split, machine, scratch.folder / "extra")
            extra = {"extra": counts}
        per_class = np.bincount(labeled.labels, minlength=len(split["classes"]))
        streams = build_streams(METHODS[p.method], labeled, unlabeled, params)
        steps = streams[0].steps_per_epoch * p.epochs
        population = Population(per_class.tolist(), len(unlabeled), steps, tuple(split["classes"]))
        method = build_method(student, p, params.methods, population)
        plan = TrainingPlan(
            method,
            build_optimizer(p.optimizer, param_groups(method, p.weight_decay, decay_all=True), p.lr, p.beta2),
            StepBatches(streams, p.epochs, machine.rank, machine.world, machine.augments),
            lambda epoch: p.lr,
            seed=p.seed,
            mean=params.model.mean,
            std=params.model.std,
            label=f"semisup {p.method}",
        )
        callbacks = Callbacks(
            evaluate=validator(valid, params, machine),
            eval_every=p.eval_every,
            labeled_batches=labeled_pass_batches(method.labeled_pass_views, labeled, params, machine),
            tracker=tracker,
        )
        run = fit(plan, machine, scratch.checkpoints(p.method), callbacks)
        if machine.rank:
            return None
        result = _write(method, run, params, split) | extra
        write_metrics("semisup", result)
        tracker.log_metrics(result)
        for name in ("semisup", "pseudo_labels"):
            tracker.log_file(CURVES / f"{name}.csv")
        scratch.discard()
    return result


def _write(method: SemiSupervised, run: Progression, params: Params, split: Split) -> dict[str, Any]:
    """Write weights and curves; return the metrics."""
    states = {"last": method.state_dict()} | ({"best": run.best["state"]} if run.best else {})
    with new_dir(WEIGHTS / "semisup") as folder:
        for when, state in states.items():
            method.load_state_dict(state)
            for name, network in method.networks().items():
                save_classifier(folder / f"{name}_{when}.safetensors", network, params, split)
    history = [{**row, "pseudo_acc": _share(row["correct_count"], row["kept_count"])} for row in run.history]
    write_csv(CURVES / "semisup.csv", curve_rows(history, (*COLUMNS, *own_columns(history))))
    write_csv(CURVES / "pseudo_labels.csv", pseudo_label_rows(history, split["classes"]))
    last = history[-1]
    return {**summary(run), "util_ratio": round(last["util_ratio"], 6), "pseudo_acc": last["pseudo_acc"]}


def _pass_on(student: nn.Module, params: Params, split: Split) -> dict[str, Any]:
    """Write the stage's outputs with the fine-tuned weights under the names of the method's networks."""
    why = "no unlabeled image" if params.semisup.epochs else "semisup.epochs is 0"
    print(f"semisup: {why}, the fine-tuned weights are passed on as they are", file=sys.stderr, flush=True)
    with new_dir(WEIGHTS / "semisup") as folder:
        for name in METHODS[params.semisup.method].exported(params.semisup.average):
            save_classifier(folder / f"{name}_last.safetensors", student, params, split)
    write_csv(CURVES / "semisup.csv", [], COLUMNS)
    write_csv(CURVES / "pseudo_labels.csv", [], PSEUDO_LABEL_COLUMNS)
    none = dict.fromkeys(("loss", "val_accuracy_last", "val_accuracy_best", "best_epoch", "util_ratio", "pseudo_acc"))
    result = {**none, "epochs": 0}
    write_metrics("semisup", result)
    return result


def build_streams(
    method: Method | type[Method], labeled: FaceDataset, unlabeled: FaceDataset, params: Params
) -> list[Stream]:
    """Return the streams of a step: unlabeled faces, whose passes are the epochs, and labeled ones.

    Batches are not larger than their data set; the views are those the method declares. Views of one kind are
    independent draws.

    Raises:
        SsferError: a view that is neither weak nor strong.
    """
    p = params.semisup
    names = {"w": p.weak_view, "s": p.strong_view}
    size, mean = params.model.img_size, params.model.mean
    kinds = {kind: build_augmentation(name, p, params.augmentations, size, mean) for kind, name in names.items()}

    def view(suffix: str) -> Transform:
        kind = suffix.rstrip("0123456789")
        if kind not in kinds:
            raise unknown_name(f"view that method {p.method} needs", suffix, kinds)
        return kinds[kind]

    targets = labeled.vote_shares() if p.targets == "votes" else None
    n_lb, n_ulb = min(p.batch_size, len(labeled)), min(p.batch_size * p.uratio, len(unlabeled))
    return [
        Stream("ulb", unlabeled, n_ulb, {v: view(v) for v in method.views}, derive(p.seed, "ulb")),
        Stream("lb", labeled, n_lb, {"": view(method.labeled_view)}, derive(p.seed, "lb"), targets=targets),
    ]


def own_columns(history: Sequence[Row]) -> list[str]:
    """Return the names of metrics that not all methods report, such as text_loss, in alphabetical order."""
    return sorted({k for row in history for k, v in row.items() if not isinstance(v, list)} - set(COLUMNS))


def pseudo_label_rows(history: Sequence[Row], classes: Sequence[str]) -> list[Row]:
    """Return per epoch and true class coverage (share kept) and accuracy of the kept faces; None if undefined."""
    return [
        {
            "epoch": row["epoch"],
            "class": name,
            "coverage": _share([row["kept_count"][i]], [row["class_count"][i]]),
            "accuracy": _share([row["correct_count"][i]], [row["kept_count"][i]]),
        }
        for row in history
        for i, name in enumerate(classes)
    ]


def _share(part: Sequence[int], whole: Sequence[int]) -> float | None:
    return round(sum(part) / sum(whole), 6) if sum(whole) else None
