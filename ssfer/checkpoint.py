"""Resumable training state: a folder of snapshots outside DVC, written atomically, read without unpickling code.

DVC deletes a stage's outputs before it runs, so half-done work lives in .scratch/<stage>/<fingerprint>/<run>. The
fingerprint covers everything that shapes the result: another setting, input or code starts afresh.
"""

from __future__ import annotations

import io
import logging
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from filelock import FileLock, Timeout

from ssfer.errors import SsferError
from ssfer.runtime import code_fingerprint, scratch_dir, sha256_json, write_bytes

log = logging.getLogger(__name__)
KEEP = 2  # a torn newest file falls back to the one before


class Scratch:
    """The locked scratch folder of one stage and one identity; a context manager.

    Args:
        stage: name of the stage.
        identity: JSON-able; every param that changes the result and the fingerprints of the inputs.

    Raises:
        SsferError: another process holds the folder.
    """

    def __init__(self, stage: str, identity: Mapping[str, Any]) -> None:
        fingerprint = sha256_json({"identity": identity, "code": code_fingerprint()})[:16]
        self.stage, self.folder = stage, scratch_dir(stage, fingerprint)
        self._lock = FileLock(self.folder / "lock")

    def __enter__(self) -> Scratch:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise SsferError(
                f"another process is running stage {self.stage} with the same settings; wait for it or end it"
            ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._lock.release()

    def checkpoints(self, run: str) -> Checkpoints:
        """Return the snapshots of one training run within the stage."""
        return Checkpoints(self.folder / run)

    def discard(self) -> None:
        """Delete everything but the lock: the stage's outputs are complete."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)


class Checkpoints:
    """Snapshots of one run, named by step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write a snapshot of tensors and plain values, then drop all but the newest `KEEP`."""
        buffer = io.BytesIO()
        torch.save({"step": step, **state}, buffer)
        path = self.folder / f"step-{step:09d}.pt"
        write_bytes(path, buffer.getvalue())
        paths = self._paths()
        here = paths.index(path)
        # Snapshots of later steps are those that `load` could not read; counted as newest they would push out this one.
        for stale in paths[: max(here + 1 - KEEP, 0)] + paths[here + 1 :]:
            stale.unlink()
        return path

    def load(self) -> dict[str, Any] | None:
        """Return the newest readable snapshot, or None."""
        for path in reversed(self._paths()):
            try:
                with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums it writes
                    if (member := archive.testzip()) is not None:
                        raise zipfile.BadZipFile(f"wrong checksum of {member}")
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                return state
            except Exception as error:  # damaged bytes raise nearly anything: KeyError, UnicodeDecodeError, ...
                log.warning("snapshot %s is damaged (%s); using the one before", path.name, type(error).__name__)
        return None

    def newest(self) -> str:
        """Return the newest snapshot's name, for messages."""
        paths = self._paths()
        return paths[-1].name if paths else "none"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt"))
