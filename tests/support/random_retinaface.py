"""RetinaFace networks with random weights: every tensor matters, and a fair share of the anchors scores as a face."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssfer.faces.detectors.retinaface_network import Network


def random_state(backbone: str, seed: int = 0, extreme: float = 4.0) -> dict[str, Tensor]:
    """Return a state dict with batch norms far from the identity; `extreme` spreads the scores."""
    torch.manual_seed(seed)
    net = Network(backbone)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.weight, 0.7, 1.1)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    with torch.no_grad():
        for head in net.ClassHead:
            head.conv1x1.weight *= extreme
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}
