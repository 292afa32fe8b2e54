"""Backbones of timm's: building, features, refusals, weights from a file, Grad-CAM, size."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.files import sha256_file
from ssfer.evaluation.attack.gradcam import grad_cam, min_max
from ssfer.evaluation.complexity import complexity
from ssfer.formats.weights import load_weights, save_weights
from ssfer.methods.context import Context
from ssfer.methods.registry import METHODS
from ssfer.models.backbone import architecture, build_backbone, check_backbone, params_of
from ssfer.models.ema import EMA
from ssfer.models.features import features, features_and_logits, head_keys, head_name
from ssfer.models.settings import ModelSettings
from ssfer.models.vit import Classifier, build_classifier, load_encoder
from ssfer.stages.pretrain import run_pretrain
from ssfer.testing import method_setup
from ssfer.testing import methods as kit
from ssfer.train.distributed import Trained, share_norms
from tests.support import factory, small_resnet

WIDTHS = {"resnet18": ("fc", 512), "vit_tiny_patch16_224": ("head", 192), "convnext_atto": ("head.fc", 320)}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def params(backbone: str = "resnet18", img_size: int = 32, **sections: Any) -> Params:
    model = {"backbone": backbone, "img_size": img_size, "head_init": "torch_default", **sections.pop("model", {})}
    return factory.tiny_params(model=model, pretrain={"epochs": 0, **sections.pop("pretrain", {})}, **sections)


def network(backbone: str = "resnet18", seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    return build_backbone(params(backbone, **more).model, 3)


def images(n: int = 2, side: int = 32) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


# --- the network ---


@pytest.mark.parametrize("name", WIDTHS)
def test_any_network_gives_logits_and_features_in_one_pass(name: str) -> None:
    net = network(name).eval()
    check_backbone(net, params(name).model)
    found = features(net, images())
    assert found.shape == (2, WIDTHS[name][1])
    logits = net(images())
    assert all(map(torch.equal, features_and_logits(net, images()), (found, logits)))
    assert_close(net.get_classifier()(found), logits)
    assert head_name(net) == WIDTHS[name][0]
    plain = timm.create_model(name, num_classes=3, **({"img_size": 32} if "vit" in name else {})).eval()
    plain.load_state_dict(net.state_dict())  # timm's own names, and its own result
    assert torch.equal(plain(images()), logits) and type(plain) is type(net)


def test_the_default_is_the_projects_own_vit_bit_for_bit() -> None:
    model = factory.tiny_params().model
    torch.manual_seed(3)
    ours = build_backbone(model, 3)
    torch.manual_seed(3)
    before = build_classifier(model, 3)
    assert type(ours) is Classifier
    assert all(torch.equal(value, before.state_dict()[key]) for key, value in ours.state_dict().items())
    assert architecture(model) == {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    assert architecture(params().model) == {"backbone": "resnet18", "img_size": 32}


def test_the_head_starts_as_asked() -> None:
    small = network(model={"head_init": "small"}).get_classifier()
    assert 1e-5 < small.weight.std() < 3e-5 and not small.bias.any()
    usual = network().get_classifier()
    assert usual.weight.std() > 0.02 and usual.bias.any()


def test_gradient_reaches_all_of_a_resnet() -> None:
    net = network().train()
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)  # timm starts each block's last one at zero
    net(images(4)).log_softmax(dim=1)[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_sizes_of_the_own_vit_mean_nothing_to_others() -> None:
    odd = params(img_size=30, model={"patch_size": 16, "embed_dim": 7, "num_heads": 2}).model
    assert build_backbone(odd, 3)(images(side=30)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        (
            "resnetv2_18",
            32,
            "resnetv2_18 ends in a Conv2d; expected a network with one linear classifier, such as ",
        ),
        ("deit_tiny_distilled_patch16_224", 32, "ends in a tuple; expected"),
        ("mixer_s32_224", 32, "neither a ViT's patch tokens nor a feature map .* found \\(2, 1, 512\\)"),
        ("vit_tiny_patch16_224", 8, "cannot be used on images of 8 px \\(model.img_size\\): "),
    ],
)
def test_networks_that_a_stage_could_not_use_are_refused_before_training(
    name: str, side: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SsferError, match=message):
        run_pretrain(params(name, side))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18.a1_in1k", "resnet18.a1_in1k", "resnet 18"])
def test_names_that_are_not_listed_are_refused(name: str) -> None:
    """Among them those by which timm downloads."""
    with pytest.raises(SsferError, match=r"unknown backbone '.*'.* \(known: vit, .* resnet18, resnet34, resnet50"):
        params(name)


# --- batch norm ---


def test_averages_of_batch_norm_statistics() -> None:
    net = network(small_resnet.NAME).train()
    average = EMA(net, 0.9)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net(images(4))
    average.update(net)
    for key, new in net.state_dict().items():
        found = average.module.state_dict()[key]
        assert_close(found, new if not new.is_floating_point() else 0.9 * before[key] + 0.1 * new)
    assert net.bn1.num_batches_tracked == 1 and not torch.equal(net.bn1.running_mean, before["bn1.running_mean"])
    after = copy.deepcopy(average.state_dict())
    average.train()
    first = average(images(4))
    assert_close(average(images(4)[:1]), first[:1])  # by the averaged statistics, not the batch's
    assert all(torch.equal(value, after[key]) for key, value in average.state_dict().items())


def test_processes_on_gpus_share_batch_norms_and_optimizers_do_not_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    method = METHODS["ema_teacher"](Context(network("resnet18"), factory.tiny_params().methods["ema_teacher"]))
    state, parts = list(method.state_dict()), [id(p) for p in method.parameters()]
    share_norms(method)
    assert list(method.state_dict()) == state and [id(p) for p in method.parameters()] == parts
    norms = [m for m in method.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 40 and all(isinstance(m, nn.SyncBatchNorm) for m in norms)
    asked: list[nn.Module] = []
    monkeypatch.setattr("ssfer.train.distributed.share_norms", asked.append)
    monkeypatch.setattr(method, "to", lambda *args, **more: method)  # there is no GPU to move to
    for world, device in ((1, "cpu"), (2, "cpu"), (1, "cuda"), (2, "cuda")):
        accelerator = SimpleNamespace(prepare=lambda *args: args)
        where = SimpleNamespace(world=world, device=torch.device(device), accelerator=accelerator)
        where.compiles, where.memory_format = lambda network: False, torch.preserve_format
        Trained(method, torch.optim.SGD(method.parameters(), 1.0), where)  # type: ignore[arg-type]
    assert asked == [method]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_conform_with_batch_norm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def student(seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        net = build_backbone(params(small_resnet.NAME, 16).model, method_setup.CLASSES)
        with torch.no_grad():
            net.fc.weight.mul_(3)  # type: ignore[union-attr,operator]
        return net

    monkeypatch.setattr(method_setup, "student", student)
    for check in kit.CHECKS:
        check(name)


# --- weights of a file ---


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, and a small ResNet with another head as its file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    torch.manual_seed(7)
    torch.save(timm.create_model(small_resnet.NAME, num_classes=11).state_dict(), "start.pth")
    return Path("start.pth")


def taken(path: Path | None, backbone: str = small_resnet.NAME, **pretrain: Any) -> Any:
    """Run the stage with this file; return the tensors and metadata that it wrote."""
    given = {"init_from": str(path), "init_sha256": sha256_file(path)} if path else {}
    result = run_pretrain(params(backbone, pretrain={**given, **pretrain}))
    assert result is not None and (result["epochs"], result["images"]) == (0, 0)
    return load_weights(Path("data/weights/pretrain/encoder.safetensors"), "encoder")


def test_torchvisions_file_is_taken_over_bit_for_bit_without_its_head(
    start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(torchvision.models.resnet18(num_classes=11).state_dict(), start)
    state, meta = taken(start, "resnet18")
    before = torch.load(start, weights_only=True)
    assert before.keys() - state.keys() == {"fc.weight", "fc.bias"} and not state.keys() - before.keys()
    assert all(torch.equal(value, before[key]) for key, value in state.items())
    assert meta["arch"] == {"backbone": "resnet18", "img_size": 32} and meta["mean"] is None
    assert meta["init"] == {"kind": "state_dict", "sha256": sha256_file(start)}
    assert "pretrain: resnet18 starts from start.pth (sha256 " in (said := capsys.readouterr().err)
    assert "its pixels were prepared as the file does not say, model.mean is [0.588, 0.459, 0.402]" in said
    net = network(seed=9)
    load_encoder(net, state)
    assert torch.equal(net.layer1[0].bn1.running_var, before["layer1.0.bn1.running_var"])


@pytest.mark.parametrize("form", ["entry", "safetensors", "without counters", "sorted"])
def test_forms_of_files(start: Path, form: str) -> None:
    expected, state = taken(start)[0], torch.load(start, weights_only=True)
    path = Path(f"{form}.safetensors" if form == "safetensors" else f"{form}.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "entry":
        entry = {f"module.{key}": value for key, value in state.items()}
        torch.save({"epoch": 3, "state_dict": entry, "optimizer": {"state": {}}}, path)
    elif form == "sorted":
        torch.save(dict(sorted(state.items(), reverse=True)), path)
    else:
        torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, path)
    found, _ = taken(path)
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


def test_weights_of_ssfer_are_taken_over_and_say_so(start: Path) -> None:
    expected, meta = taken(start)
    shutil.copy("data/weights/pretrain/encoder.safetensors", "own.safetensors")
    found, again = taken(Path("own.safetensors"))
    assert all(torch.equal(found[key], expected[key]) for key in found) and again["init"]["kind"] == "encoder"
    for key, value in (("kind", "mae"), ("arch", {"backbone": small_resnet.NAME, "img_size": 64})):
        save_weights(Path("own.safetensors"), expected, {**meta, key: value})
        with pytest.raises(SsferError, match=f"own.safetensors holds weights of {key} .*, expected "):
            taken(Path("own.safetensors"))


def test_without_a_file_the_start_is_random_and_the_stage_says_so(
    start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, meta = taken(None)
    assert f"pretrain: {small_resnet.NAME} starts at random, as pretrain.init_from is null\n" in capsys.readouterr().err
    again, _ = taken(None)
    assert all(torch.equal(value, again[key]) for key, value in first.items()) and "init" not in meta
    assert not torch.equal(taken(None, seed=5)[0]["conv1.weight"], first["conv1.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bn1.running_var": None}, "1 missing (bn1.running_var), 0 unexpected"),
        ({"layer5.weight": torch.ones(2)}, "0 missing (none), 1 unexpected (layer5.weight)"),
        ({"bn1.weight": torch.ones(2, 2)}, "expected bn1.weight of shape (64,), found (2, 2)"),
    ],
)
def test_files_that_do_not_fit_are_refused(start: Path, change: dict[str, Tensor | None], message: str) -> None:
    state = {**torch.load(start, weights_only=True), **change}
    torch.save({key: value for key, value in state.items() if value is not None}, start)
    with pytest.raises(SsferError) as refused:
        taken(start)
    assert message in str(refused.value) and "start.pth" in str(refused.value)
    assert not Path("data").exists()


def test_other_networks_and_other_files_are_refused(start: Path) -> None:
    with pytest.raises(SsferError, match="start.pth is no vit_tiny_patch16_224: expected a tensor cls_token"):
        taken(start, "vit_tiny_patch16_224")
    with pytest.raises(SsferError, match="start.pth does not fit resnet50: .* missing"):
        taken(start, "resnet50")
    wrong = {"init_from": "start.pth", "init_sha256": "0" * 64}
    with pytest.raises(SsferError, match="has sha256 .*, expected 000"):
        run_pretrain(params(pretrain=wrong))


# --- where it looks, how large it is ---


def test_grad_cam_of_a_resnet_is_that_of_a_slow_loop() -> None:
    net = network("resnet18", img_size=96).eval()
    x = images(3, 96)
    found = grad_cam(net, x, MEAN, STD)
    assert found.shape == (3, 96, 96)
    center, scale = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    for image, cam in zip(x, found, strict=True):
        maps = net.forward_features(((image - center) / scale)[None]).detach().requires_grad_()
        net.forward_head(maps).max().backward()
        assert maps.grad is not None and maps.shape == (1, 512, 3, 3)
        own = sum(slope.mean() * channel for slope, channel in zip(maps.grad[0], maps.detach()[0], strict=True))
        small = min_max(torch.as_tensor(own).relu()[None])[None]
        assert_close(cam, nn.functional.interpolate(small, (96, 96), mode="bilinear", align_corners=False)[0, 0])
    assert found.max() > 0.5


def test_a_map_of_one_place_tells_nothing() -> None:
    assert not grad_cam(network().eval(), images(), MEAN, STD).any()


def test_complexity_is_the_published_one() -> None:
    model: ModelSettings = params_of({"backbone": "resnet18", "img_size": 224})
    counted = complexity(model, 1000)
    assert counted.params == counted.paper_params == 11_689_512
    assert round(counted.macs / 1e9, 2) == 1.81
    assert head_keys(build_backbone(model, 3)) == {"fc.weight", "fc.bias"}
