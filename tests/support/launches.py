"""Stages in real processes, one or several as torchrun starts them, for tests that kill and compare.

They are forked from a server that has imported everything, so that starting one takes milliseconds, not seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssfer.core.process import rank_and_world
from ssfer.train.step import Step

CONTEXT = multiprocessing.get_context("forkserver")
STAGES = [f"ssfer.stages.{name}" for name in ("pretrain", "finetune", "semisup")]
CONTEXT.set_forkserver_preload([*STAGES, "ssfer.faces.build", "ssfer.faces.detectors.mtcnn", "pytest"])


class Launch:
    """The processes of one launch; what they print goes to files in `root`."""

    def __init__(self, root: Path, work: Callable[..., None], *args: Any, world: int = 1) -> None:
        self.root, self.world = root, world
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.processes = [
            CONTEXT.Process(target=_process, args=(root, rank, world, port, work, args)) for rank in range(world)
        ]
        for process in self.processes:
            process.start()

    def wait(self, seconds: float = 120) -> list[int | None]:
        """Return the exit statuses, by rank; negative is the signal that ended a process."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(deadline - time.monotonic(), 0))
        statuses = [process.exitcode for process in self.processes]
        self.kill()
        return statuses

    def wait_for_step(self, stage: str, step: int) -> None:
        """Return when a snapshot of this step or a later one is there."""
        deadline = time.monotonic() + 120
        while steps_saved(self.root, stage) < step:
            assert all(p.is_alive() for p in self.processes), "the stage ended too early: " + self.errors(0)
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def errors(self, rank: int) -> str:
        """Return what a process wrote to stderr."""
        return (self.root / f"stderr-{rank}").read_text()

    def kill(self) -> None:
        """End what is left."""
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join()


def steps_saved(root: Path, stage: str) -> int:
    """Return the step of the newest snapshot, 0 if there is none."""
    names = [p.stem for p in (root / ".scratch" / stage).rglob("step-*.pt")]
    return max((int(n.removeprefix("step-")) for n in names), default=0)


def run_stage(name: str) -> None:
    """Work of a launch: run a stage as `python -m stages.<name>` does."""
    runpy.run_module(f"stages.{name}", run_name="__main__")


def run_stage_until(name: str, step: int, number: int = signal.SIGKILL, rank: int = 0) -> None:
    """Work of a launch: run a stage in which one process and what it started get a signal when a step begins."""
    set_lr = Step.set_lr

    def signaled(self: Step, at: int) -> float:
        if at == step and rank_and_world()[0] == rank:
            os.killpg(os.getpgrp(), number)
        return set_lr(self, at)

    Step.set_lr = signaled  # type: ignore[method-assign]
    run_stage(name)


def _process(root: Path, rank: int, world: int, port: int, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.setsid()
    os.environ |= {"DVC_ROOT": str(root), "SSFER_MLFLOW": "0"}
    if world > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.chdir(root)
    for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr")):
        file = os.open(root / f"{name}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream.fileno())
    work(*args)
