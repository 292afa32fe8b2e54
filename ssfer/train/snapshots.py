"""Snapshots written while training goes on: on a GPU the state is copied to the host and written by a thread."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from ssfer.train.checkpoints import Checkpoints


class Snapshots:
    """Writes the snapshots of a run, one at a time; a context manager that waits at its end for the last one.

    Args:
        checkpoints: where they go.
        in_background: whether a thread writes them. This needs a copy of the state in the host's memory, which a state
            on a GPU needs in any case.
    """

    def __init__(self, checkpoints: Checkpoints, in_background: bool) -> None:
        self._checkpoints = checkpoints
        self._pool = ThreadPoolExecutor(1, "snapshot") if in_background else None
        self._pending: Future[Path] | None = None

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a snapshot; in the background, start writing it as soon as the previous one is written.

        Raises:
            OSError: it, or the previous one, cannot be written.
        """
        if self._pool is None:
            self._checkpoints.save(step, state)
            return
        self.finish()
        self._pending = self._pool.submit(self._checkpoints.save, step, tree.tree_map(_copied, dict(state)))

    def finish(self) -> None:
        """Wait until the last snapshot is written.

        Raises:
            OSError: it cannot be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> Snapshots:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        if kind is None:
            self.finish()


def _copied(value: Any) -> Any:
    """Return a tensor's values as they are now, in the host's memory."""
    return torch.clone(value.detach()).cpu() if isinstance(value, Tensor) else value
