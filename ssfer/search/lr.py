"""Search of the three learning rates of fine-tuning by Grey Wolf Optimizer (SSFER specification 12, table 16)."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssfer.config.profiles import encode
from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.files import write_json
from ssfer.core.places import METRICS
from ssfer.core.process import rank_and_world
from ssfer.search.candidates import RATES, Candidates, Rates, prepare, score
from ssfer.search.grey_wolf import GreyWolf, encircling
from ssfer.stages.finetune import epochs_and_batch
from ssfer.train.checkpoints import Scratch
from ssfer.train.device import Machine

RESULT = METRICS / "search" / "lr.json"
Bounds = Mapping[str, tuple[float, float]]
BOUNDS: Bounds = {"lr_max": (5e-5, 5e-4), "lr_min": (1e-6, 5e-5), "lr_warm": (1e-6, 1e-4)}


@dataclass(frozen=True)
class Settings:
    """Settings of a search; defaults as in section 12 of the specification.

    Attributes:
        holdout: share of the labeled images to score on.
        epochs: of each candidate; None: as many as stage finetune trains.
        bounds: learning rate -> (lowest, highest).
    """

    wolves: int = 8
    iterations: int = 10
    seed: int = 2024
    holdout: float = 0.2
    epochs: int | None = None
    bounds: Bounds = field(default_factory=lambda: dict(BOUNDS))


def rates_at(point: Sequence[float], bounds: Bounds) -> dict[str, float]:
    """Return the learning rates of a point of the unit cube, log-uniform, rounded to the six printed digits."""
    rates = {}
    for name, x in zip(RATES, point, strict=True):
        low, high = bounds[name]
        rates[name] = min(max(float(f"{low * (high / low) ** x:.6g}"), low), high)
    return rates


def run_search(params: Params, settings: Settings) -> dict[str, Any]:
    """Search, write metrics/search/lr.json, and return its content.

    Raises:
        SsferError: bad settings or inputs; training diverged at all rates; several processes.
    """
    _check(settings)
    trial = prepare(params, settings.holdout, settings.seed, settings.epochs)
    pack = GreyWolf(settings.wolves, settings.iterations, len(RATES), settings.seed)
    history: list[dict[str, Any]] = []
    with Scratch("search", trial.identity) as scratch:
        candidates = Candidates(trial, Machine(params.machine), scratch)
        present = candidates.evaluate({name: getattr(params.finetune, name) for name in RATES})
        while not pack.done:
            results = [candidates.evaluate(rates_at(point, settings.bounds)) for point in pack.ask()]
            history.append({"a": encircling(pack.iteration, pack.iterations), "candidates": results})
            pack.tell([score(result) for result in results])
            best = _best(history)
            where = f"iteration {pack.iteration} of {pack.iterations}"
            print(f"search lr: {where}, best {described(best)}", file=sys.stderr)
        if best["accuracy"] is None:
            raise SsferError("training diverged at every candidate; lower the bounds of lr_max")
        result = {
            "wolves": settings.wolves,
            "iterations": settings.iterations,
            "seed": settings.seed,
            "bounds": {name: list(pair) for name, pair in settings.bounds.items()},
            "epochs": trial.params.finetune.epochs,
            "batch_size": epochs_and_batch(trial.params.finetune, len(trial.kept))[1],
            "holdout": {
                "share": settings.holdout,
                "images": len(trial.held),
                "trained_on": len(trial.kept),
                "hash": trial.held_hash,
            },
            "split": trial.split_hash,
            "present": present,
            "best": best,
            "history": history,
        }
        write_json(RESULT, {"search": result})
        scratch.discard()
    return result


def _best(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = max((c for row in history for c in row["candidates"]), key=score)  # the first of equals
    return found


def _check(settings: Settings) -> None:
    if rank_and_world()[1] > 1:
        raise SsferError("ssfer search runs in one process; start it without torchrun")
    if not 0 < settings.holdout < 1:
        raise SsferError(f"--holdout is a share between 0 and 1, found {settings.holdout:g}")
    for name, (low, high) in settings.bounds.items():
        if not 0 < low < high < 1:
            raise SsferError(
                f"--{name.replace('_', '-')} takes a lower and a higher bound between 0 and 1, found {low:g} {high:g}"
            )


def described(result: Mapping[str, Any]) -> str:
    """Return a candidate in words."""
    rates = ", ".join(f"{name} {encode(result['rates'][name])}" for name in RATES)
    return f"{'diverged' if result['accuracy'] is None else format(result['accuracy'], '.4f')} at {rates}"


def command(rates: Rates) -> str:
    """Return the command line that trains with these rates."""
    return "ssfer run " + " ".join(f"-S finetune.{name}={encode(rates[name])}" for name in RATES)
