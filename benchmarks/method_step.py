"""Time of a semi-supervised method's training step, compared with a supervised step on as many images.

    python -m benchmarks.method_step                                    # all methods, the network of params.yaml
    python -m benchmarks.method_step fixmatch vat --model small --size 112 --rounds 5

A step is that of the training loop: seed, forward, backward, gradient norm, AdamW, `after_step`, running metrics; on
images that are already on the device. The supervised step has one forward and backward pass over the labeled images and
one view of the unlabeled ones, with cross-entropy. The two run in turns; ms are medians over the rounds, and ratios are
medians of each round's ratio, by wall-clock time and by CPU time of all threads.

The learning rate is 0, so that every step does the same work. Images are noise, on which a new network is unsure: most
pseudo-labels do not count, and contrastive losses of uncertain images have all their pairs.

On a GPU `waits` is how often a step made the host wait for it, which none should.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.mae_setup import hardware, print_table
from benchmarks.method_setup import Setup, add_options, batch_for, build, read_options
from ssfer.core.process import stage_main
from ssfer.methods.base import Batch, Method
from ssfer.methods.registry import METHODS
from ssfer.train.device import Machine
from ssfer.train.speed import finish
from ssfer.train.trial import Step, timed, training_step

WARM_UP = 2  # rounds that are not timed
COUNTED = 5  # steps whose waits for the GPU are counted


class Times(NamedTuple):
    """Seconds of every round (R,)."""

    clock: NDArray[np.float64]
    cpu: NDArray[np.float64]


class Compared(NamedTuple):
    """Seconds of a method's step and of the supervised step, and how often its step waits for the GPU (None: a CPU)."""

    step: Times
    peer: Times
    waits: float | None = None

    @property
    def ratio(self) -> float:
        """Return the ratio of wall-clock times."""
        return float(np.median(self.step.clock / self.peer.clock))

    @property
    def cpu_ratio(self) -> float:
        """Return the ratio of CPU times."""
        return float(np.median(self.step.cpu / self.peer.cpu))


class Supervised(Method):
    """One pass over the labeled and one view of the unlabeled images, all with labels."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.forward`."""
        view = next(name for name in batch if name.startswith("x_ulb"))
        logits = self.student(torch.cat([batch["x_lb"], batch[view]]))
        return {"loss": F.cross_entropy(logits, torch.cat([batch["y_lb"], batch["y_ulb"]]))}


def step_of(method: Method, batch: Mapping[str, Tensor], setup: Setup, machine: Machine) -> Step:
    """Return a training step as in the training loop."""
    return training_step(method, batch, machine, setup.semisup.weight_decay, setup.seed, setup.semisup.beta2)


def in_turns(steps: Sequence[Step], rounds: int, machine: Machine) -> list[Times]:
    """Return the seconds of every step in every round; each round starts with another step."""
    clock, cpu = (np.zeros((len(steps), rounds)) for _ in range(2))
    for i in range(-WARM_UP, rounds):
        for k in (j % len(steps) for j in range(i, i + len(steps))):
            finish(machine.device)
            began = time.perf_counter(), time.process_time()
            steps[k]()
            finish(machine.device)
            if i >= 0:
                clock[k, i], cpu[k, i] = time.perf_counter() - began[0], time.process_time() - began[1]
    return [Times(*both) for both in zip(clock, cpu, strict=True)]


def compare(name: str, setup: Setup, rounds: int) -> Compared:
    """Return the times of a method's step and of the supervised step."""
    machine = Machine(setup.machine)  # a new one, because it keeps what it prepares
    batch = batch_for(METHODS[name], setup)
    step = step_of(build(name, setup), batch, setup, machine)
    peer = step_of(Supervised(build("fixmatch", setup).student), batch, setup, machine)
    found = Compared(*in_turns([step, peer], rounds, machine))
    if machine.device.type == "cuda":
        found = found._replace(waits=timed(step, setup.labeled + setup.unlabeled, machine, COUNTED).waits)
    del step, peer, machine
    gc.collect()  # several large networks may not fit
    return found


def row(name: str, found: Compared, images: int) -> list[str]:
    """Return a line of the table; `images` of a step, each counted once."""
    seconds = [float(np.median(times.clock)) for times in (found.step, found.peer)]
    figures = [f"{1000 * s:.1f}" for s in seconds] + [f"{r:.2f}" for r in (found.ratio, found.cpu_ratio)]
    waits = [] if found.waits is None else [f"{found.waits:.1f}"]
    return [name, *figures, f"{images / seconds[0]:.1f}", *waits]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    args = parser.parse_args()
    setup = read_options(args)
    machine = Machine(setup.machine)
    images = setup.labeled + setup.unlabeled
    print(f"{setup.name}, {setup.labeled} + {setup.unlabeled} images a step, {args.rounds} rounds")
    print(f"{hardware(machine)}, torch {torch.__version__}\n")
    waits = ["waits"] if machine.device.type == "cuda" else []
    print_table(["method", "step, ms", "supervised, ms", "ratio", "by CPU time", "images/s", *waits], [])
    for name in args.methods or METHODS:
        print("| " + " | ".join(row(name, compare(name, setup, args.rounds), images)) + " |", flush=True)


if __name__ == "__main__":
    stage_main("method_step", main)
