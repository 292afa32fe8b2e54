"""A classifier's weights file: enough to build the classifier again, whatever it is; misfits are one sentence each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ssfer.core.errors import SsferError
from ssfer.formats.weights import load_weights, save_weights
from ssfer.models import classifier
from ssfer.models.expert_head import expert_head
from tests.support import factory
from tests.support.classifiers import FORMS, PRINT, images, network, settings


@pytest.mark.parametrize("form", FORMS)
def test_a_classifier_is_built_again_from_its_file_alone(form: str, tmp_path: Path) -> None:
    net, path = network(form).eval(), tmp_path / "c.safetensors"
    classifier.save(path, net, settings(form), factory.CLASSES, **PRINT)
    again, meta = classifier.load(path)
    assert type(again) is type(net) and torch.equal(again.eval()(images(form)), net(images(form)))
    assert (meta["classes"], meta["crop_recipe"], meta["channels"]) == (list(factory.CLASSES), "r", "RGB")
    assert meta["kind"] == ("fused" if form == "fused" else "classifier")
    assert list(meta.get("head", {})) == ([form] if form in ("experts", "unit") else [])
    assert meta["mean"] == list(settings().mean) and meta["arch"]["img_size"] == (32 if form == "resnet" else 16)
    strict, _ = classifier.load(path, settings(form), factory.CLASSES, "split")
    assert torch.equal(strict.eval()(images(form)), net(images(form)))


def test_a_state_dict_is_a_plain_classifiers(tmp_path: Path) -> None:
    for name, given in (("a", network("plain")), ("b", network("plain").state_dict())):
        classifier.save(tmp_path / name, given, settings(), factory.CLASSES, **PRINT)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_halves_parts_and_body(form: str) -> None:
    net = network(form).eval()
    body: Any = classifier.body_of(net)
    assert body is (net.network.body if form == "fused" else net)
    if form != "experts":
        spatial = body.forward_features(images(form))
        assert torch.equal(net.forward_head(spatial), net(images(form)))  # type: ignore[operator]
    parts = classifier.parts_of(net)
    assert list(parts) == (["semantic", "text", "instance"] if form == "fused" else [])
    assert all(part(images(form)).shape == (2, 3) for part in parts.values())
    assert (expert_head(body) is not None) == (form == "experts")


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    classifier.save(path, network("plain"), settings(), factory.CLASSES, **PRINT)
    for expected, message in (
        (
            (settings(depth=2),),
            "c.safetensors was trained with another architecture: expected .*'depth': 2.*'depth': 1",
        ),
        ((None, factory.CLASSES[::-1]), "another class order: expected .'surprise'"),
        ((None, None, "other"), "another split: expected other, found split"),
    ):
        with pytest.raises(SsferError, match=message):
            classifier.load(path, *expected)
    state, meta = load_weights(path)
    del state["norm.bias"]
    save_weights(path, state, meta)
    with pytest.raises(SsferError, match="c.safetensors: expected 20 tensors, found 19, 1 missing .norm.bias."):
        classifier.load(path)
    save_weights(path, state, {**meta, "kind": "encoder"})
    with pytest.raises(SsferError, match="of kind 'encoder', expected 'classifier' or 'fused'"):
        classifier.load(path)


def test_a_network_that_nobody_could_load_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a Linear is neither a classifier of timm's nor a known extension of one"):
        classifier.save(tmp_path / "c", nn.Linear(1, 1), settings(), factory.CLASSES, **PRINT)
    assert not (tmp_path / "c").exists()
