"""Time of a FaceMix training step against plain mixup with as many forward passes, and what each kappa adds.

    python -m benchmarks.facemix_step                  # the network of params.yaml
    python -m benchmarks.facemix_step --network base   # ViT-B/16 at 224 px

Plain mixup here also sends the real images through the network and adds their cross-entropy, in the same one pass, so
that both do the same work but for FaceMix's weights. A step is forward, backward and AdamW, as the engine runs it: bf16
on a GPU, float32 on a CPU. The ways take turns, step by step, in another order every round; figures are medians, the
ratio is the median of each round's own. Boxes are cached ones, as by default. The last column is kappa alone.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.config.schema import load_params
from ssfer.core.pixels import normalize
from ssfer.core.process import stage_main
from ssfer.methods.base import Batch, Method
from ssfer.methods.facemix import FaceMix, FaceMixSettings
from ssfer.methods.shared.losses import mix_images, mixed_target, soft_cross_entropy
from ssfer.models.settings import ModelSettings
from ssfer.models.vit import build_classifier
from ssfer.train.optim import adamw, param_groups
from ssfer.train.speed import finish

CLASSES = 7
NETWORKS = {"small": (384, 12), "base": (768, 12)}  # width and depth of 16 px patches at 224 px
KAPPAS = ("iou", "psnr", "ssim", "fsim")
LIMIT = 1.05
WARM_UP = 3  # rounds before the clock counts


class MixupAndReal(Method):
    """Plain mixup that also learns from the real images."""

    def __init__(self, student: nn.Module, label_smoothing: float) -> None:
        super().__init__(student)
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`."""
        images, labels, lam = batch["x_lb"], batch["y_lb"], torch.rand(()).item()
        logits_real, logits_mixed = self.student(torch.cat([images, mix_images(images, lam)])).chunk(2)
        target = mixed_target(labels, CLASSES, lam, self.label_smoothing)
        accuracy = (logits_real.detach().argmax(dim=1) == labels).float().mean()
        loss = soft_cross_entropy(logits_mixed, target).mean() + F.cross_entropy(logits_real, labels)
        return {"loss": loss, "train_accuracy": accuracy}


def one_step(method: Method, batch: Batch, device: torch.device) -> Callable[[], None]:
    """Return a training step."""
    method.to(device).train()
    optimizer = adamw(param_groups(method, 0.05, decay_all=True), 1e-4)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            out = method(batch)
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return how long some work takes."""
    finish(device)
    start = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - start


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, np.ndarray]:
    """Return the seconds of every way in every round."""
    order, times = random.Random(0), {name: np.zeros(rounds) for name in ways}
    for i in range(-WARM_UP, rounds):
        for name in order.sample(list(ways), len(ways)):
            spent = seconds(ways[name], device)
            if i >= 0:
                times[name][i] = spent
    return times


def made_up(model: ModelSettings, size: int, device: torch.device) -> dict[str, Tensor]:
    """Return a batch of noise with boxes that overlap."""
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (size, 3, model.img_size, model.img_size), generator=g, dtype=torch.uint8)
    corner = torch.rand(size, 2, generator=g) * model.img_size / 4
    batch = {
        "x_lb": normalize(pixels, model.mean, model.std),
        "y_lb": torch.randint(CLASSES, (size,), generator=g),
        "boxes_lb": torch.cat([corner, corner + model.img_size / 2], dim=1),
    }
    return {name: value.to(device) for name, value in batch.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, help="instead of the one of params.yaml")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    params = load_params()
    model = params.model
    if args.network:
        width, depth = NETWORKS[args.network]
        size = {"img_size": 224, "patch_size": 16, "embed_dim": width, "depth": depth, "num_heads": 12}
        model = ModelSettings(**{**model.model_dump(), **size})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = made_up(model, args.batch, device)

    def facemix(kappa: str) -> FaceMix:
        mixing = FaceMixSettings(**{**params.finetune.facemix.model_dump(), "mode": "facemix", "kappa": kappa})
        return FaceMix(build_classifier(model, CLASSES), mixing, model)

    methods = {f"FaceMix, {kappa}": facemix(kappa) for kappa in KAPPAS}
    plain = MixupAndReal(build_classifier(model, CLASSES), params.finetune.facemix.label_smoothing)
    steps = {"mixup": one_step(plain, batch, device)}
    steps |= {name: one_step(method, batch, device) for name, method in methods.items()}
    times = in_turns(steps, args.rounds, device)
    alone = {name: partial(method.kappa, batch["x_lb"], batch["boxes_lb"]) for name, method in methods.items()}
    kappas = in_turns(alone, args.rounds, device)

    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {args.threads} threads"
    print(f"{where}, torch {torch.__version__}, batch {args.batch}, {args.rounds} rounds")
    print(f"network: width {model.embed_dim}, depth {model.depth}, {model.img_size} px\n")
    print("| step | ms | x mixup | kappa alone, ms |\n|---|---|---|---|")
    for name, spent in times.items():
        ratio = np.median(spent / times["mixup"])
        kappa = f"{1000 * np.median(kappas[name]):.2f}" if name in kappas else ""
        print(f"| {name} | {1000 * np.median(spent):.1f} | {ratio:.3f} | {kappa} |")
    ratio = np.median(times["FaceMix, iou"] / times["mixup"])
    verdict = "met" if ratio <= LIMIT else "missed"
    print(f"\nFaceMix takes {ratio:.3f} times as long as mixup; the aim, at most {LIMIT}, is {verdict}")


if __name__ == "__main__":
    stage_main("facemix_step", main)
