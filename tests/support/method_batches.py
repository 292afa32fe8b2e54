"""Small students and batches for tests of single methods."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssfer.core.rng import derive
from ssfer.methods.base import Method
from ssfer.methods.build import build_method
from ssfer.methods.context import Context, Population
from ssfer.methods.leaf import LEAF
from ssfer.models.vit import build_classifier
from tests.support.factory import tiny_params

Batch = dict[str, Tensor]


def student(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_classifier(tiny_params(model={"head_init": "torch_default"}).model, 3)


def batch_of(seed: int = 0, n_lb: int = 4, n_ulb: int = 6) -> Batch:
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(n_lb, 2, generator=g) * 6
    return {
        "x_lb": torch.randn(n_lb, 3, 16, 16, generator=g),
        "y_lb": torch.randint(3, (n_lb,), generator=g),
        "boxes_lb": torch.cat([corner, corner + 5 + corner.flip(0)], dim=1),
        "x_ulb_w": torch.randn(n_ulb, 3, 16, 16, generator=g),
        "x_ulb_s": torch.randn(n_ulb, 3, 16, 16, generator=g),
        "y_ulb": torch.randint(3, (n_ulb,), generator=g),
        "key_ulb": torch.tensor([derive(seed, i) for i in range(n_ulb)]),
        "x_ulb_w2": torch.randn(n_ulb, 3, 16, 16, generator=g),
    }


def leaf_method(**changes: Any) -> LEAF:
    """LEAF with a low threshold, which some images reach and others do not."""
    params = tiny_params(methods={"leaf": {"threshold": 0.45, "dropout": 0.1} | changes}).methods["leaf"]
    network = student()
    with torch.no_grad():
        network.head.weight.mul_(3)
    torch.manual_seed(0)
    method = LEAF(Context(network, params))
    for expert in method.student.head.instance.experts:
        nn.init.constant_(expert.narrow.bias, 2.0)  # with 3 classes it is the only hidden unit: let it not be dead
    return method


def built(
    name: str, network: nn.Module, population: Population | None = None, own: dict[str, Any] | None = None, **stage: Any
) -> Any:
    """Return the method of this name, with changes of its own section and of section semisup."""
    p = tiny_params(semisup={"method": name, **stage}, methods={name: own or {}})
    return build_method(network, p.semisup, p.methods, population)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def backward(method: Method, batch: Batch) -> dict[str, Tensor]:
    """Return the student's gradients of the loss."""
    method.zero_grad()
    method(batch)["loss"].backward()
    return gradients(method.student)
