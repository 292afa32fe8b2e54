"""Weights of RetinaFace: every form they come in gives the same tensors; everything else is refused in one sentence."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssfer.core.errors import SsferError
from ssfer.faces.detectors import retinaface_weights
from ssfer.faces.detectors.registry import build_detector
from ssfer.faces.detectors.retinaface import RetinaFaceDetector
from ssfer.faces.detectors.retinaface_network import MOBILENET, RESNET50
from ssfer.faces.detectors.retinaface_weights import Weights, read_weights, write_weights
from ssfer.formats.weights import save_weights
from tests.support.random_retinaface import random_state


@pytest.fixture(scope="module")
def mobile_state() -> dict[str, Tensor]:
    return random_state(MOBILENET)


@pytest.fixture
def mobile_file(mobile_state: dict[str, Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "mobilenet0.25_Final.pth"
    torch.save(mobile_state, path)
    return path


def zipped(path: Path, *files: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
    return path


def test_every_form_of_a_file_gives_the_same_weights(
    mobile_file: Path, mobile_state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({f"module.{k}": v for k, v in mobile_state.items()}, tmp_path / "parallel.pth")
    torch.save({k: v for k, v in mobile_state.items() if "num_batches" not in k}, tmp_path / "old.pth")
    torch.save({"epoch": 3, "state_dict": mobile_state}, tmp_path / "nested.pth")
    torch.save(mobile_state, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    write_weights(tmp_path / "own.safetensors", read_weights(mobile_file), {"source": "a test"})
    zipped(tmp_path / "published.zip", mobile_file)
    for name in (
        mobile_file.name,
        "parallel.pth",
        "nested.pth",
        "old.pth",
        "legacy.pth",
        "own.safetensors",
        "published.zip",
    ):
        found = read_weights(tmp_path / name)
        assert (found.backbone, found.preprocess) == (MOBILENET, "caffe")
        wanted = {k: v for k, v in mobile_state.items() if "num_batches" not in k}
        assert found.state.keys() == wanted.keys()
        assert all(torch.equal(found.state[k], v) for k, v in wanted.items())


def test_the_first_batch_norm_tells_how_pixels_were_prepared(tmp_path: Path) -> None:
    resnet_state = random_state(RESNET50)
    torch.save(resnet_state, tmp_path / "a.pth")
    assert read_weights(tmp_path / "a.pth").preprocess == "imagenet"
    raw = {**resnet_state, "body.bn1.running_var": resnet_state["body.bn1.running_var"] * 58**2}
    torch.save(raw, tmp_path / "b.pth")
    weights = read_weights(tmp_path / "b.pth")
    assert (weights.backbone, weights.preprocess) == (RESNET50, "caffe")


def test_our_own_files_say_how_pixels_are_prepared(mobile_file: Path, tmp_path: Path) -> None:
    state = read_weights(mobile_file).state
    write_weights(tmp_path / "w.safetensors", Weights(state, MOBILENET, "imagenet", "0" * 64), {})
    assert read_weights(tmp_path / "w.safetensors").preprocess == "imagenet"


MERGE = "fpn.merge1.0.weight"
Change = Callable[[dict[str, Any]], Any]
BAD_STATES: dict[str, tuple[Change, str]] = {
    "missing": (
        lambda s: {k: v for k, v in s.items() if k != "fpn.merge1.0.weight"},
        r"found 252, 1 missing \(fpn.merge1.0.weight\)",
    ),
    "unknown": (lambda s: {**s, "fc.weight": torch.ones(2)}, r"found 254, .* 1 unexpected \(fc.weight\)"),
    "shape": (
        lambda s: {**s, "ssh1.conv3X3.0.weight": torch.ones(32, 64, 1, 1)},
        r"of shape \(32, 64, 3, 3\), found \(32, 64, 1, 1\)",
    ),
    "integers": (lambda s: {**s, MERGE: s[MERGE].int()}, "floating-point numbers under .*int32"),
    "another network": (
        lambda s: {"conv1.weight": torch.ones(2)},
        "expected a tensor body.*found 1 others such as c",
    ),
    "nested": (lambda s: {**s, "epoch": 3}, "found a int under 'epoch'"),
    "list": (lambda s: [torch.ones(2)], "found a list"),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_wrong_state_dicts_are_refused(case: str, mobile_state: dict[str, Tensor], tmp_path: Path) -> None:
    change, message = BAD_STATES[case]
    torch.save(change(dict(mobile_state)), tmp_path / "bad.pth")
    with pytest.raises(SsferError, match=f"bad.pth.*{message}"):
        RetinaFaceDetector(RetinaFaceDetector.Settings(weights=str(tmp_path / "bad.pth")))


def test_files_that_are_no_weights_are_refused(mobile_file: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    zipped(tmp_path / "two.zip", mobile_file, tmp_path / "text.pth")
    with pytest.raises(SsferError, match="text.pth is refused"):
        read_weights(tmp_path / "text.pth")
    with pytest.raises(SsferError, match="expected a zip with one file of weights, found 2 files"):
        read_weights(tmp_path / "two.zip")


def test_safetensors_of_another_kind_are_refused(mobile_file: Path, tmp_path: Path) -> None:
    state = read_weights(mobile_file).state
    save_weights(tmp_path / "mae.safetensors", state, {"kind": "mae"})
    with pytest.raises(SsferError, match="says kind 'mae'.*expected 'retinaface'"):
        read_weights(tmp_path / "mae.safetensors")
    save_weights(tmp_path / "x.safetensors", state, {"kind": "retinaface", "backbone": "vgg", "preprocess": "caffe"})
    with pytest.raises(
        SsferError, match="backbone 'vgg' and preprocess 'caffe', expected 'retinaface', one of resnet50"
    ):
        read_weights(tmp_path / "x.safetensors")
    write_weights(tmp_path / "y.safetensors", Weights(state, RESNET50, "caffe", "0"), {})
    with pytest.raises(SsferError, match="as RetinaFace with resnet50: expected .* tensors"):
        read_weights(tmp_path / "y.safetensors")


def test_a_wrong_hash_is_refused(mobile_file: Path) -> None:
    right = read_weights(mobile_file).sha256
    assert read_weights(mobile_file, right[:9].upper()).sha256 == right
    with pytest.raises(SsferError, match=f"has sha256 {right}, expected f168fae3c"):
        read_weights(mobile_file, "f168fae3c")


def test_missing_and_huge_files_are_refused(mobile_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(SsferError, match="no RetinaFace weights at .*ssfer fetch retinaface.*retinaface.weights"):
            read_weights(path)
    monkeypatch.setattr(retinaface_weights.files, "project_root", lambda: tmp_path)
    with pytest.raises(SsferError, match="no RetinaFace weights at .*data/weights/detectors/retinaface.safetensors"):
        build_detector("retinaface")
    monkeypatch.setattr(retinaface_weights, "MAX_BYTES", 1000)
    with pytest.raises(SsferError, match="expected weights of at most 1000"):
        read_weights(mobile_file)
