"""A small made-up run as the report reads it, and a parser that checks the page."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ssfer.config.schema import Params, parse_params
from ssfer.core.labels import class_set
from ssfer.evaluation.metrics import summarize
from ssfer.formats.manifest import write_manifest
from ssfer.formats.shards import ShardWriter
from ssfer.formats.weights import save_weights
from tests.support.factory import shipped_params

CLASSES = class_set("synthetic")
K = len(CLASSES)
PER_CLASS = 150
# Share of right answers the made-up models aim at.
ARMS = {"scratch": 0.25, "plain": 0.74, "facemix": 0.76, "student": 0.80, "teacher": 0.82}
VOID_TAGS = {"meta", "img", "br", "link", "input", "hr", "wbr"}


def make_params(**changes: Any) -> Params:
    """Shipped params.yaml with changes given as section__key=value."""
    raw = shipped_params()
    fixed = {"split__labeled_fraction": 0.1, "report__gallery": False, "report__title": "made-up run"}
    for name, value in (fixed | changes).items():
        section, key = name.split("__")
        raw[section][key] = value
    return parse_params(raw)


def fake_model(seed: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a model that is right for about `skill` of the images and takes fear for surprise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(K), PER_CLASS)
    target = labels.copy()
    wrong = rng.random(len(labels)) > skill + 0.12 * np.cos(labels)
    target[wrong] = rng.integers(0, K, wrong.sum())
    afraid = wrong & (labels == CLASSES.index("fear")) & (rng.random(len(labels)) < 0.8)
    target[afraid] = CLASSES.index("surprise")
    logits = rng.normal(0, 1, (len(labels), K))
    logits[np.arange(len(labels)), target] += 4.5
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probs, labels


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def fake_metrics(folder: Path) -> None:
    """A complete metrics folder as the stages write it."""
    models: dict[str, Any] = {}
    for seed, (name, skill) in enumerate(ARMS.items()):
        probs, labels = fake_model(seed, skill)
        models[name] = {"last": summarize(probs, labels, CLASSES, 15)}
        models[name]["best"] = summarize(*fake_model(seed + 50, skill - 0.005), CLASSES, 15)
    per_class = {c: {"labeled": 77, "valid": 9, "unlabeled": 771, "test": PER_CLASS} for c in CLASSES}
    parts = {
        "evaluate": {
            "test_images": K * PER_CLASS, "classes": list(CLASSES), "chance": round(1 / K, 6),
            "majority_rate": round(1 / K, 6), "majority_class": CLASSES[0], "headline_model": "teacher_last",
            "headline": models["teacher"]["last"], "models": models,
        },
        "split": {
            "hash": "ab" * 32, "labeled": 539, "valid": 63, "unlabeled": 5397, "test": K * PER_CLASS,
            "dropped": {"no_face": 11, "duplicate_of_test": 4}, "per_class": per_class,
        },
        "align": {
            "expressions": {"images": 7062, "stored": 7049, "face_found": 7038, "crop_box_fallback": 38,
                            "status": {"ok": 7032, "no_face": 11, "several_faces": 6, "unreadable": 9, "too_large": 4}},
            "people": {"images": 2010, "stored": 2001, "face_found": 1999, "crop_box_fallback": 12,
                       "status": {"ok": 1999, "no_face": 2, "empty": 9}},
        },
        "corpus": {"considered": 7988, "kept": 7902, "kept_by_source": {"expressions": 5920, "people": 1982},
                   "dropped": {"low_score": 31, "exact_duplicate": 22, "near_duplicate": 18, "evaluation_image": 15}},
        "pretrain": {"loss": 0.183, "epochs": 60, "images": 7902, "parameters": 586992, "weights_sha256": "cd" * 32},
        "finetune": {a: {"loss": 0.4, "epochs": 100, "val_accuracy_last": 0.7, "val_accuracy_best": 0.74,
                         "best_epoch": 84} for a in ("scratch", "plain", "facemix")},
        "semisup": {"loss": 0.5, "util_ratio": 0.83, "pseudo_acc": 0.91, "val_accuracy_last": 0.82,
                    "val_accuracy_best": 0.83, "best_epoch": 17, "epochs": 20},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in parts.items():
        (folder / f"{name}.json").write_text(json.dumps({name: content}))
    probs, labels = fake_model(list(ARMS).index("teacher"), ARMS["teacher"])
    write(folder / "confusion.csv", [
        {"actual": CLASSES[y], "predicted": CLASSES[p.argmax()], "confidence": round(float(p.max()), 3)}
        for y, p in zip(labels, probs, strict=True)
    ])  # fmt: skip
    rng = np.random.default_rng(0)
    write(folder / "curves/pretrain.csv", [
        {"epoch": e, "loss": 0.17 + 0.8 * math.exp(-e / 9) + rng.normal(0, 0.002), "lr": 0.001, "grad_norm": 1.0}
        for e in range(60)
    ])  # fmt: skip
    for name, arms in (("finetune", {"facemix": 0.68}), ("finetune_baselines", {"scratch": 0.2, "plain": 0.65})):
        write(folder / f"curves/{name}.csv", [
            {"arm": arm, "epoch": e, "loss": 1.95 - (1.3 * s + 0.1) * (1 - math.exp(-e / 25)) + rng.normal(0, 0.015),
             "val_accuracy": s * (1 - math.exp(-e / 15)) + 0.1 if e % 5 == 4 else ""}
            for arm, s in arms.items() for e in range(100)
        ])  # fmt: skip
    write(folder / "curves/semisup.csv", [
        {"epoch": e, "labeled_loss": 0.4 * 0.9**e, "unlabeled_loss": 0.2 * 0.95**e, "util_ratio": 0.84 - 0.3 * 0.8**e,
         "pseudo_acc": 0.92 - 0.04 * 0.8**e, "val_accuracy": 0.83 - 0.06 * 0.8**e if e % 2 else ""} for e in range(20)
    ])  # fmt: skip
    write(folder / "curves/pseudo_labels.csv", [
        {"epoch": e, "class": c, "coverage": 0.9 - 0.05 * i - 0.3 * 0.8**e,
         "accuracy": "" if e == 0 and c == "fear" else 0.96 - 0.03 * i - 0.05 * 0.8**e}
        for e in range(20) for i, c in enumerate(CLASSES)
    ])  # fmt: skip


def fake_weights(folder: Path, params: Params) -> None:
    arch = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 4}
    meta = {"kind": "classifier", "arch": arch, "classes": list(CLASSES), "mean": list(params.model.mean),
            "std": list(params.model.std), "channels": "RGB", "crop_recipe": "mtcnn-similarity5-v2-64",
            "data_fingerprint": "ab" * 32, "git_commit": "c0ffee1234"}  # fmt: skip
    for name in ("teacher_last", "teacher_best", "student_last"):
        save_weights(folder / "semisup" / f"{name}.safetensors", {"w": torch.arange(6.0).reshape(2, 3)}, meta)


def fake_faces(data: Path, params: Params) -> None:
    """Two coloured squares per class as test faces, and a reconstruction picture."""
    name = next(s.name for s in params.data.sources if s.labeled)
    rows, ids = [], []
    with ShardWriter(data / "faces" / name / "shard-00000.tar") as tar:
        for index in range(2 * K):
            buffer = BytesIO()
            Image.new("RGB", (64, 64), (30 * (index % K), 90, 200 - 20 * (index % K))).save(buffer, "JPEG")
            shard, offset, size = tar.add(f"{index}.jpg", buffer.getvalue())
            ids.append(f"{name}/{index}.jpg")
            rows.append({"sample_id": ids[-1], "source": name, "path": f"{index}.jpg", "label": CLASSES[index % K],
                         "usage": "test", "status": "ok", "face_found": True, "num_faces": 1, "shard": shard,
                         "offset": offset, "size": size})  # fmt: skip
    ids += [f"{name}/{index}.jpg" for index in range(2 * K, K * PER_CLASS)]  # whose pictures nobody looks at
    write_manifest(rows, data / "faces" / name / "manifest.parquet")
    (data / "splits").mkdir(parents=True)
    (data / "splits/split.json").write_text(json.dumps({"classes": list(CLASSES), "test": ids}))
    (data / "weights/pretrain").mkdir(parents=True)
    Image.new("RGB", (96, 32), "teal").save(data / "weights/pretrain/reconstruction.png")


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content[path.stem])
    path.write_text(json.dumps(content))


class Page(HTMLParser):
    """Collects what a browser would load and checks that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID_TAGS:
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "srcset", "data")]
        self.links += [value or "" for name, value in attrs if name == "href"]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))
