"""Stage semisup: a semi-supervised method on labelled and unlabelled faces (SSFER specification, section 10)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ssfer.checkpoint import Scratch
from ssfer.data.dataset import StepBatches, Stream
from ssfer.data.split import load_split
from ssfer.data.transforms import Strong, Transform, Weak
from ssfer.engine import Schedule, fit
from ssfer.errors import SsferError
from ssfer.history import Row
from ssfer.machine import Machine
from ssfer.methods import build_method
from ssfer.optim import adamw, multistep_lr, param_groups
from ssfer.params import Params
from ssfer.pipeline.common import (
    CURVES,
    MAIN_ARM,
    METRICS,
    WEIGHTS,
    curve_rows,
    load_classifier,
    save_classifier,
    split_dataset,
    summary,
    validator,
)
from ssfer.rng import derive
from ssfer.runtime import replace_dir, sha256_file, temp_dir_for, write_csv, write_json
from ssfer.tracking import Tracker

COLUMNS = (
    "epoch", "loss", "labeled_loss", "unlabeled_loss", "util_ratio", "pseudo_acc", "lr", "grad_norm",
    "val_accuracy", "val_loss",
)  # fmt: skip
NETWORKS = {"student": "student.", "teacher": "teacher.module."}


def run_semisup(params: Params) -> dict[str, Any] | None:
    """Train, then write data/weights/semisup, metrics/semisup.json and the curves; return the metrics.

    Of several processes the first writes; the others return None.
    """
    p, machine, split = params.semisup, Machine(params.machine), load_split()
    start = WEIGHTS / "finetune" / f"{MAIN_ARM[params.finetune.facemix.mode]}_last.safetensors"
    method = build_method(load_classifier(start, params, split), p)
    labeled, unlabeled = (split_dataset(split, part, params) for part in ("labeled", "unlabeled"))
    if len(unlabeled) == 0:
        raise SsferError("the split leaves no unlabeled image; stage semisup needs split.labeled_fraction below 1")
    weak = Weak(params.model.img_size, p.min_scale)
    views: dict[str, Transform] = {
        "w": weak,
        "s": Strong(params.model.img_size, p.min_scale, p.randaugment, params.model.mean),
    }
    n_lb, n_ulb = min(p.batch_size, len(labeled)), min(p.batch_size * p.uratio, len(unlabeled))
    streams = [
        Stream("ulb", unlabeled, n_ulb, {v: views[v] for v in method.views}, derive(p.seed, "ulb")),
        Stream("lb", labeled, n_lb, {"": weak}, derive(p.seed, "lb")),
    ]
    identity = {
        "semisup": p.model_dump(),
        "model": params.model.model_dump(),
        "split": split["hash"],
        "start": sha256_file(start),
    }

    def lr_at(epoch: float) -> float:
        if p.schedule == "multistep":
            return multistep_lr(math.floor(epoch), lr=p.lr, milestones=p.milestones, gamma=p.gamma)
        return p.lr

    with Scratch("semisup", identity) as scratch, Tracker("semisup", params, split["hash"]) as tracker:
        run = fit(
            method,
            adamw(param_groups(method, p.weight_decay, decay_all=True), p.lr),
            StepBatches(streams, p.epochs, machine.rank, machine.world),
            Schedule(lr_at, p.eval_every),
            machine=machine,
            model=params.model,
            seed=p.seed,
            checkpoints=scratch.checkpoints(p.method),
            label=f"semisup {p.method}",
            tracker=tracker,
            evaluate=validator(split_dataset(split, "valid", params), params, machine),
        )
        if machine.rank:
            return None
        folder = temp_dir_for(WEIGHTS / "semisup")
        states = {"last": method.state_dict()} | ({"best": run.best["state"]} if run.best else {})
        for when, state in states.items():
            for name, prefix in NETWORKS.items():
                part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
                if part:
                    save_classifier(folder / f"{name}_{when}.safetensors", part, params, split)
        replace_dir(folder, WEIGHTS / "semisup")
        history = [{**row, "pseudo_acc": _share(row["correct_count"], row["kept_count"])} for row in run.history]
        write_csv(CURVES / "semisup.csv", curve_rows(history, COLUMNS))
        write_csv(CURVES / "pseudo_labels.csv", pseudo_label_rows(history, split["classes"]))
        last = history[-1]
        result = {**summary(run), "util_ratio": round(last["util_ratio"], 6), "pseudo_acc": last["pseudo_acc"]}
        write_json(METRICS / "semisup.json", {"semisup": result})
        tracker.log_metrics(result)
        for name in ("semisup", "pseudo_labels"):
            tracker.log_file(CURVES / f"{name}.csv")
        scratch.discard()
    return result


def pseudo_label_rows(history: Sequence[Row], classes: Sequence[str]) -> list[Row]:
    """Return per epoch and true class: coverage (share kept) and accuracy of what was kept; blank where undefined."""
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
