"""Stage finetune: supervised training on the labeled part, with FaceMix (SSFER specification, sections 8 and 9).

It also trains the baselines that show the effect of each step: `scratch` (no pretraining, no mixing) and `plain`
(pretraining, no mixing), on the same labels with the same schedule.
"""

from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssfer.config.identity import identity
from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.files import new_dir, sha256_file, write_csv
from ssfer.core.places import CURVES, ENCODER, WEIGHTS
from ssfer.core.rng import derive
from ssfer.data.augmentations.registry import build_augmentation
from ssfer.data.batches import StepBatches, Stream
from ssfer.data.dataset import FaceDataset
from ssfer.data.split import load_split
from ssfer.formats.metrics import write_metrics
from ssfer.formats.weights import load_weights
from ssfer.methods.base import Method
from ssfer.methods.facemix import MAIN_ARM, BoxDetector, FaceMix
from ssfer.models.vit import load_encoder
from ssfer.stages.common import (
    arms,
    curve_rows,
    save_classifier,
    seeded_classifier,
    split_dataset,
    summary,
    validator,
)
from ssfer.tracking.tracker import Tracker
from ssfer.train.checkpoints import Checkpoints, Scratch
from ssfer.train.device import Machine
from ssfer.train.loop import fit
from ssfer.train.metrics_history import Progression, Row
from ssfer.train.optim import build_optimizer, epoch_in_force, finetune_lr, param_groups
from ssfer.train.plan import Callbacks, TrainingPlan
from ssfer.train.settings import FinetuneSettings

COLUMNS = ("epoch", "loss", "lr", "grad_norm", "train_accuracy", "val_accuracy", "val_loss")
NETWORKS = {"": "student.", "_ema": "average.module."}


def epochs_and_batch(params: FinetuneSettings, labeled: int) -> tuple[int, int]:
    """Return (epochs, batch size): more epochs for few labels, an even batch not larger than the labeled part.

    Raises:
        SsferError: fewer than two labeled images, which cannot be paired.
    """
    if labeled < 2:
        raise SsferError(f"FaceMix pairs images and needs at least 2 labeled ones, found {labeled}; raise the budget")
    epochs = params.epochs_few_labels if labeled < params.few_labels else params.epochs
    return epochs, min(params.batch_size, labeled // 2 * 2)


def check_pairs(batch: int, world: int) -> None:
    """Refuse a batch whose pairs cannot be divided equally over the processes.

    Raises:
        SsferError: they cannot; names both numbers.
    """
    if batch % (2 * world):
        raise SsferError(
            f"FaceMix pairs images, and the {batch // 2} pairs of finetune's batch of {batch} do not divide over "
            f"{world} processes; change finetune.batch_size or the number of processes"
        )


def run_finetune(params: Params) -> dict[str, Any] | None:
    """Train all arms, then write data/weights/finetune, metrics/finetune.json and the curves; return the metrics.

    The first of several processes writes; the others return None.
    """
    split, machine = load_split(), Machine(params.machine)
    encoder, _ = load_weights(ENCODER, "encoder")
    labeled = split_dataset(split, "labeled", params)
    valid = split_dataset(split, "valid", params)
    detect = view_detector(params, machine)
    check_pairs(epochs_and_batch(params.finetune, len(labeled))[1], machine.world)
    inputs = {"split": split["hash"], "encoder": sha256_file(ENCODER), "crops": [labeled.digest(), valid.digest()]}
    if detect is not None:
        labeled.forget_boxes()
    results: dict[str, Any] = {}
    rows: dict[str, list[Row]] = {}
    with (
        Scratch("finetune", {**identity("finetune", params), "inputs": inputs}) as scratch,
        Tracker("finetune", params, split["hash"]) as tracker,
    ):
        load_encoder(seeded_classifier(params, len(split["classes"]), 0), encoder)  # fails before any training
        states: dict[str, Any] = {}
        for arm, mixing in arms(params.finetune).items():
            model = seeded_classifier(params, len(split["classes"]), derive(params.finetune.seed, "init"))
            if arm != "scratch":
                load_encoder(model, encoder)
            shift = log_prior(labeled, len(split["classes"]), params.finetune.logit_adjustment)
            method = FaceMix(model, mixing, params.model, params.finetune.ema_decay, detect, shift)
            own_tracker = tracker if arm == MAIN_ARM[params.finetune.facemix.mode] else None
            run = train(
                method, labeled, valid, params, machine, scratch.checkpoints(arm), f"finetune {arm}", own_tracker
            )
            states |= _networks(arm, method, run)
            rows[arm] = curve_rows(run.history, COLUMNS, arm=arm)
            results[arm] = summary(run)
        if machine.rank:
            return None
        with new_dir(WEIGHTS / "finetune") as folder:
            for name, state in states.items():
                save_classifier(folder / f"{name}.safetensors", state, params, split)
        main = MAIN_ARM[params.finetune.facemix.mode]
        write_csv(CURVES / "finetune.csv", rows.pop(main))
        write_csv(CURVES / "finetune_baselines.csv", list(chain(*rows.values())), ["arm", *COLUMNS])
        write_metrics("finetune", results)
        tracker.log_metrics(results)
        tracker.log_file(CURVES / "finetune.csv")
        scratch.discard()
    return results


def train(
    method: Method,
    labeled: FaceDataset,
    valid: FaceDataset,
    params: Params,
    machine: Machine,
    checkpoints: Checkpoints,
    label: str,
    tracker: Tracker | None = None,
) -> Progression:
    """Train one method on the labeled faces with the schedule of stage 2; `label` is shown in the progress line."""
    p = params.finetune
    epochs, batch = epochs_and_batch(p, len(labeled))
    views = {"": build_augmentation(p.view, p, params.augmentations, params.model.img_size, params.model.mean)}
    targets = labeled.vote_shares() if p.targets == "votes" else None
    stream = Stream("lb", labeled, batch, views, derive(p.seed, "lb"), p.facemix.fallback_frame, targets)

    def lr_at(epoch: float) -> float:
        return finetune_lr(
            epoch_in_force(epoch, p.lr_lag_one_step),
            epochs=epochs,
            lr_max=p.lr_max,
            lr_min=p.lr_min,
            lr_warm=p.lr_warm,
            warmup_epochs=p.warmup_epochs,
            cosine_fraction=p.cosine_fraction,
        )

    training = TrainingPlan(
        method,
        build_optimizer(p.optimizer, param_groups(method, p.weight_decay, decay_all=True), p.lr_max),
        StepBatches([stream], epochs, machine.rank, machine.world, machine.augments),
        lr_at,
        seed=p.seed,
        mean=params.model.mean,
        std=params.model.std,
        label=label,
    )
    callbacks = Callbacks(evaluate=validator(valid, params, machine), eval_every=p.eval_every, tracker=tracker)
    return fit(training, machine, checkpoints, callbacks)


def log_prior(labeled: FaceDataset, classes: int, tau: float) -> Tensor | None:
    """Return tau times the log of each class's share of the labeled images (K,), as a shift of logits; None for tau 0.

    A class without a labeled image counts as if it had one.
    """
    if tau == 0:
        return None
    counts = torch.from_numpy(np.bincount(labeled.labels, minlength=classes)).clamp(min=1)
    return tau * (counts / counts.sum()).log()


def view_detector(params: Params, machine: Machine) -> BoxDetector | None:
    """Return a function that detects faces on views, with `align`'s detector and threshold; None if not needed."""
    mixing, align = params.finetune.facemix, params.align
    if (mixing.mode, mixing.kappa, mixing.box_source) != ("facemix", "iou", "detect"):
        return None
    from ssfer.faces.detectors import registry  # imported here because few runs need it
    from ssfer.faces.views import view_boxes

    settings = registry.DETECTORS.settings(align.detector, params.detectors)
    detector = registry.build_detector(align.detector, settings, str(machine.device))
    return view_boxes(detector, align.box_min_score)


def _networks(arm: str, method: Method, run: Progression) -> dict[str, dict[str, Any]]:
    """Return file name -> weights: <arm>_last and, chosen on the validation part, <arm>_best.

    With finetune.ema_decay the average is validated, so <arm>_best is the student of the epoch with the best average;
    <arm>_ema_last and <arm>_ema_best are the averages. Stage semisup continues with the student.
    """
    found = {}
    for when, state in {"last": method.state_dict(), **({"best": run.best["state"]} if run.best else {})}.items():
        for name, prefix in NETWORKS.items():
            weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            if weights:
                found[f"{arm}{name}_{when}"] = weights
    return found
