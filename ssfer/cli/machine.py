"""`ssfer doctor --machine`: what computes here, what slows it down, and how fast training steps are."""

from __future__ import annotations

from ssfer.config.schema import Params
from ssfer.core.device import device_errors
from ssfer.stages.trial import stage_trials
from ssfer.train.device import Machine
from ssfer.train.machine_facts import facts

STEPS = 20


def show_machine(params: Params) -> int:
    """Print the report and return the exit status: 0, or 1 if something should be better.

    Raises:
        SsferError: `machine` asks for what is not here, a method that cannot be built, a GPU that fails.
    """
    machine = Machine(params.machine)
    rows = [("computes", str(machine.compute)), *facts(machine)]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}", flush=True)
    for remark in machine.compute.remarks:
        print(remark)
    print(f"\n{STEPS} training steps of each stage, with the settings of params.yaml, on noise:")
    with device_errors():
        for name, trial in stage_trials(params, machine, STEPS):
            waits = "" if trial.waits is None else f", {trial.waits:.1f} waits for the GPU a step"
            print(f"  {name:<24}{trial.images_per_second:>9,.0f} images/s{waits}", flush=True)
    return 1 if machine.compute.remarks else 0
