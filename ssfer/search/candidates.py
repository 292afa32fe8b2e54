"""Scores of candidates of the learning-rate search: train, score on the held-out labels, store."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ssfer.config.identity import identity
from ssfer.config.schema import Params
from ssfer.core.errors import Diverged
from ssfer.core.files import sha256_file, sha256_json, write_json
from ssfer.core.places import ENCODER
from ssfer.core.rng import derive
from ssfer.data.dataset import FaceDataset
from ssfer.data.split import load_split
from ssfer.formats.weights import load_weights
from ssfer.methods.facemix import FaceMix
from ssfer.models.vit import load_encoder
from ssfer.search.grey_wolf import Score
from ssfer.search.holdout import draw_holdout
from ssfer.stages.common import seeded_classifier, split_dataset
from ssfer.stages.finetune import epochs_and_batch, log_prior, train, view_detector
from ssfer.train.checkpoints import Scratch
from ssfer.train.device import Machine

Rates = Mapping[str, float]
RATES = ("lr_max", "lr_min", "lr_warm")
WORST: Score = (-1.0, 0.0)  # below any accuracy


@dataclass(frozen=True)
class Trial:
    """The data and settings that all candidates share.

    Attributes:
        params: stage finetune's settings, with the epochs of the search.
        kept, held: labeled images to train on and to score with; `held_hash` is the sha256 of the ids of `held`.
        split_hash: of data/splits.
        encoder: pretrained weights.
        identity: everything that a candidate's score depends on, except its rates.
    """

    params: Params
    num_classes: int
    kept: FaceDataset
    held: FaceDataset
    held_hash: str
    split_hash: str
    encoder: Mapping[str, Tensor]
    identity: Mapping[str, Any]


def prepare(params: Params, share: float, seed: int, epochs: int | None) -> Trial:
    """Read the split and the encoder, and hold out a share of the labeled images.

    Candidates train `epochs` epochs, or as many as stage finetune would with all labeled images: holding images out
    must not reduce their number below `few_labels`, which would lengthen training.

    Raises:
        SsferError: missing or damaged inputs, too few images.
    """
    split = load_split()
    labels = split_dataset(split, "labeled", params).labels
    # Both are read as part "labeled", so that the wrong labels of split.label_noise apply.
    kept, held = (
        split_dataset({**split, "labeled": [split["labeled"][i] for i in part]}, "labeled", params)
        for part in draw_holdout(labels, share, seed)
    )
    epochs = epochs or epochs_and_batch(params.finetune, len(labels))[0]
    # The last epoch counts, as in the paper, so the held-out images are evaluated only then.
    fixed = {"epochs": epochs, "epochs_few_labels": epochs, "eval_every": epochs}
    finetune = params.finetune.model_copy(update=fixed)
    encoder, _ = load_weights(ENCODER, "encoder")
    found = identity("finetune", params.model_copy(update={"finetune": finetune}))
    measured = {"finetune.baselines", *(f"finetune.{rate}" for rate in RATES)}
    inputs = {"split": split["hash"], "encoder": sha256_file(ENCODER), "held": sha256_json(held.ids)}
    searched = {
        **found,
        "settings": {k: v for k, v in found["settings"].items() if k not in measured},
        "inputs": inputs,
    }
    return Trial(
        params.model_copy(update={"finetune": finetune}),
        len(split["classes"]),
        kept,
        held,
        inputs["held"],
        split["hash"],
        encoder,
        searched,
    )


class Candidates:
    """Scores of learning rates, each trained once; finished ones are stored in the scratch folder, one file each.

    An interrupted candidate continues from its own snapshot.
    """

    def __init__(self, trial: Trial, machine: Machine, scratch: Scratch) -> None:
        self.trial, self.machine, self.scratch = trial, machine, scratch
        self.detect = view_detector(trial.params, machine)
        if self.detect is not None:
            trial.kept.forget_boxes()
        load_encoder(seeded_classifier(trial.params, trial.num_classes, 0), trial.encoder)  # fails before any training

    def evaluate(self, rates: Rates) -> dict[str, Any]:
        """Return {"rates", "accuracy", "loss"} on the held-out images; both are None if training diverged."""
        name = f"candidate-{sha256_json(dict(rates))[:16]}"
        path = self.scratch.folder / f"{name}.json"
        found = _read(path)
        if found is None or found["rates"] != rates:
            found = {"rates": dict(rates), **self._train(rates, name)}
            write_json(path, found)
        shutil.rmtree(self.scratch.folder / name, ignore_errors=True)
        return found

    def _train(self, rates: Rates, name: str) -> dict[str, float | None]:
        trial = self.trial
        params = trial.params.model_copy(update={"finetune": trial.params.finetune.model_copy(update=dict(rates))})
        model = seeded_classifier(params, trial.num_classes, derive(params.finetune.seed, "init"))
        load_encoder(model, trial.encoder)
        p = params.finetune
        shift = log_prior(trial.kept, trial.num_classes, p.logit_adjustment)
        method = FaceMix(model, p.facemix, params.model, p.ema_decay, self.detect, shift)
        try:
            run = train(method, trial.kept, trial.held, params, self.machine, self.scratch.checkpoints(name), name)
        except Diverged:  # too high rates are a result here, not an error
            return {"accuracy": None, "loss": None}
        last = run.history[-1]
        if not math.isfinite(last["val_loss"]):
            return {"accuracy": None, "loss": None}
        return {"accuracy": last["val_accuracy"], "loss": last["val_loss"]}


def score(result: Mapping[str, Any]) -> Score:
    """Return (accuracy, -loss): the loss decides between equal accuracies, which few held-out images make frequent."""
    return WORST if result["accuracy"] is None else (result["accuracy"], -result["loss"])


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):  # a damaged file: the candidate is trained again
        return None
    return found if isinstance(found, dict) and set(found) == {"rates", "accuracy", "loss"} else None
