"""Set up the benchmark of the methods' steps: options, a network, a method around it, a batch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.mae_setup import PATCH, ROOT, SIZES
from ssfer.config.schema import load_params
from ssfer.core.errors import SsferError, unknown_name
from ssfer.core.labels import EXPRESSIONS
from ssfer.core.settings import Section
from ssfer.methods.base import Method
from ssfer.methods.build import build_method
from ssfer.methods.registry import METHODS
from ssfer.methods.shared.imbalance import Population
from ssfer.models.settings import ModelSettings
from ssfer.models.vit import build_classifier
from ssfer.train.settings import MachineSettings, SemisupSettings
from ssfer.train.trial import noise_batch

CLASSES = 7
LABELED, UNLABELED = 80, 5000  # least numbers of images: labeled per class, unlabeled in total
STEPS = 1000  # of the whole run, of which one step is measured


@dataclass(frozen=True)
class Setup:
    """A network, its training settings and the machine's.

    Attributes:
        labeled, unlabeled: images per step.
    """

    name: str
    model: ModelSettings
    semisup: SemisupSettings
    methods: Mapping[str, Section]
    machine: MachineSettings
    labeled: int
    unlabeled: int
    seed: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose methods, network, batch and machine."""
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="as in semisup.method (default: all)")
    parser.add_argument("--model", choices=["demo", *SIZES], default="demo", help="ViT (default demo: params.yaml's)")
    parser.add_argument("--size", type=int, help="image side in pixels (default: the demo's, else 224)")
    parser.add_argument("--labeled", type=int, default=64, help="labeled images a step (default: 64)")
    parser.add_argument("--unlabeled", type=int, help="unlabeled ones (default: labeled times params.yaml's uratio)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compile", action="store_true", help="the networks, as training does on CUDA")
    parser.add_argument("--threads", type=int, default=1)


def read_options(args: argparse.Namespace) -> Setup:
    """Return the setup that the options choose.

    Raises:
        SsferError: an unknown method, a size that is not a multiple of the patch size, an empty batch.
    """
    for name in args.methods:
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
    params = load_params(ROOT / "params.yaml")
    model: dict[str, Any] = params.model.model_dump()
    if args.model != "demo":
        (dim, depth, heads), _ = SIZES[args.model]
        model |= {"img_size": 224, "patch_size": PATCH, "embed_dim": dim, "depth": depth, "num_heads": heads}
    model["img_size"] = model["img_size"] if args.size is None else args.size
    patch = model["patch_size"]
    if model["img_size"] % patch or model["img_size"] <= patch:
        raise SsferError(f"expected a --size of several patches of {patch} pixels, found {args.size}")
    labeled = args.labeled
    unlabeled = labeled * params.semisup.uratio if args.unlabeled is None else args.unlabeled
    for name, found in (
        ("labeled", labeled),
        ("unlabeled", unlabeled),
        ("rounds", args.rounds),
        ("threads", args.threads),
    ):
        if found < 1:
            raise SsferError(f"expected --{name} of at least 1, found {found}")
    own = {"device": args.device, "threads": args.threads, "compile": args.compile, "max_batch": None}
    return Setup(
        f"ViT-{args.model}/{model['patch_size']} at {model['img_size']} px",
        ModelSettings.model_validate(model),
        params.semisup,
        params.methods,
        MachineSettings.model_validate({**params.machine.model_dump(), **own}),
        labeled,
        unlabeled,
        args.seed,
    )


def batch_for(method: type[Method], setup: Setup) -> dict[str, Tensor]:
    """Return a step's batch of noise, with the entries and views that the training loop gives this method."""
    sizes, totals = (setup.labeled, setup.unlabeled), (CLASSES * LABELED, UNLABELED)
    return noise_batch(method, setup.model, sizes, totals, CLASSES, setup.seed)


def build(name: str, setup: Setup) -> Method:
    """Return a method around a new network, with the settings of params.yaml."""
    torch.manual_seed(setup.seed)
    student = build_classifier(setup.model.model_copy(update={"head_init": "torch_default"}), CLASSES)
    per_class = max(LABELED, -(-setup.labeled // CLASSES))
    population = Population([per_class] * CLASSES, max(UNLABELED, setup.unlabeled), STEPS, EXPRESSIONS[:CLASSES])
    return build_method(student, setup.semisup.model_copy(update={"method": name}), setup.methods, population)
