"""Inputs for the contract of methods: a small network, a method around it, and its batches."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssfer.core.registry import section_name
from ssfer.core.rng import derive
from ssfer.methods.base import Method, SemiSupervised
from ssfer.methods.build import build_method
from ssfer.methods.context import Population
from ssfer.methods.registry import METHODS
from ssfer.methods.shared.settings import StageSettings
from ssfer.models.settings import ModelSettings
from ssfer.models.vit import build_classifier

EXPRESSIONS = ("neutral", "happiness", "surprise", "sadness", "anger")
CLASSES, UNLABELED, SIDE = len(EXPRESSIONS), 20, 16
SMALL = {"experts": 4}  # settings of these names: a small batch has an image for each expert
COUNTS = {"class_count", "kept_count", "correct_count"}  # per class
MONITORS = {"loss", "labeled_loss", "unlabeled_loss", "util_ratio", *COUNTS}

Batch = dict[str, Tensor]


def student(seed: int = 0, classes: int = CLASSES) -> nn.Module:
    """Return a small network that is confident of some images."""
    torch.manual_seed(seed)
    settings = ModelSettings(img_size=SIDE, patch_size=4, embed_dim=16, depth=1, num_heads=2, head_init="torch_default")
    network = build_classifier(settings, classes)
    head = network.head
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.mul_(3)
    return network


def population(classes: Sequence[str]) -> Population:
    """Return facts about a small run with these classes."""
    return Population([(4, 3, 2, 3)[k % 4] for k in range(len(classes))], UNLABELED, 10, tuple(classes))


def build(
    name: str,
    seed: int = 0,
    threshold: float = 0.0,
    average: float | None = None,
    **changes: Any,
) -> SemiSupervised:
    """Return the method by its name, in training mode, near the end of a run.

    Nine of ten steps are done, and the networks that follow the student have moved away from it.

    Args:
        name: of the method.
        seed: of the student's weights.
        threshold: of the method, if it has one; 0 lets all samples pass.
        average: of semisup.average.
        changes: further settings that differ from the defaults.
    """
    settings = METHODS[name].Settings
    own = {key: v for key, v in (SMALL | {"threshold": threshold}).items() if key in settings.model_fields}
    sections = {section_name(name): settings.model_validate(own | changes)}
    method = build_method(student(seed), StageSettings(method=name, average=average), sections, population(EXPRESSIONS))
    method.after_step(8)
    for i, network in enumerate(n for key, n in method.networks().items() if key not in ("student", "average")):
        with torch.no_grad():
            for p in network.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    method.train()
    return method


def batch_of(
    name: str, seed: int = 0, n_lb: int = 4, n_ulb: int = 6, classes: int = CLASSES, side: int = SIDE
) -> Batch:
    """Return a batch with the views that the method declares."""
    g = torch.Generator().manual_seed(seed)

    def images(n: int) -> Tensor:
        return torch.randn(n, 3, side, side, generator=g)

    corner = torch.rand(n_lb, 2, generator=g) * 6
    batch = {
        "x_lb": images(n_lb),
        "y_lb": torch.randint(classes, (n_lb,), generator=g),
        "boxes_lb": torch.cat([corner, corner + 5], dim=1),
        "idx_lb": torch.randperm(16, generator=g)[:n_lb],
        "y_ulb": torch.randint(classes, (n_ulb,), generator=g),
        "idx_ulb": torch.randperm(UNLABELED, generator=g)[:n_ulb],
        **{f"key_{k}": torch.tensor([derive(seed, k, i) for i in range(n)]) for k, n in (("lb", n_lb), ("ulb", n_ulb))},
    }
    return batch | {f"x_ulb_{view}": images(n_ulb) for view in METHODS[name].views}


def wrong_outputs(out: Any, classes: int = CLASSES) -> str:
    """Return what is wrong with the form of what `Method.forward` returned, "" if nothing is."""
    if not isinstance(out, Mapping):
        return f"forward returned a {type(out).__name__}, expected a dict with {', '.join(sorted(MONITORS))}"
    if missing := sorted(MONITORS - out.keys()):
        return f"forward returned no {', '.join(missing)} (ssfer.methods.shared.self_training.report makes them)"
    for name, value in out.items():
        if not isinstance(value, Tensor):
            return f"{name} is a {type(value).__name__}, expected a tensor"
        shape = (classes,) if name in COUNTS else ()
        if value.shape != shape and not (name.endswith("_count") and name not in COUNTS):
            return f"{name} has the shape {tuple(value.shape)}, expected {shape}"
        if not torch.isfinite(value).all():
            return f"{name} is not finite"
        if value.requires_grad is not (name == "loss"):
            return "loss has no gradient" if name == "loss" else f"{name} has a gradient; detach it"
    return ""


def gradients(method: Method, batch: Batch, seed: int = 0) -> dict[str, Tensor]:
    """Return the gradients of the loss by parameter; gradients of the batch's images are in their `.grad`."""
    method.zero_grad()
    torch.manual_seed(seed)
    method(batch)["loss"].backward()
    if method.two_steps:
        method(batch, second=True)["loss"].backward()
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def trained_state(method: Method, name: str, first: int, last: int, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Train steps `first` to `last` - 1 like the training loop; return the losses."""
    losses = []
    for step in range(first, last):
        torch.manual_seed(derive(7, step))
        out = method(batch_of(name, seed=step))
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        if method.two_steps:
            method(batch_of(name, seed=step), second=True)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
        method.after_step(step)
        losses.append(out["loss"].detach())
    return losses


def adamw(method: Method) -> torch.optim.Optimizer:
    """Return an optimizer over the method's trainable parameters."""
    return torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 1e-2)


def stored(state: Any) -> Any:
    """Return a state after a round trip through a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def loose_tensors(module: nn.Module) -> Iterator[str]:
    """Yield the names of tensors that a module and its submodules hold outside parameters and buffers."""
    for prefix, part in module.named_modules():
        for key, value in vars(part).items():
            if key not in ("_parameters", "_buffers", "_modules") and any(map(torch.is_tensor, _leaves(value))):
                yield f"{prefix}.{key}"


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
