"""A ResNet of timm's small enough for tests, known to `timm.create_model` as `ssfer_small_resnet` once imported."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.resnet import BasicBlock, ResNet

NAME = "ssfer_small_resnet"


@register_model
def ssfer_small_resnet(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """Four blocks; a last map of an eighth of the side, so that one image has several values per channel."""
    assert not pretrained
    known = {key: kwargs[key] for key in ("num_classes",)}
    return ResNet(
        BasicBlock, (1, 1, 1, 1), stem_width=8, channels=(8, 8, 16, 16), output_stride=8, zero_init_last=False, **known
    )
