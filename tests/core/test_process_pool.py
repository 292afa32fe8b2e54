"""Tasks in worker processes: ordered results, errors of tasks, dead workers, Ctrl-C and death of the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.core.process_pool import map_in_processes, map_in_threads

SCRIPT = """
import sys
from pathlib import Path
from tests.core.test_process_pool import sleep
from ssfer.core.process_pool import map_in_processes
if __name__ == "__main__":
    list(map_in_processes(sleep, sys.argv[1], range(4), 2, ""))
"""


def double(shared: dict[str, int], task: int) -> tuple[int, int]:
    shared["calls"] += 1
    time.sleep(600 if task == 300 else 0.02 * (task == 0))
    if task == 100:
        raise SsferError("task 100 has no file")
    if task == 200:
        os._exit(9)
    return 2 * task, shared["calls"]


def sleep(folder: str, task: int) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


def run(tasks: list[int], workers: int) -> Iterator[tuple[int, int]]:
    return map_in_processes(double, {"calls": 0}, tasks, workers, "run again with fewer workers")


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_the_order_of_the_tasks_and_state_is_kept(workers: int) -> None:
    results = list(run(list(range(12)), workers))
    assert [value for value, _ in results] == list(range(0, 24, 2))
    assert max(calls for _, calls in results) >= 6, "the shared object lives as long as its worker"
    assert list(run([], workers)) == []


def test_threads_work_at_once_in_order_and_read_no_further_than_they_must() -> None:
    both, read = threading.Barrier(2, timeout=10), []

    def tasks() -> Iterator[int]:
        for task in range(12):
            read.append(task)
            yield task

    def work(task: int) -> int:
        if task < 2:
            both.wait()  # passes only if two tasks run at the same time
        time.sleep(0.02 * (task == 0))
        return 2 * task

    results = map_in_threads(work, tasks(), 2)
    assert next(results) == 0 and len(read) <= 6
    assert list(results) == list(range(2, 24, 2))
    assert list(map_in_threads(work, iter([3]), 1)) == [6]


def test_error_in_a_thread_is_raised_and_waiting_tasks_are_not_started() -> None:
    started = []

    def work(task: int) -> None:
        started.append(task)
        time.sleep(0.05)
        if task == 0:
            raise SsferError("task 0 has no file")

    with pytest.raises(SsferError, match="^task 0 has no file$"):
        list(map_in_threads(work, range(100), 2))
    assert len(started) < 8


@pytest.mark.parametrize("workers", [1, 2])
def test_error_of_a_task_is_raised(workers: int) -> None:
    with pytest.raises(SsferError, match="^task 100 has no file$"):
        list(run([0, 100, 1], workers))


def test_dead_worker_is_one_sentence() -> None:
    with pytest.raises(SsferError, match="a worker process died.*; run again with fewer workers$"):
        list(run([200, 1], 2))


def test_abandoned_iteration_does_not_wait_for_the_workers() -> None:
    results = run([0, 300, 300, 300, 300, 300], 2)
    assert next(results) == (0, 1)
    results.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(number: int, tmp_path: Path, root: Path) -> None:
    """Ctrl-C reaches the whole process group; a killed parent cannot stop its workers."""
    (tmp_path / "main.py").write_text(SCRIPT)
    folder = tmp_path / "pids"
    folder.mkdir()
    command = [sys.executable, str(tmp_path / "main.py"), str(folder)]
    parent = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in background
    )
    deadline = time.monotonic() + 300
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = [path.name for path in folder.iterdir()]
    assert len(workers) == 2
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)
    else:
        parent.send_signal(number)
    _, error = parent.communicate(timeout=300)
    assert error.decode().count("Traceback") <= 1, "workers say nothing"
    while any(Path(f"/proc/{pid}/exe").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in workers)
