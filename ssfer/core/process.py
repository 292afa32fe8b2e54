"""This process: its rank among those of a launch, its CPUs, the signals it gets, how a stage ends on an error."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

from filelock import FileLock, Timeout

from ssfer.core.errors import SsferError, printable
from ssfer.core.failures import sentence
from ssfer.core.own_code import failure_in
from ssfer.core.places import STAGES

PARALLEL_STAGES = ("pretrain", "finetune", "semisup")  # that may be started by torchrun
CONTINUES = "finished work is kept, the same command continues"
QUOTA_FILE = Path(
    "/sys/fs/cgroup/cpu.max"
)  # of Linux's control groups, version 2: microseconds a period, and the period
LAST_WORD_SECONDS = 3.0  # time that launchers get to end the other processes before these print errors of their own
# No telemetry, no downloads, no windows; and OpenMP threads that soon sleep while they wait. Threads that spin for long
# made a step of training 6 times slower on two busy cores (55 images/s against 325), because they occupy the core that
# the other process needs before they can go on. Threads that sleep at once make the steps of a small network a third
# slower on idle cores (549 images/s of the small demo's pretraining against 821), as waking takes longer than work.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "10000",  # less than a millisecond
}


def set_environment() -> None:
    """Set the variables that libraries read on import, unless the user has. Only programs call it, no import does."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def available_cpus() -> int:
    """Return how many CPUs this process may use: those it is bound to, or a container's share if that is smaller."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA_FILE.read_text().split()
        return bound if quota == "max" else max(min(bound, math.ceil(int(quota) / int(period))), 1)
    except (OSError, ValueError):  # no control groups, or none of version 2
        return bound


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of processes, as torchrun sets them; (0, 1) without torchrun."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def local_rank_and_world() -> tuple[int, int]:
    """Return rank and number as `rank_and_world` does, counting only the launch's processes on this machine."""
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def cpus_per_process() -> int:
    """Return this machine's CPUs divided by the launch's processes on it, at least one."""
    return max(available_cpus() // local_rank_and_world()[1], 1)


def worker_count(setting: Literal["auto"] | int) -> int:
    """Return the number of processes for `machine.num_workers`; auto is one per CPU of this process."""
    return cpus_per_process() if setting == "auto" else setting


class Preempted(BaseException):
    """Training stopped because a signal asked for it, with a snapshot written; not an error, so no `except` eats it.

    Args:
        message: where it stopped and how to go on.
        number: of the signal; the exit status is 128 + number, as shells have it.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


class StopRequest:
    """Context manager that notes SIGTERM, SIGUSR1 and Ctrl-C instead of ending; a second Ctrl-C ends at once.

    Signals can only be caught in the main thread; elsewhere nothing changes. After `Preempted` the signals stay
    caught, because launchers repeat them while the process is already on its way out.

    Attributes:
        number: of the signal that came, None before.
    """

    SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not Preempted:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


def stage_main(name: str, main: Callable[[], None], again: str = "") -> None:
    """Run a stage or command; an SsferError becomes one sentence on stderr and exit status 2.

    So do failures of the machine (`ssfer.core.failures`), because the user can fix them. Of several processes the first
    prints; launchers end the others as soon as it is gone. A second run of the same stage in this folder is refused.

    Args:
        name: of the stage or command.
        main: what it does.
        again: said after an interruption or a failure of the machine: how to go on. Stages continue by themselves.
    """
    again = f"; {CONTINUES if name in STAGES else again}".removesuffix("; ")
    try:
        if name in STAGES and name not in PARALLEL_STAGES and rank_and_world()[1] > 1:
            raise SsferError(f"stage {name} runs in one process; start it without torchrun")
        with _only_run(name), _place_in_the_pipeline(name):
            main()
    except SsferError as error:
        sys.exit(_fail(name, str(error)))
    except Preempted as stop:
        if rank_and_world()[0] == 0:
            print(f"{name}: {stop}", file=sys.stderr, flush=True)
        sys.exit(stop.status)
    except KeyboardInterrupt:
        print(f"{name}: interrupted{again}", file=sys.stderr, flush=True)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        own = failure_in(error)
        # The advice of `sentence` on missing files is about ssfer's own.
        told = own if own and isinstance(error, OSError) else sentence(error) or own
        if told is None:
            raise
        sys.exit(_fail(name, told + again))


def run_to_end(command: Sequence[str], env: Mapping[str, str] | None = None) -> int:
    """Run a command and return its status.

    Raises:
        KeyboardInterrupt: after Ctrl-C, which the terminal also sends to the command; only when that has ended.
    """
    interrupted: list[int] = []
    with subprocess.Popen(command, env=env) as process:
        before = signal.signal(signal.SIGINT, lambda number, _: interrupted.append(number))
        try:
            status = process.wait()
        finally:
            signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt
    return status


@contextmanager
def _only_run(name: str) -> Iterator[None]:
    """Hold the lock of a stage in this folder; the system frees it when the process ends, however it does.

    Raises:
        SsferError: another process holds it.
    """
    if name not in STAGES or rank_and_world()[0]:
        yield
        return
    path = Path(".scratch") / f"{name}.lock"
    path.parent.mkdir(exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise SsferError(f"another process is running stage {name} in this folder; wait for it or end it") from error
    try:
        yield
    finally:
        lock.release()


def _place_in_the_pipeline(name: str) -> AbstractContextManager[None]:
    """Return what prints a stage's place in the pipeline; nothing for a stage run by hand, and for other commands."""
    if os.environ.get("DVC_STAGE", "").rpartition(":")[2] != name or rank_and_world()[0]:
        return nullcontext()
    from ssfer.core.stage_times import stage_progress

    return stage_progress(name)


def _fail(name: str, message: str) -> int:
    rank = rank_and_world()[0]
    if rank:
        time.sleep(LAST_WORD_SECONDS)  # a launcher ends this process before that if the first one failed too
    where = f"{name}{f' (process {rank})' if rank else ''}"
    print(f"{where}: error: {printable(message)}", file=sys.stderr, flush=True)
    return 2
