"""A backbone of the user's own: through all stages, in identities, what it must have, and which code a file may run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ssfer.config.identity import identity
from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.export.write import export
from ssfer.models.backbone import build_backbone, check_backbone
from ssfer.models.classifier import load
from ssfer.models.features import features_and_logits
from ssfer.stages.evaluate import run_evaluate
from ssfer.stages.finetune import run_finetune
from ssfer.stages.pretrain import run_pretrain
from ssfer.stages.robustness import run_robustness
from ssfer.stages.semisup import run_semisup
from tests.support import factory

NAME = "./net.py:Net"
NET = """
from pathlib import Path
from torch import nn
from ssfer.models.base import Backbone

Path("imported").touch()

class Net(Backbone):
    def __init__(self, num_classes, img_size):
        super().__init__(num_classes, num_features=8)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.ReLU())

    def forward_features(self, images):
        return self.body(images)

class Narrow(Net):
    def forward_head(self, spatial, pre_logits=False):
        pooled = spatial.mean((2, 3))[:, :4]
        return pooled if pre_logits else pooled.sum(1)

class Half(Backbone):
    pass

class Failing(Net):
    def forward_features(self, images):
        return self.bdoy(images)

class Wrong(Net):
    def __init__(self, classes):
        super().__init__(classes, 8)

class Other:
    pass
"""


def own_params(backbone: str = NAME) -> Params:
    small: dict[str, Any] = {"model": {"backbone": backbone, "img_size": 32}, "pretrain": {"epochs": 0}}
    return factory.tiny_params(**small, robustness={"images": 4})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    factory.write_project(root)
    (root / "net.py").write_text(NET)
    (root / "params.yaml").write_text(f"model: {{backbone: {NAME}}}\n")
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_ROOT", str(root))
    return root


def test_an_own_network_goes_through_the_pipeline(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = own_params()
    for run in (run_pretrain, run_finetune, run_semisup):
        run(params)
    assert run_evaluate(params)["test_images"] == 12
    assert 0 < run_robustness(params)["models"]["teacher"]["focused_share"] < 1
    file = project / "data/weights/semisup/teacher_last.safetensors"
    network, meta = load(file)
    assert meta["arch"] == {"backbone": NAME, "img_size": 32}
    for to in ("mlflow", "timm"):
        with pytest.raises(SsferError, match=f"{NAME}.*--to onnx"):
            export(file, to, project / to)
    images = torch.rand(2, 3, 32, 32)
    features, logits = features_and_logits(network.eval(), images)
    assert features.shape == (2, 8) and torch.equal(logits, network(images))
    elsewhere = project.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "net.py").write_text(NET)
    (elsewhere / "params.yaml").write_text("model: {backbone: vit}\n")
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("DVC_ROOT")
    with pytest.raises(SsferError, match=f"the weights belong to {NAME}, .* whose params.yaml has it"):
        load(file)
    monkeypatch.chdir(project)
    inside = project / "data/raw/downloaded"
    inside.mkdir(parents=True)
    (inside / "net.py").write_text(NET)
    monkeypatch.chdir(inside)
    with pytest.raises(SsferError, match=f"the weights belong to {NAME}"):
        load(file)
    assert not list(tmp_path.glob("elsewhere/imported")) and not (inside / "imported").exists(), (
        "neither a weights file nor a data folder decides which code is run"
    )


def test_its_code_counts_where_the_network_is_used(project: Path) -> None:
    used = {
        stage
        for stage in ("align", "corpus", "split", "pretrain", "finetune", "semisup", "evaluate", "robustness")
        if "net.py" in identity(stage, own_params())["code"]
    }
    assert used == {"pretrain", "finetune", "semisup", "evaluate", "robustness"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Nett", "backbone './net.py:Nett': ./net.py has no class Nett"),
        ("Other", "is no backbone: expected a class derived from Backbone"),
        ("Half", "must define forward_features"),
        ("Wrong", "cannot be used on images of 32 px .*: TypeError: .*num_classes"),
        ("Failing", "cannot be used on images of 32 px .*: AttributeError: .*bdoy"),
        ("Narrow", "cannot be used on images of 32 px .*: RuntimeError: .*2x4 and 8x3"),
    ],
)
def test_a_network_that_breaks_the_contract_is_one_sentence(name: str, message: str, project: Path) -> None:
    with pytest.raises(SsferError, match=message):
        params = own_params(f"./net.py:{name}").model
        check_backbone(build_backbone(params, 3), params)
