"""A small residual network for faces of 40 to 64 pixels, cheap enough to train on a CPU.

A residual network for photos (He et al. 2016) begins with a stride of 4, which leaves 3 x 3 positions of a 48-pixel
face before its last stage. Here the first convolution halves the side, and each stage after the first halves it again.
Basic blocks, batch norm, ReLU; 2.8 million parameters, 62 million multiply-accumulates for an image of 40 pixels.

It is registered with timm as `face_convnet`, so it can be used like every network of timm's. In evaluation
`face_convnet_mirrored`, with the same weights, averages the logits of a face and of its mirror image.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn

WIDTHS = (48, 96, 192, 384)


class FaceConvNet(nn.Module):
    """Images (B, 3, H, W) of any side from 16 pixels -> logits (B, K), with timm's interface of classifiers.

    Args:
        num_classes: K; 0: the features instead.
        widths: channels of the stages; each after the first halves the side.
        mirrored: in eval mode, the logits are the mean over the image and its mirror image.
    """

    def __init__(self, num_classes: int = 1000, widths: tuple[int, ...] = WIDTHS, mirrored: bool = False) -> None:
        super().__init__()
        self.mirrored = mirrored
        self.num_classes, self.num_features = num_classes, widths[-1]
        self.stem = _convolution(3, widths[0], kernel=5, stride=2)
        inputs = (widths[0], *widths[:-1])
        self.stages = nn.Sequential(
            *(Block(i, o, 1 if n == 0 else 2) for n, (i, o) in enumerate(zip(inputs, widths, strict=True)))
        )
        self.fc = nn.Linear(widths[-1], num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """Return the last linear map."""
        return self.fc

    def reset_classifier(self, num_classes: int, *_: Any) -> None:
        """Replace the last linear map by a new one (part of timm's interface)."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the feature map (B, D, H / 16, W / 16) of images (B, 3, H, W); sides are rounded up."""
        found: Tensor = self.stages(self.stem(images))
        return found

    def forward_head(self, spatial: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (B, K) of a feature map, or with `pre_logits` its mean over the positions (B, D)."""
        pooled = spatial.mean(dim=(2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of images (B, 3, H, W)."""
        if not self.mirrored or self.training:
            return self.forward_head(self.forward_features(images))
        both = torch.cat([images, images.flip(3)])  # in one pass: exports then hold the weights once
        return self.forward_head(self.forward_features(both)).unflatten(0, (2, -1)).mean(dim=0)


class Block(nn.Module):
    """Two convolutions and a shortcut, which halves the side by average pooling (He et al. 2019, ResNet-D)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, 3, stride)
        self.second = _convolution(outputs, outputs, 3, 1, active=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
            self.shortcut = nn.Sequential(pool, *_convolution(inputs, outputs, 1, 1, active=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, active: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if active else []))


@register_model
def face_convnet(pretrained: bool = False, num_classes: int = 1000, **_: Any) -> FaceConvNet:
    """Return the network, randomly initialized; there are no weights to download."""
    return FaceConvNet(num_classes)


@register_model
def face_convnet_mirrored(pretrained: bool = False, num_classes: int = 1000, **_: Any) -> FaceConvNet:
    """Return the network whose answer in eval mode is that on a face and its mirror image."""
    return FaceConvNet(num_classes, mirrored=True)
