"""What runs in the processes of a Ray cluster's nodes, for `ssfer.core.cluster`."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

from ssfer.core import registry as registry  # what a user's own file defines can then be unpickled
from ssfer.core.errors import SsferError
from ssfer.core.process import set_environment


class _Worker:
    """Global state of a worker process: the job that it works on."""

    job: Any = None
    work: Callable[[Any, Any], Any]
    shared: Any


def run(job: list[Any], folder: str, task: Any) -> Any:
    """Work on a task.

    Args:
        job: a reference to the pickled function and what all its tasks share, which this process keeps.
        folder: in which the driver runs.
        task: one of the job's.
    """
    import ray

    if _Worker.job != job[0]:
        work, shared = _unpickled(ray.get(job[0]), folder)
        _Worker.work, _Worker.shared, _Worker.job = staticmethod(work), shared, job[0]
    return _Worker.work(_Worker.shared, task)


class Holder:
    """An actor: holds an object, which it builds on the first call; handles one call at a time."""

    def __init__(self, folder: str, build: bytes) -> None:
        self._folder, self._build, self._object = folder, build, None

    def node(self) -> str:
        """Return the identifier of the node."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the object."""
        if self._object is None:
            self._object = _unpickled(self._build, self._folder)()
        return getattr(self._object, method)(*args)


def _unpickled(data: bytes, folder: str) -> Any:
    """Return an object of the driver, in the driver's folder, where relative paths mean the same files.

    Raises:
        SsferError: this node does not have the folder, or what the object needs.
    """
    set_environment()
    try:
        os.chdir(folder)
        return pickle.loads(data)
    except (OSError, ImportError, SsferError) as error:
        raise SsferError(
            f"a node of the Ray cluster cannot work here ({node_address()}: {error}); every node must see the folder "
            f"{folder} with its raw data under the same path, and have the same ssfer installed"
        ) from error


def node_address() -> str:
    """Return the address of the node that this process works on."""
    import ray

    return str(ray.util.get_node_ip_address())
