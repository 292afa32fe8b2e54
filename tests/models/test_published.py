"""Published weights that rows start from, imitated with random ones: kept as what `pretrain.init_from` takes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ssfer.cli.fetch import fetch
from ssfer.core.errors import SsferError
from ssfer.formats.weights import load_weights
from ssfer.models.backbone import architecture, build_backbone
from ssfer.models.published import PUBLISHED, TIMM, keep_encoder
from ssfer.models.settings import ModelSettings


def imitation(name: str, path: Path) -> dict[str, torch.Tensor]:
    """Write random weights of a network as timm publishes them, with a head of 1,000 classes."""
    torch.manual_seed(1)
    state = build_backbone(ModelSettings(backbone=name, img_size=224), 1000).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return state


@pytest.mark.parametrize("name", ["mobilenetv2_100", "vit_tiny_patch16_224"])
def test_network_of_timms_becomes_an_encoder(tmp_path: Path, name: str) -> None:
    state = imitation(name, tmp_path / "model.safetensors")
    said: list[str] = []
    out = fetch(name, tmp_path / "kept.safetensors", file=tmp_path / "model.safetensors", say=said.append)
    kept, meta = load_weights(out, "encoder")
    assert all(torch.equal(value, state[key]) for key, value in kept.items())
    assert {key for key in state if key not in kept} == {key for key in state if value_of_head(key)}
    assert meta["arch"] == architecture(ModelSettings(backbone=name, img_size=224))
    assert meta["mean"] == ([0.5] * 3 if name.startswith("vit") else [0.485, 0.456, 0.406])
    assert meta["imported"]["source"] == PUBLISHED[name].url and name in said[-1]


def value_of_head(key: str) -> bool:
    return key.startswith(("head.", "classifier."))


def test_vit_for_table_11_becomes_one_of_our_own(tmp_path: Path) -> None:
    imitation("vit_tiny_patch16_224", tmp_path / "model.safetensors")
    with pytest.raises(SsferError, match="^model.safetensors holds a ViT of width 192, expected 768$"):
        fetch("vit_base_imagenet21k", tmp_path / "kept.safetensors", file=tmp_path / "model.safetensors", say=print)
    keep_encoder("half", "tiny")(tmp_path / "model.safetensors", tmp_path / "kept.safetensors", {})
    _, meta = load_weights(tmp_path / "kept.safetensors", "encoder")
    assert (meta["arch"]["embed_dim"], meta["arch"]["depth"], meta["mean"]) == (192, 12, [0.5, 0.5, 0.5])


def test_another_networks_file_leaves_nothing(tmp_path: Path) -> None:
    imitation("mobilenetv2_100", tmp_path / "model.safetensors")
    with pytest.raises(SsferError, match="resnet18") as refusal:
        fetch("resnet18", tmp_path / "kept.safetensors", file=tmp_path / "model.safetensors", say=print)
    assert "\n" not in str(refusal.value) and not (tmp_path / "kept.safetensors").exists()


def test_every_address_is_the_hubs_or_metas() -> None:
    for name, published in PUBLISHED.items():
        place = "https://huggingface.co/timm/" if name != "mae_pretrain_vit_base" else "https://dl.fbaipublicfiles.com/"
        assert published.url.startswith(place)
    assert all(f"/{name}.{tag}/" in PUBLISHED[name].url for name, (tag, _) in TIMM.items())


def test_a_converted_vit_says_where_it_is_from(tmp_path: Path) -> None:
    imitation("vit_tiny_patch16_224", tmp_path / "model.safetensors")
    origin = {"source": "https://example.org/vit", "license": "CC BY-NC 4.0"}
    keep_encoder("half", "tiny")(tmp_path / "model.safetensors", tmp_path / "kept.safetensors", origin)
    imported = load_weights(tmp_path / "kept.safetensors", "encoder")[1]["imported"]
    assert origin.items() <= imported.items() and imported["file"] == "model.safetensors"
