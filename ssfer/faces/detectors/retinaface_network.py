"""The networks of RetinaFace (Deng et al. 2019, arXiv 1905.00641), ready for inference.

Pyramid, context modules (SSH) and heads are those of retinaface-pytorch (MIT), as is the ResNet-50 body; MobileNetV1
x0.25 (arXiv 1704.04861, a quarter of the channels) is built here. Parameters carry the names of the published state
dicts, so files trained with either of the two common PyTorch implementations fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from retinaface.net import FPN, SSH, conv_bn, conv_dw
from retinaface.network import RetinaFace
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter

RESNET50, MOBILENET = "resnet50", "mobilenet0.25"
BACKBONES = (RESNET50, MOBILENET)
# The network's input: RGB pixels 0..255 as (x - mean) / std. "imagenet" is torchvision's and retinaface-pytorch's;
# "caffe" subtracts the mean only and was trained on BGR, so the first convolution's input channels are reversed.
PREPROCESS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)),
    "caffe": ((123.0, 117.0, 104.0), (1.0, 1.0, 1.0)),
}
_SLOPE = 0.1  # of the leaky rectifiers in MobileNet


class MobileNetBody(nn.Module):
    """MobileNetV1 with a quarter of the channels; returns the features at strides 8, 16, 32 by name."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(conv_bn(3, 8, 2, _SLOPE), *_depthwise((8, 16, 32, 32, 64, 64), (1, 2, 1, 2, 1)))
        self.stage2 = nn.Sequential(*_depthwise((64, *6 * (128,)), (2, 1, 1, 1, 1, 1)))
        self.stage3 = nn.Sequential(*_depthwise((128, 256, 256), (2, 1)))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the features (B, C, H / stride, W / stride) of images (B, 3, H, W)."""
        fine = self.stage1(x)
        middle = self.stage2(fine)
        return {"1": fine, "2": middle, "3": self.stage3(middle)}


def _depthwise(channels: tuple[int, ...], strides: tuple[int, ...]) -> list[nn.Sequential]:
    return [conv_dw(a, b, stride) for a, b, stride in zip(channels[:-1], channels[1:], strides, strict=True)]


class Network(RetinaFace):
    """Pixels (B, 3, H, W) to box offsets (B, P, 4), class scores before softmax (B, P, 2), landmarks (B, P, 10).

    The library's forward pass with either body; the library itself builds ResNet-50 only.
    """

    def __init__(self, backbone: str) -> None:
        nn.Module.__init__(self)
        if backbone == RESNET50:
            names = {"layer2": "1", "layer3": "2", "layer4": "3"}
            self.body = IntermediateLayerGetter(resnet50(weights=None), names)
            channels, width = [512, 1024, 2048], 256
        else:
            self.body = MobileNetBody()
            channels, width = [64, 128, 256], 64
        self.fpn = FPN(channels, width)
        self.ssh1, self.ssh2, self.ssh3 = SSH(width, width), SSH(width, width), SSH(width, width)
        self.ClassHead = self._make_class_head(3, width)
        self.BboxHead = self._make_bbox_head(3, width)
        self.LandmarkHead = self._make_landmark_head(3, width)


def expected_shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of all tensors in the weights of a backbone."""
    with torch.device("meta"):
        return {k: tuple(v.shape) for k, v in Network(backbone).state_dict().items() if not is_counter(k)}


def is_counter(name: str) -> bool:
    """Return whether a tensor is a batch norm's step counter, which inference does not need and old files lack."""
    return name.endswith("num_batches_tracked")


def build_network(state: Mapping[str, Tensor], backbone: str, preprocess: str) -> Network:
    """Return the network in eval mode, batch norm folded into the convolutions, channels innermost, input RGB.

    Args:
        state: as `expected_shapes`; not changed.
    """
    with torch.device("meta"):  # no time lost on random numbers
        net = Network(backbone)
    net.load_state_dict({k: v.float() for k, v in state.items() if not is_counter(k)}, strict=False, assign=True)
    _fold_batch_norm(net)
    if preprocess == "caffe":
        first = net.body.conv1 if backbone == RESNET50 else net.body.stage1[0][0]
        first.weight = nn.Parameter(first.weight.flip(1))  # BGR -> RGB
    # Channels innermost and several pictures at once: the fastest form measured on CPU, the natural one on CUDA.
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _fold_batch_norm(net: nn.Module) -> None:
    """Multiply every batch norm into the convolution before it, in double precision."""
    for module in net.modules():
        for (_, conv), (name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None and norm.running_var is not None
                scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
                bias = norm.bias.double() - norm.running_mean.double() * scale
                conv.weight = nn.Parameter((conv.weight.double() * scale[:, None, None, None]).float())
                conv.bias = nn.Parameter(bias.float())
                setattr(module, name, nn.Identity())
