"""Whether a running average of the weights had enough steps for its decay.

An average with decay d starts as a copy, so after n steps d^n of it is still the copy. A fair average has at most
`START_SHARE` = exp(-3), 5 %, of that; as ln d is about d - 1, this takes 3 / (1 - d) steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ssfer.core.registry import section_name
from ssfer.methods.facemix import MAIN_ARM
from ssfer.methods.registry import METHODS
from ssfer.report.results import Results

START_SHARE = math.exp(-3)


def short_averages(results: Results) -> Iterator[str]:
    """Yield a sentence for each average of the run that still has more than 5 % of the weights that it began with."""
    for name, key, decay, steps in _averages(results):
        share = decay**steps
        if steps and share > START_SHARE:
            yield (
                f"Too few steps for the decay of {name} ({key} {decay:g}): {steps:,}, where about "
                f"{3 / (1 - decay):,.0f} are needed, 3 / (1 - decay); {share:.0%} of it are still the weights it began "
                "with."
                if decay < 1
                else f"With {key} 1, {name} never moves from the weights it began with."
            )


def _averages(results: Results) -> Iterator[tuple[str, str, float, int]]:
    """Yield name, setting, decay and number of steps of the averages that the settings ask for."""
    params, arm = results.params, MAIN_ARM[results.params.finetune.facemix.mode]
    tuning = results.parts["finetune"].get(arm, {})
    if params.finetune.ema_decay is not None and tuning:
        steps = finetune_steps(results.split["labeled"], params.finetune.batch_size, tuning["epochs"])
        yield "the average of fine-tuning", "finetune.ema_decay", params.finetune.ema_decay, steps
    part, method = results.parts["semisup"], params.semisup.method
    network = METHODS[method].running_average
    if network == "average":
        decay, key = params.semisup.average, "semisup.average"
    else:
        decay, key = getattr(params.method_settings, "ema_decay", None), f"methods.{section_name(method)}.ema_decay"
    if decay is not None and part:
        images = results.split["unlabeled"] + part.get("extra", {}).get("faces", 0)
        steps = semisup_steps(images, params.semisup.batch_size * params.semisup.uratio, part["epochs"])
        yield results.title(network).removeprefix("+ "), key, decay, steps


def finetune_steps(labeled: int, batch: int, epochs: int) -> int:
    """Return the steps of fine-tuning, whose batches are even and not larger than the labeled part."""
    batch = min(batch, labeled // 2 * 2)
    return labeled // batch * epochs if batch else 0


def semisup_steps(unlabeled: int, batch: int, epochs: int) -> int:
    """Return the steps of stage semisup, whose epochs are passes over the unlabeled faces in whole batches."""
    return unlabeled // min(batch, unlabeled) * epochs if unlabeled else 0
