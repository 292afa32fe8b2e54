"""Hours that MAE pretraining takes, worked out from images a second that were measured.

    python -m benchmarks.pretrain_hours
    python -m benchmarks.pretrain_hours --figures feed.json --scaling scaling.json --processes 1 8
    python -m benchmarks.pretrain_hours --rate 3000 --efficiency 0.9

The speed of one process is, in this order: --rate; what `--json` of mae_step or pretrain_feed wrote; measured now, the
training step of ViT-B/16 here (slow on a CPU). The efficiency of several processes is --efficiency or what `--json` of
scaling wrote. Hours of a number of processes that was not measured say "at least": efficiency falls with the number,
and nothing is faster than N times one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.mae_setup import add_options, hardware, print_table, read_figures, read_options
from benchmarks.mae_step import OURS, interleaved, ways
from ssfer.core.errors import SsferError
from ssfer.core.files import write_json
from ssfer.core.process import stage_main
from ssfer.train.device import Machine

IMAGES, EPOCHS = 1_200_000, 600  # the paper's stage 1


def hours(images: float, epochs: float, rate: float, processes: int = 1, efficiency: float = 1.0) -> float:
    """Return hours of training.

    Args:
        rate: images a second of one process.
        efficiency: speed of the processes together, over their number times `rate`; has no meaning for one.
    """
    return images * epochs / (rate * processes * (efficiency if processes > 1 else 1.0)) / 3600


def measured_rate(args: argparse.Namespace) -> tuple[float, str]:
    """Return images a second and where the figure comes from."""
    if args.rate is not None:
        if args.rate <= 0:
            raise SsferError(f"expected a --rate above 0 images a second, found {args.rate}")
        return args.rate, "given by --rate"
    if args.figures is not None:
        found = read_figures(args.figures)
        return float(found["images_per_second"]), f"{found['network']}, batch {found['batch']}, {found['hardware']}"
    setup = read_options(args)
    machine = Machine(setup.machine)
    speeds, _ = interleaved(ways(setup, machine, [OURS]), setup, machine, count=1, rounds=args.rounds)
    return speeds[OURS].per_second, f"{setup.name}, batch {setup.batch}, {hardware(machine)}, measured now, step alone"


class Efficiency(NamedTuple):
    """Speed of several processes over their number times that of one.

    Attributes:
        value: 1 where nothing is known.
        processes: for which it holds; None: for all that are asked about.
        source: where it comes from.
    """

    value: float
    processes: int | None
    source: str


def measured_efficiency(args: argparse.Namespace) -> Efficiency:
    """Return what is known about several processes."""
    if args.efficiency is not None:
        if args.efficiency <= 0:
            raise SsferError(f"expected an --efficiency above 0, e.g. 0.9, found {args.efficiency}")
        return Efficiency(args.efficiency, None, f"{100 * args.efficiency:.0f}%, given by --efficiency")
    if args.scaling is not None:
        found = read_figures(args.scaling)
        if "efficiency" not in found:
            raise SsferError(f"{args.scaling} has no efficiency; expected a file written by --json of scaling")
        value, processes = float(found["efficiency"]), int(found["processes"])
        return Efficiency(value, processes, f"{100 * value:.0f}%, measured with {processes} on {found['hardware']}")
    return Efficiency(1.0, 1, "not measured")


def main() -> None:
    """Work out and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, batch=16)
    parser.add_argument("--rate", type=float, help="measured images a second of one process")
    parser.add_argument("--figures", type=Path, help="JSON of mae_step or pretrain_feed")
    parser.add_argument("--efficiency", type=float, help="measured, of several processes")
    parser.add_argument("--scaling", type=Path, help="JSON of scaling")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 8], help="GPUs (default 1 8)")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"in the corpus (default {IMAGES})")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"(default {EPOCHS})")
    parser.add_argument("--rounds", type=int, default=3, help="when it measures (default 3)")
    args = parser.parse_args()
    if min(args.processes) < 1:
        raise SsferError(f"expected --processes of at least 1, found {min(args.processes)}")
    efficiency = measured_efficiency(args)
    rate, source = measured_rate(args)
    rows, found = [], []
    for n in args.processes:
        spent = hours(args.images, args.epochs, rate, n, efficiency.value)
        bound = n > 1 and efficiency.processes not in (None, n)
        rows.append([str(n), f"{'at least ' if bound else ''}{spent:.1f}", f"{spent / 24:.1f}"])
        found.append({"processes": n, "hours": spent, "lower_bound": bound})
    print(f"{args.images:,} images x {args.epochs} epochs at {rate:.2f} images/s of one process ({source});")
    print(f"efficiency of several processes: {efficiency.source}\n")
    print_table(["processes", "hours", "days"], rows)
    if args.json is not None:
        about: dict[str, Any] = {"images_per_second": rate, "source": source, "efficiency": efficiency._asdict()}
        write_json(args.json, {**about, "images": args.images, "epochs": args.epochs, "estimates": found})


if __name__ == "__main__":
    stage_main("pretrain_hours", main)
