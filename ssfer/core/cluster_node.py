"""What runs in the processes of a Ray cluster's nodes, for `ssfer.core.cluster`."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ssfer.core import registry as registry  # what a user's own file defines can then be unpickled
from ssfer.core.errors import SsferError
from ssfer.core.process import set_environment

# What decides the bytes of results, beside ssfer itself; Ray compares the versions of Python.
_PACKAGES = (
    "torch", "torchvision", "numpy", "pillow", "opencv-python-headless", "simplejpeg", "imagehash", "pyarrow",
    "facenet-pytorch", "retinaface-pytorch", "timm", "accelerate", "safetensors",
)  # fmt: skip


@dataclass(frozen=True)
class Packed:
    """An object of the driver.

    Attributes:
        data: pickled.
        arrays: the memory of its arrays, which it keeps.
        folder: in which the driver runs.
        software: of the driver.
    """

    data: bytes
    arrays: Sequence[np.ndarray]
    folder: str
    software: Mapping[str, str]

    def load(self) -> Any:
        """Return the object, and work in the driver's folder, where relative paths mean the same files.

        Raises:
            SsferError: this node has other packages, or does not have the folder or what the object needs.
        """
        set_environment()
        own = software()
        if other := [f"{k} {own[k]} instead of {v}" for k, v in self.software.items() if own[k] != v]:
            raise SsferError(
                f"node {node_address()} of the Ray cluster has other packages than the node that started the work "
                f"({', '.join(other)}), and its results could differ; install the same versions on all nodes"
            )
        try:
            os.chdir(self.folder)
            return pickle.loads(self.data, buffers=self.arrays)
        except (OSError, ImportError, SsferError) as error:
            raise SsferError(
                f"a node of the Ray cluster cannot work here ({node_address()}: {error}); every node must see the "
                f"folder {self.folder} with its raw data under the same path, and have the same ssfer installed"
            ) from error


@cache
def software() -> dict[str, str]:
    """Return versions of packages, and a hash of the package ssfer."""
    package = Path(__file__).parents[1]
    digest = sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return {"ssfer": digest.hexdigest()[:8], **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


class _Worker:
    """Global state of a worker process: the job that it works on."""

    job: Any = None
    work: Callable[[Any, Any], Any]
    shared: Any


def run(job: list[Any], task: bytes) -> Any:
    """Work on a task.

    Args:
        job: a reference to the packed function and what all its tasks share, which this process keeps.
        task: one of the job's, pickled.
    """
    import ray

    if _Worker.job != job[0]:
        work, shared = ray.get(job[0]).load()
        _Worker.work, _Worker.shared, _Worker.job = staticmethod(work), shared, job[0]
    return _Worker.work(_Worker.shared, pickle.loads(task))


class Holder:
    """An actor: holds an object, which it builds on the first call; handles one call at a time."""

    def __init__(self, build: Packed) -> None:
        self._build, self._object = build, None

    def node(self) -> str:
        """Return the identifier of the node."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the object."""
        if self._object is None:
            self._object = self._build.load()()
        return getattr(self._object, method)(*args)


def node_address() -> str:
    """Return the address of the node that this process works on."""
    import ray

    return str(ray.util.get_node_ip_address())
