"""SIT-FER's instance level on a whole test set: one product of matrices against the release's double loop.

Both get the same features and slots and include the products. The loop runs over as many images as asked for, and its
time is scaled up to all of them; the difference is that of these images.

Example:
    python -m benchmarks.instance_level                      # 3,068 test images of RAF-DB, 5,000 labels
    python -m benchmarks.instance_level --looped 3068        # the whole loop: a minute or more
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssfer.core.errors import SsferError
from ssfer.core.process import stage_main
from ssfer.models.sitfer_levels import class_max_probability, softmax_knn_probability

AIM, TOLERANCE = 100, 1e-6
ROUNDS = 5


def looped(features: Tensor, bank: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the instance level of the release, (B, C): each image with each slot, number by number."""
    similarity = features @ bank.T
    rows = []
    for i in range(len(features)):
        best = [0.0] * num_classes
        for j in range(len(bank)):
            score, label = similarity[i, j].item(), int(labels[j])
            if score > best[label]:
                best[label] = score
        rows.append(best)
    return torch.tensor(rows).softmax(dim=1)


def timed(work: Callable[[], Tensor], rounds: int = 1) -> tuple[float, Tensor]:
    """Return the shortest time in seconds of some rounds, and the result."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return min(times), result


def main() -> None:
    """Measure and print; an error where the figures to reach are missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3068)
    parser.add_argument("--slots", type=int, default=5000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=7)
    parser.add_argument("--looped", type=int, default=100, help="images that the loop is run on (default 100)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    features, bank = (F.normalize(torch.randn(n, args.dim, generator=g), dim=1) for n in (args.images, args.slots))
    labels = torch.randint(args.classes, (args.slots,), generator=g)
    few = features[: args.looped]
    fast, found = timed(lambda: class_max_probability(features, bank, labels, args.classes), ROUNDS)
    targets = F.one_hot(labels, args.classes).float()
    knn, _ = timed(lambda: softmax_knn_probability(features, bank, targets), ROUNDS)
    part, expected = timed(lambda: looped(few, bank, labels, args.classes))
    slow = part * args.images / len(few)
    difference = (found[: len(few)] - expected).abs().max().item()
    print(f"{args.images} images x {args.slots} slots, width {args.dim}, one thread, torch {torch.__version__}\n")
    print("| instance level | s | times the loop's speed |\n|---|---|---|")
    print(f"| double loop ({len(few)} images, scaled up) | {slow:.1f} | 1 |")
    print(f"| class_max | {fast:.3f} | {slow / fast:.0f} |")
    print(f"| softmax_knn | {knn:.3f} | {slow / knn:.0f} |\n")
    print(f"largest difference of class_max from the loop: {difference:.1e}")
    if difference > TOLERANCE or slow / fast < AIM:
        raise SsferError(f"expected at least {AIM} times the loop's speed and a difference of {TOLERANCE} at most")


if __name__ == "__main__":
    stage_main("instance_level", main)
