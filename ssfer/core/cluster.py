"""Work on a Ray cluster: run tasks on its nodes, hold objects on its GPUs; `ssfer.core.cluster_start` joins it.

Ray places tasks, repeats those whose process or node is lost, and moves results. No task's content is known here.
"""

from __future__ import annotations

import pickle
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ssfer.core import cluster_node
from ssfer.core.cluster_node import Packed
from ssfer.core.errors import SsferError, shortened

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")

_RETRIES = 3  # of a task whose process or node is lost
_PAUSES = (0, 1, 5, 20, 60, 120)  # seconds before each try of a call; a lost actor needs a minute to load torch again
_ADVICE = "give it more memory or fewer CPUs (ray start --num-cpus), and run again: finished parts are kept"
_NO_ROOM = (
    "Ray's shared memory is too small for what each node has to hold; give it more (ray start --object-store-memory, "
    "docker run --shm-size), and run again"
)


class Cluster:
    """A Ray cluster that this process has joined.

    Attributes:
        nodes, cpus, gpus: how many there were when it was joined; nodes may come and go.
        number, threads: see `ssfer.core.workers.Workers`.
    """

    threads = 1

    def __init__(self, nodes: int, cpus: int, gpus: int) -> None:
        self.nodes, self.cpus, self.gpus = nodes, cpus, gpus

    @property
    def number(self) -> int:
        """See `ssfer.core.workers.Workers.number`."""
        return self.cpus

    def __str__(self) -> str:
        gpus = f", {self.gpus} GPU{'s' * (self.gpus > 1)}" if self.gpus else ""
        return f"Ray, {self.nodes} node{'s' * (self.nodes > 1)}, {self.cpus} CPU{'s' * (self.cpus > 1)}{gpus}"

    def device(self, setting: str) -> str:
        """Return the kind of device that computes, by `machine.device`: cpu or cuda.

        Raises:
            SsferError: a GPU by number, an Apple GPU, or a GPU in a cluster without one.
        """
        check_setting(setting)
        if setting == "cuda" and not self.gpus:
            raise SsferError("machine.device is 'cuda' but the Ray cluster has no GPU; set it to auto or cpu")
        return "cuda" if self.gpus and setting != "cpu" else "cpu"

    def map(
        self, work: Callable[[Shared, Task], Result], shared: Shared, tasks: Iterable[Task], gpu: bool = False
    ) -> Iterator[tuple[Task, Result]]:
        """Yield every task with `work(shared, task)`, in the order in which they end.

        At most two tasks per CPU are under way. A task whose process or node is lost is done again. An error in a task
        cancels the others and is raised here.

        Args:
            work: a function at the top level of a module.
            shared: what every task needs; picklable. Each worker process gets it once and keeps it; its arrays lie once
                in each node's shared memory, read-only. `work` builds expensive objects itself and caches them.
            tasks: picklable.
            gpu: each task has a GPU of its own.

        Raises:
            SsferError: a task was lost again and again, or a node cannot work in this folder.
        """
        import ray

        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps((work, shared), protocol=5, buffer_callback=buffers.append)
        arrays = [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]
        packed = Packed(pickled, arrays, str(Path.cwd()), cluster_node.software())
        # A task on a GPU asks for no CPU: on a node without CPUs it would wait forever.
        run = ray.remote(num_cpus=int(not gpu), num_gpus=int(gpu), max_retries=_RETRIES)(cluster_node.run)
        waiting = iter(tasks)
        pending: dict[Any, Task] = {}
        try:
            job = ray.put(packed)
            while True:
                while len(pending) < 2 * self.cpus and (task := next(waiting, None)) is not None:
                    pending[run.remote([job], pickle.dumps(task))] = task
                if not pending:
                    return
                (done,), _ = ray.wait(list(pending))
                yield pending.pop(done), _result(done)
        except ray.exceptions.RaySystemError as error:  # it could not even be told to a node
            raise SsferError(
                f"a node of the Ray cluster cannot do the work ({first_line(error)}); install the same ssfer and the "
                "same packages on all nodes"
            ) from error
        except ray.exceptions.ObjectStoreFullError as error:
            raise SsferError(_NO_ROOM) from error
        except ray.exceptions.RayError as error:
            raise SsferError(
                f"a worker process or a node of the Ray cluster was lost {_RETRIES + 1} times in the same task "
                f"({type(error).__name__}), most likely for lack of memory; {_ADVICE}"
            ) from error
        finally:
            for left in pending:
                ray.cancel(left, force=True)

    @contextmanager
    def held(self, build: Callable[[], Any], number: int) -> Iterator[Held]:
        """Yield an object of which each of `number` GPUs holds one, until the end of the block.

        Args:
            build: picklable; called in the process that holds the object, on first use.
            number: of GPUs.
        """
        import ray

        kind: Any = ray.remote(num_gpus=1, num_cpus=0, max_restarts=-1, max_task_retries=0)(cluster_node.Holder)
        packed = Packed(pickle.dumps(build), [], str(Path.cwd()), cluster_node.software())
        actors = [kind.remote(packed) for _ in range(number)]
        try:
            try:
                held = Held([(actor, ray.get(actor.node.remote())) for actor in actors])
            except ray.exceptions.RayError as error:
                raise SsferError(
                    f"a process on a GPU of the Ray cluster did not start ({first_line(error)}); {_ADVICE}"
                ) from error
            yield held
        finally:
            for actor in actors:
                ray.kill(actor)


class Held:
    """One of several equal objects on the cluster's GPUs; picklable.

    Args:
        actors: with the nodes on which they started.
    """

    def __init__(self, actors: list[tuple[Any, str]]) -> None:
        self._actors = actors

    def call(self, method: str, *args: Any) -> Any:
        """Return what a method of one of the objects returns, if possible of one on this node.

        A call to an object that is lost goes to the next one, until a lost one is there again.

        Raises:
            SsferError: each try ended with the loss of the object.
        """
        import ray

        here = ray.get_runtime_context().get_node_id()
        order = sorted(random.sample(self._actors, len(self._actors)), key=lambda actor: actor[1] != here)
        for pause, (actor, _) in zip(_PAUSES, cycle(order), strict=False):
            time.sleep(pause)
            try:
                return _result(actor.call.remote(method, *args))
            except ray.exceptions.RayActorError as error:
                lost = error
        raise SsferError(
            f"a process on a GPU of the Ray cluster was lost {len(_PAUSES)} times in the same call, "
            f"most likely for lack of memory; {_ADVICE}"
        ) from lost


def check_setting(device: str) -> None:
    """Raise SsferError if `machine.device` is not one for a cluster."""
    if device not in ("auto", "cpu", "cuda"):
        raise SsferError(
            f"machine.device is '{device}', but machine.cluster is ray and its nodes choose among their own GPUs; "
            "expected auto, cpu or cuda"
        )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its kind."""
    return shortened((str(error).strip().splitlines() or [type(error).__name__])[0].rstrip("."))


def _result(reference: Any) -> Any:
    """Return a result of Ray; what a task raised is raised as it was."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from error
