"""ssfer.config.preflight: what a later stage would refuse is refused before the first one works, in one sentence."""

from __future__ import annotations

import importlib.util
import os
import re
from collections import namedtuple
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ssfer.config.label_counts import count_labels
from ssfer.config.preflight import preflight, problems
from ssfer.config.schema import Params, parse_params
from ssfer.core.errors import SsferError
from tests.support.factory import shipped_params


def settings(**changes: Any) -> Params:
    """Return the shipped settings with some changed, keys as `section__key`."""
    raw = shipped_params()
    for name, value in changes.items():
        *sections, key = name.split("__")
        place = raw
        for section in sections:
            place = place[section]
        place[key] = value
    return parse_params(raw)


def own_data(root: Path, train: int = 3, test: int = 1, **changes: Any) -> Params:
    """Lay out photos (empty files) of two classes below data/raw/own; return settings that use them."""
    for part, n in (("train", train), ("test", test)):
        for i in range(2 * n):
            photo = root / f"data/raw/own/photos/{part}/{('smile', 'frown')[i % 2]}/{i}.jpg"
            photo.parent.mkdir(parents=True, exist_ok=True)
            photo.touch()
    source = {"name": "photos", "kind": "class_folders", "path": "photos", "labeled": True, "align": "resize"}
    data = {"data__raw": "own", "data__classes": ["smile", "frown"], "data__sources": [source]}
    return settings(**{**data, "pretrain__batch_size": 2, **changes})


def test_the_shipped_settings_pass_and_nothing_is_written(project: Path) -> None:
    before = sorted(project.rglob("*"))
    preflight(settings())
    assert sorted(project.rglob("*")) == before


def test_own_photos_in_the_demos_folder_are_refused(project: Path) -> None:
    """Stage generate replaces that folder."""
    own_data(project)
    (project / "data/raw/own").rename(project / "data/raw/synthetic")
    with pytest.raises(SsferError, match="data.raw synthetic is the demo's folder, .* source 'photos' is not rendered"):
        preflight(own_data(project, data__raw="synthetic"))


NET = """
from torch import nn
from ssfer.models.base import Backbone

class Net(Backbone):
    def __init__(self, num_classes, img_size):
        super().__init__(num_classes, 4)
        self.body = nn.Conv2d(3, 4, 5, 4)
        self.rate = self.body.bias.sum().item()

    def forward_features(self, images):
        return self.body(images)
"""


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"generate__test": 0}, "have no test part, .* split.fold: 0"),
        ({"generate__train": 5}, "no training image has the label .*; expected all of"),
        ({"generate__train": 0}, "no training image has the label"),
        (
            {"split__labeled_fraction": None, "split__labeled_per_class": 900},
            "900 labels per class cannot be met: '.*' has 857 training images",
        ),
        ({"split__labeled_fraction": None, "split__labeled_total": 6001}, "a budget of 6001 labels cannot be met"),
        ({"pretrain__batch_size": 9000}, "pretrain.batch_size 9000 is larger than the 8000 images"),
        ({"evaluate__headline": "teacher", "semisup__method": "fixmatch"}, "trains student only; set it to auto"),
        ({"robustness__models": ["mixup"]}, "'mixup', which this run does not train; it trains facemix, plain"),
        ({"semisup__imbalance__class_thresholds": True, "semisup__method": "vat"}, "class_thresholds cannot be used"),
        ({"semisup__leaf_parts__expert_head": True, "semisup__method": "mixmatch"}, "expert_head has no effect in"),
        ({"semisup__method": "leaf", "methods__leaf__k_max": 7}, "methods.leaf.k_max 7 needs 8 classes"),
        ({"align__detector": "retinaface"}, "no RetinaFace weights at .*; get them with `ssfer fetch"),
        ({"pretrain__init_from": "gone.safetensors", "pretrain__init_sha256": "0" * 12}, "no file at gone.safetensors"),
        ({"semisup__extra__faces": 9, "semisup__extra__ensemble": [{"file": "x", "sha256": "0" * 12}]}, "no file at x"),
        ({"machine__precision": "fp16", "machine__device": "cpu"}, "machine.precision fp16 needs CUDA"),
        ({"pretrain__mask_ratio": 0.99}, "pretrain.mask_ratio 0.99 leaves 0 of 64 patches visible; at least one"),
        ({"model__embed_dim": 4_000_000}, "section 'model' needs .* GiB of memory at the least"),
        ({"model__backbone": "resnet81x", "pretrain__epochs": 0}, "unknown backbone"),
        (
            {"model__backbone": "./net.py:Net", "pretrain__epochs": 0, "tracking__register_model": "mine"},
            "tracking.register_model stores a model of MLflow's, which would not hold ./net.py:Net",
        ),
        (
            {"model__backbone": "vgg11", "pretrain__epochs": 0, "model__img_size": 8},
            "model.backbone vgg11 cannot be used on images of 8 px",
        ),
    ],
)
def test_each_precondition_is_a_sentence(project: Path, changes: dict[str, Any], sentence: str) -> None:
    (project / "net.py").write_text(NET)
    with pytest.raises(SsferError, match=sentence) as refused:
        preflight(settings(**changes))
    assert "\n" not in str(refused.value)


def test_the_average_of_any_method_can_be_attacked(project: Path) -> None:
    preflight(settings(semisup__method="fixmatch", semisup__average=0.99, robustness__models=["average"]))


def test_all_problems_are_listed_a_line_each(project: Path) -> None:
    params = settings(generate__test=0, robustness__models=["mixup"])
    with pytest.raises(SsferError, match=re.compile("^nothing was started, 2 things stand .*\n  .*\n  ", re.S)):
        preflight(params)


def test_own_data_is_counted_by_its_names(project: Path) -> None:
    counts = count_labels(own_data(project))
    assert counts is not None
    assert (dict(counts.train), counts.test, counts.corpus_images) == ({"smile": 3, "frown": 3}, 2, 6)
    assert not list(problems(own_data(project)))


@pytest.mark.parametrize(
    ("parts", "changes", "sentence"),
    [
        ({"test": 0}, {}, "have no test part"),
        ({"test": 0, "train": 1}, {"split__fold": 0}, "5 folds need at least as many training images, found 2"),
        ({}, {"data__classes": ["smile", "frown", "calm"]}, "no training image has the label calm"),
        ({}, {"pretrain__batch_size": 7}, "larger than the 6 images that the corpus can have"),
        ({}, {"data__sources__0__path": "elsewhere"}, "source 'photos' expects its data at data/raw/own/elsewhere"),
        ({}, {"data__sources__0__corpus": False}, "no source feeds the corpus"),
    ],
)
def test_own_data_has_to_fit(project: Path, parts: dict[str, int], changes: dict[str, Any], sentence: str) -> None:
    params = own_data(project, **parts)
    raw = params.model_dump(mode="json")
    for name, value in changes.items():
        place: Any = raw
        *sections, key = name.split("__")
        for section in sections:
            place = place[int(section) if section.isdigit() else section]
        place[key] = value
    with pytest.raises(SsferError, match=sentence):
        preflight(parse_params(raw))


def test_raw_data_that_lies_in_dvcs_cache_only_is_no_problem(project: Path) -> None:
    params = own_data(project)
    (project / "data").rename(project / "elsewhere")
    assert any("photos" in line for line in problems(params))
    (project / "dvc.lock").touch()
    assert not list(problems(params))


def test_a_file_or_a_dead_link_where_outputs_go_is_named(project: Path) -> None:
    (project / "metrics").write_text("mine")
    with pytest.raises(SsferError, match="expected a folder at metrics, .* found a file; move it away"):
        preflight(settings())
    (project / "metrics").unlink()
    (project / "data").symlink_to(project / "gone")
    with pytest.raises(SsferError, match="expected a folder at data, .* found a link to nothing"):
        preflight(settings())


def test_a_folder_that_cannot_be_written_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the system's refusal is played."""

    def refused(dir: Path) -> Any:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("ssfer.config.preflight.tempfile.TemporaryFile", refused)
    with pytest.raises(SsferError, match=r"no file can be written in .* \(Permission denied\); outputs"):
        preflight(settings())


def test_a_full_disk_is_noticed_before_work(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("ssfer.config.preflight.shutil.disk_usage", lambda _: usage(1, 1, 10_000_000))
    with pytest.raises(SsferError, match=r"the run writes 2\d MiB at the least, 10 MiB are free on the disk of"):
        preflight(settings())
    for folder in ("data/faces", "data/corpus", "data/weights/pretrain"):  # what is there is not written once more
        (project / folder).mkdir(parents=True)
    preflight(settings())


def test_a_cluster_needs_its_package(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    with pytest.raises(SsferError, match=r"machine\.cluster: ray needs the package ray \(extra 'cluster'\)"):
        preflight(settings(machine__cluster="ray"))


@pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra cluster")
def test_a_cluster_takes_no_gpu_by_number(project: Path) -> None:
    with pytest.raises(SsferError, match=r"machine\.device is 'cuda:1', but machine\.cluster is ray"):
        preflight(settings(machine__cluster="ray", machine__device="cuda:1"))
