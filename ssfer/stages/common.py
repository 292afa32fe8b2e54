"""Shared by the training stages: data sets of a split, classifiers with metadata, validation, curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssfer.config.schema import Params
from ssfer.core.places import FACES, WEIGHTS
from ssfer.data.dataset import FaceDataset
from ssfer.evaluation.inference import predict
from ssfer.evaluation.metrics import accuracy, cross_entropy
from ssfer.formats.manifest import read_manifest
from ssfer.formats.weights import load_weights
from ssfer.methods.base import Method
from ssfer.methods.facemix import MAIN_ARM, FaceMixSettings
from ssfer.models import classifier
from ssfer.models.backbone import build_backbone
from ssfer.train.device import Machine
from ssfer.train.metrics_history import Progression, Row
from ssfer.train.settings import FinetuneSettings

Split = Mapping[str, Any]


def split_dataset(split: Split, part: str, params: Params, stage: str = "") -> FaceDataset:
    """Return the faces of one part of the split ("labeled", "valid", "unlabeled"), with class indices.

    The wrong labels of split.label_noise are in the parts whose labels training uses. With split.redraw_for_semi, stage
    "semisup" gets the labeled and unlabeled faces drawn for it.
    """
    own = f"semi_{part}" if stage == "semisup" and f"semi_{part}" in split else part
    dataset = stored_faces(split, split[own], params)
    noisy = split.get("noisy", {}) if part in ("labeled", "valid") else {}
    if noisy:
        dataset.labels = dataset.labels.copy()
        for i, sample_id in enumerate(dataset.ids):
            if sample_id in noisy:
                dataset.labels[i] = split["classes"].index(noisy[sample_id])
    return dataset


def stored_faces(split: Split, ids: Sequence[str], params: Params) -> FaceDataset:
    """Return the faces with these ids from the split's sources, with the class indices they are stored with."""
    return FaceDataset([FACES / name for name in split["sources"]], ids, split["classes"], params.machine.cache_gib)


def crop_recipe(folders: Sequence[Path]) -> str:
    """Return the crop recipes of the stored images, joined by "+", for the metadata of models trained on them."""
    found: set[str] = set()
    for folder in folders:
        found.update(r for r in read_manifest(folder)["crop_recipe"].to_pylist() if r)
    return "+".join(sorted(found))


def save_classifier(path: Path, network: nn.Module | Mapping[str, Tensor], params: Params, split: Split) -> None:
    """Write a classifier, or the state dict of a plain one, that was trained on this split."""
    recipe = crop_recipe([FACES / name for name in split["sources"]])
    classifier.save(path, network, params.model, split["classes"], data_fingerprint=split["hash"], recipe=recipe)


def passed_on(name: str) -> str | None:
    """Return the arm of stage finetune whose last weights equal those of a network of stage semisup.

    They are equal if stage semisup trained nothing and passed the weights on.

    Args:
        name: of the network, such as teacher.

    Returns:
        The arm; None if the network was trained.
    """
    own = WEIGHTS / "semisup" / f"{name}_last.safetensors"
    if not own.exists():
        return None
    state, _ = load_weights(own, classifier.KINDS)
    for path in sorted((WEIGHTS / "finetune").glob("*_last.safetensors")):
        other, _ = load_weights(path, classifier.KINDS)
        if state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state):
            return path.stem.removesuffix("_last")
    return None


def load_classifier(path: Path, params: Params, split: Split) -> nn.Module:
    """Return a classifier that was trained with these settings on this split; see `ssfer.models.classifier.load`."""
    return classifier.load(path, params.model, split["classes"], split["hash"])[0]


def validator(dataset: FaceDataset | None, params: Params, machine: Machine) -> Any:
    """Return the training loop's `evaluate` callback for the validation part; None if there is no such part."""
    if dataset is None or len(dataset) == 0:
        return None

    def evaluate(method: Method) -> Row:
        probs = predict(method.eval_module(), dataset, machine=machine, model=params.model)
        return {
            "val_accuracy": round(accuracy(probs, dataset.labels), 6),
            "val_loss": round(cross_entropy(probs, dataset.labels), 6),
        }

    return evaluate


def seeded_classifier(params: Params, num_classes: int, seed: int) -> nn.Module:
    """Return a newly initialized classifier; equal seeds give equal weights."""
    torch.manual_seed(seed)
    return build_backbone(params.model, num_classes)


def curve_rows(history: Sequence[Row], columns: Sequence[str], **fixed: Any) -> list[Row]:
    """Return the named columns of a history, rounded for a CSV file; missing values are None (a blank)."""
    return [{**fixed, **{c: _short(row.get(c)) for c in columns}} for row in history]


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def arms(params: FinetuneSettings) -> dict[str, FaceMixSettings]:
    """Return arm name -> mixing, baselines first, the main run (which stage semisup continues) last."""
    plain = params.facemix.model_copy(update={"mode": "none"})
    return {**{name: plain for name in params.baselines}, MAIN_ARM[params.facemix.mode]: params.facemix}


def summary(run: Progression) -> dict[str, Any]:
    """Return a run's final metrics; those on the validation part are None without one."""
    last = run.history[-1]
    best = run.best or {}
    return {
        "loss": round(last["loss"], 6),
        "epochs": last["epoch"],
        "val_accuracy_last": last.get("val_accuracy"),
        "val_accuracy_best": best.get("val_accuracy"),
        "best_epoch": best.get("epoch"),
    }
