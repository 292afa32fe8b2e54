"""The training stages with a ResNet: what they write, that they continue exactly, what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.formats.metrics import read_metrics
from ssfer.formats.weights import load_weights
from ssfer.methods.fixmatch import FixMatch
from ssfer.stages.common import load_classifier
from ssfer.stages.evaluate import run_evaluate
from ssfer.stages.finetune import run_finetune
from ssfer.stages.pretrain import run_pretrain
from ssfer.stages.robustness import run_robustness
from ssfer.stages.semisup import run_semisup
from tests.support import factory, small_resnet

SEMISUP = Path("data/weights/semisup")


def resnet_params(
    backbone: str = small_resnet.NAME, method: str = "ema_teacher", img_size: int = 32, **sections: Any
) -> Params:
    small: dict[str, Any] = {
        "model": {"backbone": backbone, "img_size": img_size},
        "pretrain": {"epochs": 0},
        "finetune": {"facemix": {"mode": "facemix"}, "ema_decay": 0.9},
        "semisup": {"method": method, **sections.pop("semisup", {})},
        "robustness": {"images": 4},
    }
    return factory.tiny_params(**small, **sections)


def tensors(folder: Path) -> dict[str, Tensor]:
    return {f"{p.name}/{k}": v for p in sorted(folder.glob("*.safetensors")) for k, v in load_weights(p)[0].items()}


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose small ResNet has gone through pretrain and finetune."""
    root = tmp_path_factory.mktemp("resnet") / "project"
    root.mkdir()
    factory.write_project(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("DVC_ROOT", str(root))
        run_pretrain(resnet_params())
        run_finetune(resnet_params())
    return root


@pytest.fixture
def project(finetuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, also the working directory."""
    shutil.copytree(finetuned, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    return tmp_path / "project"


@pytest.mark.parametrize("method", ["ema_teacher", "leaf", "sitfer"])
def test_the_whole_pipeline_takes_a_resnet(method: str, project: Path) -> None:
    params = resnet_params(method=method)
    run_semisup(params)
    models = run_evaluate(params)["models"]
    attacked = run_robustness(params)["models"]
    assert {"scratch", "plain", "plain_ema", "facemix", "facemix_ema", "student"} <= models.keys()
    evaluated = "student" if method == "sitfer" else "teacher"
    assert list(attacked) == [evaluated] and 0 < attacked[evaluated]["focused_share"] < 1
    state, meta = load_weights(SEMISUP / f"{evaluated}_last.safetensors")
    assert meta["arch"] == {"backbone": small_resnet.NAME, "img_size": 32}
    assert meta["kind"] == ("fused" if method == "sitfer" else "classifier")
    assert ("experts" in meta.get("head", {})) is (method == "leaf")
    counters = [value for key, value in state.items() if key.endswith("num_batches_tracked")]
    assert len(counters) == 12 and all(counters), "statistics have been learned and are saved"
    assert read_metrics("pretrain")["loss"] is None


def test_finetuning_starts_from_the_encoder_and_moves_its_statistics(project: Path) -> None:
    encoder, _ = load_weights(Path("data/weights/pretrain/encoder.safetensors"))
    plain, scratch = (
        load_weights(Path(f"data/weights/finetune/{n}_last.safetensors"))[0] for n in ("plain", "scratch")
    )
    change = (plain["conv1.weight"] - encoder["conv1.weight"]).norm()
    assert change < 0.5 * (scratch["conv1.weight"] - encoder["conv1.weight"]).norm()
    assert not torch.equal(plain["bn1.running_mean"], encoder["bn1.running_mean"])
    averaged, _ = load_weights(Path("data/weights/finetune/plain_ema_last.safetensors"))
    assert averaged["bn1.num_batches_tracked"] == plain["bn1.num_batches_tracked"] > 0
    assert not torch.equal(averaged["bn1.running_mean"], plain["bn1.running_mean"])


class Cut(BaseException):
    """Ends a run as a kill does."""


def test_an_interrupted_run_ends_with_the_same_statistics(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = resnet_params(method="fixmatch")
    params = params.model_copy(update={"machine": params.machine.model_copy(update={"checkpoint_minutes": 1e-9})})
    run_semisup(params)
    whole = tensors(SEMISUP)
    after_step = FixMatch.after_step

    def cut(self: FixMatch, step: int) -> None:
        if step == 7:
            raise Cut
        after_step(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(FixMatch, "after_step", cut)
        with pytest.raises(Cut):
            run_semisup(params)
    assert list(Path(".scratch").rglob("step-*.pt"))
    run_semisup(params)
    again = tensors(SEMISUP)
    assert any("running_var" in key for key in whole) and whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_weights_of_another_backbone_are_refused_and_both_are_named(project: Path) -> None:
    split = json.loads(Path("data/splits/split.json").read_text())
    path = Path("data/weights/finetune/facemix_last.safetensors")
    words = r"expected \{'backbone': 'resnet18', 'img_size': 32\}, found \{'backbone': 'ssfer_small_resnet'"
    with pytest.raises(SsferError, match=f"was trained with another architecture: {words}"):
        load_classifier(path, resnet_params("resnet18"), split)
    with pytest.raises(SsferError, match="expected .*'embed_dim': 16.* found .*'ssfer_small_resnet'"):
        load_classifier(path, factory.tiny_params(), split)
    with pytest.raises(SsferError, match="the checkpoint is of another architecture: .* missing"):
        run_finetune(resnet_params("resnet18"))


@pytest.mark.slow
def test_the_sisters_own_network_goes_through_the_pipeline(project: Path) -> None:
    params = resnet_params("resnet18", img_size=64)
    run_pretrain(params)
    run_finetune(params)
    run_semisup(params)
    assert run_evaluate(params)["test_images"] == 12
    assert 0 < run_robustness(params)["models"]["teacher"]["focused_share"] < 1
