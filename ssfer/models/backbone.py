"""The classifier that params.model names: the project's own ViT, a network of timm's, or a class of the user's own.

Nothing is downloaded here: weights come from a file (pretrain.init_from) or are random.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn

from ssfer.core.errors import SsferError, shortened
from ssfer.core.yaml import read_yaml
from ssfer.models import convnet  # noqa: F401 - registers face_convnet with timm
from ssfer.models.base import BACKBONES, is_own
from ssfer.models.features import check_features, features, has_patch_tokens
from ssfer.models.settings import OWN_BACKBONE, ModelSettings
from ssfer.models.vit import build_classifier, init_head, sizes

# Examples for the message about an unknown name.
COMMON = (
    "resnet18", "resnet34", "resnet50", "resnet101", "vit_tiny_patch16_224", "vit_small_patch16_224",
    "vit_base_patch16_224", "vit_large_patch16_224", "convnext_tiny", "mobilenetv3_small_100", "face_convnet",
)  # fmt: skip


def build_backbone(params: ModelSettings, num_classes: int) -> nn.Module:
    """Return the classifier, randomly initialized, its head according to `head_init`.

    Raises:
        SsferError: an unknown name, a network that cannot take these images or has no linear classifier.
    """
    if params.backbone == OWN_BACKBONE:
        return cast(nn.Module, build_classifier(params, num_classes))
    check_name(params.backbone)
    network = _own(params, num_classes) if is_own(params.backbone) else _of_timm(params, num_classes)
    check_features(network)
    head = cast(Any, network).get_classifier()
    if not isinstance(head, nn.Linear):
        raise SsferError(
            f"model.backbone {params.backbone} ends in a {type(head).__name__}; expected a network with one linear "
            f"classifier, such as {', '.join(COMMON[:3])}"
        )
    init_head(head, params.head_init)
    return network


def _own(params: ModelSettings, num_classes: int) -> nn.Module:
    try:
        network: nn.Module = BACKBONES[params.backbone](num_classes=num_classes, img_size=params.img_size)
    except SsferError:
        raise
    except Exception as error:  # code of others fails in any way
        raise _unfit(params, error) from error
    return network


def _of_timm(params: ModelSettings, num_classes: int) -> nn.Module:
    config = get_pretrained_cfg(params.backbone)
    # Networks that take images of any size do not accept this argument.
    size: dict[str, Any] = {"img_size": params.img_size} if config is not None and config.fixed_input_size else {}
    try:
        return cast(nn.Module, timm.create_model(params.backbone, pretrained=False, num_classes=num_classes, **size))
    except Exception as error:  # each of a thousand networks refuses in its own way
        raise _unfit(params, error) from error


def check_name(name: str) -> None:
    """Refuse a backbone that does not exist.

    Raises:
        SsferError: names the nearest and some of the known ones; a class that is not there or is no backbone.
    """
    if is_own(name):
        BACKBONES[name]
        return
    known = [OWN_BACKBONE, *timm.list_models()]
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise SsferError(
        f"unknown backbone '{shortened(name)}'{hint} (known: {OWN_BACKBONE}, the project's own, and the "
        f"{len(known) - 1} networks that timm.list_models() lists, such as {', '.join(COMMON)})"
    )


@torch.no_grad()
def check_backbone(network: nn.Module, params: ModelSettings) -> None:
    """Run two images of zeros and refuse a network that a later stage could not use; `network` stays as it is.

    Raises:
        SsferError: it cannot take images of this size, its features are not (B, D), or it has no tokens or feature map.
    """
    training = network.training
    images = torch.zeros(2, 3, params.img_size, params.img_size)
    try:
        found = features(network.eval(), images)
        spatial = cast(Any, network).forward_features(images)
    except Exception as error:  # as above
        raise _unfit(params, error) from error
    network.train(training)
    body = cast(Any, network)
    width = body.get_classifier().in_features
    if found.shape != (2, width):
        raise SsferError(f"model.backbone {params.backbone} gives features {tuple(found.shape)}, expected (2, {width})")
    if not has_patch_tokens(network) and (spatial.ndim != 4 or spatial.shape[1] != body.num_features):
        advice = (
            "return a map from forward_features" if is_own(params.backbone) else f"take another, such as {COMMON[0]}"
        )
        raise SsferError(
            f"model.backbone {params.backbone} has neither a ViT's patch tokens nor a feature map (B, C, H, W), one of "
            f"which stage robustness looks at: found {tuple(spatial.shape)}; {advice}"
        )


def architecture(params: ModelSettings) -> dict[str, Any]:
    """Return a network's description for weights files: sizes of the project's ViT, or name and input size."""
    if params.backbone == OWN_BACKBONE:
        return sizes(params)
    return {"backbone": params.backbone, "img_size": params.img_size}


def params_of(arch: Mapping[str, Any]) -> ModelSettings:
    """Return settings for a file's `architecture`; those that it lacks (pixel statistics, head) are placeholders.

    Raises:
        SsferError: the network is a class that the project's params.yaml does not name; a file from elsewhere must not
            decide which code is run.
    """
    name = str(arch.get("backbone", OWN_BACKBONE))
    if is_own(name) and name != _of_project():
        raise SsferError(
            f"the weights belong to {shortened(name)}, a network that is neither ssfer's nor timm's; run this in the "
            "folder of the project whose params.yaml has it as model.backbone; its ONNX file runs anywhere"
        )
    unused = {"patch_size": 1, "embed_dim": 4, "depth": 1, "num_heads": 1} if "backbone" in arch else {}
    return ModelSettings(
        **{"backbone": OWN_BACKBONE, **unused, **arch}, mean=(0.5,) * 3, std=(0.5,) * 3, head_init="small"
    )


def _of_project() -> Any:
    """Return `model.backbone` of params.yaml in the working folder, which files are relative to; None without it."""
    path = Path("params.yaml")
    values = read_yaml(path) if path.is_file() else None
    model = values.get("model") if isinstance(values, Mapping) else None
    return model.get("backbone") if isinstance(model, Mapping) else None


def _unfit(params: ModelSettings, error: Exception) -> SsferError:
    reason = (str(error).strip().splitlines() or [""])[0][:160]
    return SsferError(
        f"model.backbone {params.backbone} cannot be used on images of {params.img_size} px (model.img_size): "
        f"{type(error).__name__}: {reason}"
    )
