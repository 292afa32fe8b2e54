"""Small classifiers of every form that a weights file can hold: a ViT, a ResNet, other heads, SIT-FER's levels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssfer.models.backbone import build_backbone
from ssfer.models.expert_head import add_experts
from ssfer.models.experts import ExpertSettings
from ssfer.models.fused import FusedClassifier, UnitFeatures, text_projection
from ssfer.models.settings import ModelSettings
from ssfer.models.sitfer_levels import Levels
from ssfer.models.unit_head import add_unit_head
from tests.support import factory

FORMS = ("plain", "resnet", "experts", "unit", "fused")
# For what takes seconds per form.
SLOW_FORMS = ["plain", *(pytest.param(form, marks=pytest.mark.slow) for form in FORMS[1:])]
PRINT: Any = {"data_fingerprint": "split", "recipe": "r"}


def settings(form: str = "plain", **changes: Any) -> ModelSettings:
    backbone = {"backbone": "resnet18", "img_size": 32} if form == "resnet" else {}
    return factory.tiny_params().model.model_copy(update={"head_init": "torch_default", **backbone, **changes})


def network(form: str) -> nn.Module:
    torch.manual_seed(1)
    net = build_backbone(settings(form), 3)
    if form == "experts":
        net = add_experts(net, ExpertSettings(experts=2, top_k=1))
    if form == "unit":
        net = add_unit_head(net, 0.5, "keep")
    if form == "fused":
        stored = torch.randn(5, 16), torch.eye(3)[[0, 1, 2, 0, 1]]
        body, levels = UnitFeatures(net, 0.0, True), Levels(0.5, 0.1, "softmax_knn", 3)
        net = FusedClassifier(body, text_projection(16, 8), torch.randn(3, 8), *stored, levels, (1.0, 1.0, 0.5))
    return net


def images(form: str) -> Tensor:
    side = 32 if form == "resnet" else 16
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
