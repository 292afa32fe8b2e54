"""Weights of others by the names of others: read, accounted for, and computing what they computed there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.testing import assert_close

from ssfer.core.errors import SsferError
from ssfer.formats.checkpoints import read_checkpoint
from ssfer.formats.vit_names import timm_names
from ssfer.formats.weights import load_weights
from ssfer.models.convert import convert
from ssfer.models.import_report import report, run_import
from ssfer.models.mae import MaskedAutoencoder

HEADS: Any = {"num_heads": 4, "decoder_num_heads": 2}
# timm's names -> those of Hugging Face's conversion scripts (vit_mae, vit, dinov2).
HUGGING_FACE = (
    (r"^decoder_blocks\.", "decoder.decoder_layers."),
    (r"^(mask_token|decoder_)", r"decoder.\1"),
    (r"^cls_token", "vit.embeddings.cls_token"),
    (r"^pos_embed", "vit.embeddings.position_embeddings"),
    (r"^patch_embed\.proj", "vit.embeddings.patch_embeddings.projection"),
    (r"^norm\.", "vit.layernorm."),
    (r"^head\.", "classifier."),
    (r"^blocks\.", "vit.encoder.layer."),
    (r"attn\.proj", "attention.output.dense"),
    (r"norm1", "layernorm_before"),
    (r"norm2", "layernorm_after"),
    (r"mlp\.fc1", "intermediate.dense"),
    (r"mlp\.fc2", "output.dense"),
)
DINO = (
    (r"^cls_token", "embeddings.cls_token"),
    (r"^mask_token", "embeddings.mask_token"),
    (r"^pos_embed", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"attn\.proj", "attention.output.dense"),
    (r"ls([12])\.gamma", r"layer_scale\1.lambda1"),
)
# timm's names -> those of OpenAI's and open_clip's visual tower, and of Hugging Face's CLIP.
CLIP = (
    (r"^cls_token", "class_embedding"),
    (r"^pos_embed", "positional_embedding"),
    (r"^patch_embed\.proj", "conv1"),
    (r"^norm_pre", "ln_pre"),
    (r"^norm\.", "ln_post."),
    (r"^blocks\.", "transformer.resblocks."),
    (r"norm([12])\.", r"ln_\1."),
    (r"attn\.qkv\.", "attn.in_proj_"),
    (r"attn\.proj", "attn.out_proj"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
)
CLIP_OF_HUGGING_FACE = (
    (r"^cls_token", "embeddings.class_embedding"),
    (r"^pos_embed", "embeddings.position_embedding.weight"),
    (r"^patch_embed\.proj", "embeddings.patch_embedding"),
    (r"^norm_pre", "pre_layrnorm"),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.", "encoder.layers."),
    (r"norm([12])\.", r"layer_norm\1."),
    (r"attn\.proj", "self_attn.out_proj"),
)


def named(state: dict[str, Tensor], names: Any, qkv: str | None = None) -> dict[str, Tensor]:
    """Return tensors by other names; `qkv` says where queries, keys and values go, one tensor each."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if qkv and ".attn.qkv." in name:
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[name.replace("attn.qkv", qkv.format(part, part[0]))] = third.clone()
        else:
            found[name] = value
    for pattern, new in names:
        found = {re.sub(pattern, new, name): value for name, value in found.items()}
    return found


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """Return the network with numbers as after training: no bias is zero, no norm is one."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.1 * torch.randn(value.shape))
    return network.eval()


def vit(**more: Any) -> nn.Module:
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 4}
    return shaken(VisionTransformer(**{**sizes, "num_classes": 0, **more}))


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


@pytest.mark.parametrize("before", ["", "model."])
def test_hugging_faces_mae_computes_the_same(tmp_path: Path, before: str) -> None:
    own = shaken(MaskedAutoencoder(16, 4, 16, 2, 4, 12, 1, 2))
    theirs = named(own.state_dict(), HUGGING_FACE, "attention.attention.{}")
    assert {"vit.encoder.layer.1.attention.attention.query.weight", "decoder.decoder_layers.0.output.dense.bias"} < set(
        theirs
    )
    path = saved(tmp_path / "pytorch_model.bin", {before + name: value for name, value in theirs.items()})
    source = read_checkpoint(path, others=True)
    weights = convert(source, **HEADS)
    assert (weights.kind, source.whose, source.prefix) == ("mae", "Hugging Face", before)
    again = MaskedAutoencoder(16, 4, 16, 2, 4, 12, 1, 2)
    again.load_state_dict(weights.state)
    images, noise = torch.randn(3, 3, 16, 16), torch.rand(3, 16)
    assert_close(again.eval()(images, noise=noise).loss, own(images, noise=noise).loss, rtol=0, atol=0)
    assert "names of Hugging Face" in "\n".join(report(source, weights))


def test_hugging_faces_classifier_gives_the_same_logits(tmp_path: Path) -> None:
    own = vit(num_classes=7)
    theirs = named(own.state_dict(), HUGGING_FACE, "attention.attention.{}")
    assert "classifier.weight" in theirs
    weights = convert(read_checkpoint(saved(tmp_path / "w.bin", theirs), others=True), num_heads=4)
    assert weights.kind == "classifier"
    again = vit(num_classes=7)
    again.load_state_dict(weights.state)
    images = torch.randn(2, 3, 16, 16)
    assert_close(again(images), own(images), rtol=0, atol=0)


@pytest.mark.parametrize("names", [(), DINO])
def test_dinov2s_scales_are_folded_and_the_features_stay(tmp_path: Path, names: Any) -> None:
    own = vit(init_values=0.3)
    state = {**own.state_dict(), "mask_token": torch.zeros(1, 16)}
    theirs = named(state, names, "attention.attention.{}" if names else None)
    source = read_checkpoint(saved(tmp_path / "dinov2.pth", theirs), others=True)
    weights = convert(source, num_heads=4)
    assert weights.kind == "encoder" and set(weights.dropped) == {
        "mask_token", *(f"blocks.{i}.ls{k}.gamma" for i in (0, 1) for k in (1, 2))
    }  # fmt: skip
    again = vit()
    again.load_state_dict(weights.state)
    images = torch.randn(2, 3, 16, 16)
    assert_close(again.forward_features(images), own.forward_features(images), rtol=1e-4, atol=1e-5)
    assert "multiplied into the map before it" in "\n".join(report(source, weights))


@pytest.mark.parametrize("before", ["model.", "net.", "backbone.", "model.backbone."])
def test_lightning_and_backbone_checkpoints(tmp_path: Path, before: str) -> None:
    """A head beside the backbone makes a classifier; what else lies there is listed and not read."""
    own = vit(num_classes=7)
    state = {before + name: value for name, value in own.state_dict().items() if not name.startswith("head.")}
    head = before if "backbone" not in before else before.removesuffix("backbone.")
    state |= {f"{head}fc.{name}": getattr(own.head, name).data for name in ("weight", "bias")}
    state |= {"criterion.weight": torch.ones(7), "loss.\x1b[2J": torch.ones(1)}
    path = saved(tmp_path / "last.ckpt", {"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1}})
    source = read_checkpoint(path, others=True)
    if "backbone" in before:
        weights = convert(source, num_heads=4)
        assert weights.kind == "classifier"
        again = vit(num_classes=7)
        again.load_state_dict(weights.state)
        images = torch.randn(2, 3, 16, 16)
        assert_close(again(images), own(images), rtol=0, atol=0)
        assert source.outside == {"criterion.weight": (7,), "loss.\x1b[2J": (1,)}
    else:  # `model.fc` has the prefix of the network: a tensor that no ViT has
        with pytest.raises(SsferError, match="2 unexpected .fc.bias, fc.weight"):
            convert(source, "encoder", num_heads=4)


def test_several_networks_in_one_state_dict_are_chosen_by_name(tmp_path: Path) -> None:
    both = {f"{who}.{name}": value for i, who in enumerate(("student", "teacher")) for name, value in
            shaken(vit(), i).state_dict().items()}  # fmt: skip
    path = saved(tmp_path / "w.pth", {"state_dict": both})
    with pytest.raises(SsferError, match=r"several state dicts, choose one with --entry: state_dict.student, state_"):
        read_checkpoint(path, others=True)
    chosen = read_checkpoint(path, "state_dict.teacher", others=True)
    assert torch.equal(chosen.state["norm.bias"], both["teacher.norm.bias"]) and "norm.bias" in chosen.state


@pytest.mark.parametrize("form", ["open_clip", "hugging_face"])
def test_clips_vision_tower_becomes_timms_network(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "vit_base_patch32_clip_224"
    own = timm.create_model(name, num_classes=0)
    state = own.state_dict()
    if form == "open_clip":
        theirs = {f"visual.{k}": v for k, v in named(state, CLIP).items()}
        theirs |= {"visual.proj": torch.ones(768, 512), "token_embedding.weight": torch.ones(8, 4)}
        squeezed = ("visual.class_embedding", "visual.positional_embedding")
    else:
        tower = named(state, CLIP_OF_HUGGING_FACE, "self_attn.{1}_proj")
        theirs = {f"vision_model.{k}": v for k, v in tower.items()}
        theirs |= {"visual_projection.weight": torch.ones(512, 768), "text_model.norm": torch.ones(4)}
        squeezed = ("vision_model.embeddings.class_embedding", "vision_model.embeddings.position_embedding.weight")
    for key in squeezed:
        theirs[key] = theirs[key].squeeze()
    save_file({k: v.contiguous() for k, v in theirs.items()}, tmp_path / "clip.safetensors")
    with pytest.raises(SsferError, match="vision tower of a CLIP, .* --backbone vit_base_patch16_clip_224"):
        convert(read_checkpoint(tmp_path / "clip.safetensors", others=True))
    with pytest.raises(SsferError, match="a network of timm's needs the statistics .* --pixels"):
        run_import(tmp_path / "clip.safetensors", tmp_path / "out.safetensors", backbone=name)
    run_import(tmp_path / "clip.safetensors", tmp_path / "out.safetensors", backbone=name, pixels="clip")
    loaded, meta = load_weights(tmp_path / "out.safetensors", "encoder")
    assert meta["arch"] == {"backbone": name, "img_size": 224}
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state), "timm computes what it computed"
    said = capsys.readouterr().out
    assert "names of CLIP" in said and ("not read, beside the network: " in said)


def test_a_resnet_under_a_lightning_prefix(tmp_path: Path) -> None:
    own = timm.create_model("resnet18", num_classes=5)
    state = {f"model.{name}": value for name, value in own.state_dict().items()}
    path = saved(tmp_path / "resnet.ckpt", {"state_dict": state, "pytorch-lightning_version": "2.4.0"})
    run_import(path, tmp_path / "out.safetensors", backbone="resnet18", pixels="imagenet")
    loaded, _ = load_weights(tmp_path / "out.safetensors", "encoder")
    assert "fc.weight" not in loaded
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in loaded.items())
    with pytest.raises(SsferError, match="resnet50"):
        run_import(path, tmp_path / "other.safetensors", backbone="resnet50", pixels="imagenet")


def test_incomplete_queries_are_left_to_the_check_of_names() -> None:
    state = {"vit.embeddings.cls_token": torch.ones(1, 1, 4)}
    state |= {f"vit.encoder.layer.0.attention.attention.{part}.weight": torch.ones(4, 4) for part in ("query", "value")}
    found, _ = timm_names(state)
    assert sorted(found) == ["blocks.0.attn.q.weight", "blocks.0.attn.v.weight", "cls_token"]
