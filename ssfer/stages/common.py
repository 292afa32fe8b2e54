"""Shared by the training stages: where things lie, data sets of a split, weights with metadata, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.data.dataset import FaceDataset
from ssfer.data.split import FACES
from ssfer.evaluation.inference import predict
from ssfer.evaluation.metrics import accuracy, cross_entropy
from ssfer.formats.manifest import read_manifest
from ssfer.formats.weights import load_weights, save_weights
from ssfer.methods.base import Method
from ssfer.methods.facemix import FaceMixSettings
from ssfer.models.backbone import architecture, build_backbone
from ssfer.models.experts import ExpertSettings, add_experts, expert_head
from ssfer.models.kinds import CLASSIFIERS, KINDS, described, rebuilt
from ssfer.models.settings import ModelSettings
from ssfer.train.device import Machine
from ssfer.train.metrics_history import Progression, Row
from ssfer.train.settings import FinetuneSettings

CORPUS = Path("data/corpus")
WEIGHTS = Path("data/weights")
METRICS = Path("metrics")
CURVES = METRICS / "curves"
Split = Mapping[str, Any]
ENCODER = WEIGHTS / "pretrain" / "encoder.safetensors"
# Name of the arm that stage semisup continues, by finetune.facemix.mode.
MAIN_ARM = {"facemix": "facemix", "mixup": "mixup", "none": "plain"}


def split_dataset(split: Split, part: str, params: Params, stage: str = "") -> FaceDataset:
    """Return the faces of one part of the split ("labeled", "valid", "unlabeled"), with class indices.

    Labels that split.label_noise made wrong are wrong in the parts whose labels are used in training. Stage "semisup"
    gets the labeled and unlabeled faces that split.redraw_for_semi drew for it, where it did.
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
    """Return the crop recipes of the stored images, joined: part of what a model needs to be used rightly."""
    found: set[str] = set()
    for folder in folders:
        found.update(r for r in read_manifest(folder)["crop_recipe"].to_pylist() if r)
    return "+".join(sorted(found))


def metadata(kind: str, model: ModelSettings, data_fingerprint: str, recipe: str, **more: Any) -> dict[str, Any]:
    """Return the metadata that goes into a weights file."""
    return {
        "kind": kind,
        "arch": architecture(model),
        "mean": list(model.mean),
        "std": list(model.std),
        "channels": "RGB",
        "crop_recipe": recipe,
        "data_fingerprint": data_fingerprint,
        **more,
    }


def head_of(network: nn.Module) -> dict[str, Any]:
    """Return the metadata that say what head a classifier has: nothing of a linear one."""
    head = expert_head(network)
    return {"head": {"experts": head.params.model_dump()}} if head else {}


def save_classifier(
    path: Path, state: Mapping[str, Tensor], params: Params, split: Split, kind: str = "classifier", **more: Any
) -> None:
    """Write classifier weights that know their classes, preprocessing and split, and `more` (`save_network`)."""
    recipe = crop_recipe([FACES / name for name in split["sources"]])
    save_weights(
        path, state, metadata(kind, params.model, split["hash"], recipe, classes=list(split["classes"]), **more)
    )


def save_network(path: Path, network: nn.Module, params: Params, split: Split) -> None:
    """Write a classifier, or what is around one and says in its metadata how to build it (`ssfer.models.kinds`)."""
    if getattr(network, "kind", None) is None:
        save_classifier(path, network.state_dict(), params, split, **head_of(network))
        return
    kind, settings = described(network)
    save_classifier(path, network.state_dict(), params, split, kind, **{kind: settings})


def load_classifier(path: Path, params: Params, split: Split) -> nn.Module:
    """Build the classifier, with the head and what else its metadata name, and load the weights strictly.

    Raises:
        SsferError: no classifier; weights of another architecture, class order or split.
    """
    state, meta = load_weights(path, CLASSIFIERS)
    for name, found, expected in (
        ("architecture", meta["arch"], architecture(params.model)),
        ("class order", meta["classes"], list(split["classes"])),
        ("split", meta["data_fingerprint"], split["hash"]),
    ):
        if found != expected:
            raise SsferError(f"{path} was trained with another {name}: expected {expected}, found {found}")
    model = build_backbone(params.model, len(split["classes"]))
    if "head" in meta:
        add_experts(model, ExpertSettings(**meta["head"]["experts"]))
    if meta["kind"] in KINDS:
        model = rebuilt(meta["kind"], model, meta[meta["kind"]])
    model.load_state_dict(state)
    return model


def validator(dataset: FaceDataset | None, params: Params, machine: Machine) -> Any:
    """Return the engine's `evaluate` callback for the validation part, or None when there is none."""
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
    """Return a freshly initialised classifier; same seed, same weights."""
    torch.manual_seed(seed)
    return build_backbone(params.model, num_classes)


def curve_rows(history: Sequence[Row], columns: Sequence[str], **fixed: Any) -> list[Row]:
    """Return the named columns of a history, rounded for a CSV file; what an epoch lacks is None (a blank)."""
    return [{**fixed, **{c: _short(row.get(c)) for c in columns}} for row in history]


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def arms(params: FinetuneSettings) -> dict[str, FaceMixSettings]:
    """Return arm name -> mixing, baselines first, the main run (which stage semisup continues) last."""
    plain = params.facemix.model_copy(update={"mode": "none"})
    return {**{name: plain for name in params.baselines}, MAIN_ARM[params.facemix.mode]: params.facemix}


def summary(run: Progression) -> dict[str, Any]:
    """Return a run's closing figures; validation figures are None without a validation part."""
    last = run.history[-1]
    best = run.best or {}
    return {
        "loss": round(last["loss"], 6),
        "epochs": last["epoch"],
        "val_accuracy_last": last.get("val_accuracy"),
        "val_accuracy_best": best.get("val_accuracy"),
        "best_epoch": best.get("epoch"),
    }
