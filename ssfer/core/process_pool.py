"""Work on tasks in spawned worker processes or in threads, with results in the order of the tasks."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from ssfer.core import registry as registry  # workers can then unpickle what a user's own file defines
from ssfer.core.errors import SsferError

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")


def map_in_processes(
    work: Callable[[Shared, Task], Result], shared: Shared, tasks: Iterable[Task], workers: int, advice: str
) -> Iterator[Result]:
    """Yield `work(shared, task)` for every task, in order; the caller advances its progress with each result.

    Processes are spawned, not forked: torch, OpenCV, Warp and CUDA do not survive a fork. At most two tasks per worker
    wait, so a long list of large tasks takes no memory. An error in a task cancels the waiting ones and is raised here.
    Ctrl-C, an abandoned iteration and the death of this process end the workers at once, in the middle of their tasks.

    Args:
        work: a function at the top level of a module.
        shared: what every task needs; pickled once per worker. `work` builds expensive objects itself and caches them.
        tasks: picklable; an iterator is read as far as tasks are handed out.
        workers: 0 and 1 run the tasks in this process.
        advice: what the user should do if a worker is killed, for the error message.

    Raises:
        SsferError: a worker process died.
    """
    if isinstance(tasks, Sized):
        workers = min(workers, len(tasks))
    if workers <= 1:
        yield from (work(shared, task) for task in tasks)
        return
    # Nothing is ever sent: the workers see the end of the pipe when this side closes or dies.
    alive, held = multiprocessing.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (alive, work, shared))
    try:
        yield from _in_order(pool, _run, tasks, 2 * workers)
    except BrokenProcessPool as error:
        raise SsferError(f"a worker process died, most likely for lack of memory; {advice}") from error
    except Exception:
        raise  # running tasks may end and clean up
    except BaseException:
        held.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        held.close()
        alive.close()


def map_in_threads(work: Callable[[Task], Result], tasks: Iterable[Task], threads: int) -> Iterator[Result]:
    """Yield `work(task)` for every task, in order, as `map_in_processes` does, for work that releases Python's lock.

    Threads start at once and share what is loaded. An error, Ctrl-C or an abandoned iteration waits for running tasks.
    """
    if threads <= 1:
        yield from map(work, tasks)
        return
    pool = ThreadPoolExecutor(threads)
    try:
        yield from _in_order(pool, work, tasks, 2 * threads)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(pool: Executor, work: Callable[[Task], Result], tasks: Iterable[Task], most: int) -> Iterator[Result]:
    """Yield the results of the tasks, of which at most `most` wait."""
    waiting: deque[Future[Result]] = deque()
    for task in tasks:
        waiting.append(pool.submit(work, task))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class _Worker:
    """Global state of a worker process; set once, when it starts."""

    work: Callable[[Any, Any], Any]
    shared: Any


def _start(alive: Connection, work: Callable[[Any, Any], Any], shared: Any) -> None:
    end_with_parent(alive)
    _Worker.work, _Worker.shared = staticmethod(work), shared


def end_with_parent(alive: Connection) -> None:
    """Leave Ctrl-C to the parent, and end this process when the parent has closed the other end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(alive,), daemon=True).start()


def _exit_with_parent(alive: Connection) -> None:
    alive.poll(None)  # returns when the other end is closed
    os._exit(1)


def _run(task: Any) -> Any:
    return _Worker.work(_Worker.shared, task)
